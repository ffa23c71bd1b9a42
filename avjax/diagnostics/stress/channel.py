"""What rooms, microphones, converters and lines do to sound."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from avjax.diagnostics.stress.ambience import Response, filtered
from avjax.diagnostics.stress.rows import Key, Level, named, sound, times, uniform, uniform_at
from avjax.diagnostics.stress.sound import mean_square
from avjax.streams import Stream

CHUNK = 2.0
"""Seconds between one dropout and the next."""
PACKET = 0.02
"""Seconds of sound in a packet."""
OVERSAMPLING = 4
GRAIN = 0.05
"""Seconds between the two taps of the pitch shift."""
EQUAL = 0.6
"""Reverberation time at which direct and reverberant energy are equal; ours."""
MIDDLE = 1000.0
"""Hz, middle of the stopped band; ours."""


@sound("low_pass", "Hz", (6000, 4000, 3000, 2000, 1000), least_rate=12_001.0)
def low_pass(stream: Stream, level: Level, key: Key) -> Stream:
    """Butterworth's gain of order 8, without delay: muffled.

    AVRobustBench (2025) begins at 8 kHz, which is Nyquist at 16 kHz: no filter, and in its code an error.
    """
    return _padded(stream, lambda f: jax.lax.rsqrt(1 + (f / level) ** 16))


@sound("band_stop", "octaves around 1 kHz", (1, 2, 3, 4, 5))
def band_stop(stream: Stream, level: Level, key: Key) -> Stream:
    """Nothing of so many octaves, with slopes of a sixth of an octave."""
    return _padded(
        stream, lambda f: jnp.clip((jnp.abs(jnp.log2(jnp.maximum(f, 1) / MIDDLE)) - level / 2) * 6 + 0.5, 0, 1)
    )


@sound("dropout", "share of the time", (0.1, 0.2, 0.3, 0.4, 0.5), "clip")
def dropout(stream: Stream, level: Level, key: Key) -> Stream:
    """One gap in every two seconds, of 200 ms at least and of so much of the time in all."""
    return stream.replace(values=jnp.where(gaps(stream, level, key), 0, stream.values))


@sound("packet_loss", "share of the packets", (0.02, 0.05, 0.1, 0.2, 0.3), "clip")
def packet_loss(stream: Stream, level: Level, key: Key) -> Stream:
    """Packets of 20 ms lost in bursts of two on average, and silence in their place.

    Gilbert's chain (1960): lost after lost with 1/2, after received with p / (2 (1 - p)), p the share.
    """
    size = max(1, round(PACKET * stream.rate))
    draws = uniform(key, "packets", (1 + -(-len(stream.values) // size),))

    def step(lost: Array, draw: Array) -> tuple[Array, Array]:
        lost = draw < jnp.where(lost, 0.5, level / (2 * (1 - level)))
        return lost, lost

    _, lost = jax.lax.scan(step, draws[0] < level, draws[1:])
    return stream.replace(values=jnp.where(jnp.repeat(lost, size)[: len(stream.values)], 0, stream.values))


@sound("reverberation", "seconds to fall by 60 dB", (0.3, 0.6, 0.9, 1.2, 2.0), "clip")
def reverberation(stream: Stream, level: Level, key: Key) -> Stream:
    """Convolution with a direct sound and decaying noise, at the level that the clip had.

    Ours: the reverberant energy is RT60 / 0.6 s of the direct, since in one room with one distance it grows with RT60
    (Sabine); 0 dB at 0.6 s.
    """
    samples = len(stream.values)
    seconds = jnp.arange(samples) / stream.rate
    decay = jnp.exp(-3 * math.log(10) * seconds / level)
    # The energy of the whole tail, also of what comes after the clip: a geometric series.
    energy = 1 / (1 - jnp.exp(-6 * math.log(10) / (level * stream.rate)))
    tail = jnp.sqrt(level / EQUAL / energy) * decay * jax.random.normal(named(key, "room"), seconds.shape)
    response = tail.at[0].add(1)
    transform = jnp.fft.rfft(stream.values, 2 * samples) * jnp.fft.rfft(response, 2 * samples)
    return _at_level_of(stream, jnp.fft.irfft(transform, 2 * samples)[:samples])


@sound("clipping", "percentile of |x| kept", (99, 95, 90, 80, 60))
def clipping(stream: Stream, level: Level, key: Key) -> Stream:
    """Cut off at a percentile of the clip's magnitudes."""
    sizes = jnp.sort(jnp.where(stream.valid, jnp.abs(stream.values), jnp.inf))
    # Rounding must not take 80 % of 800 for less than 640.
    place = jnp.floor(level * jnp.maximum(stream.valid.sum() - 1, 0) / 100 + 1e-3).astype(jnp.int32)
    limit = jnp.where(stream.valid.any(), sizes[place], 1)
    return stream.replace(values=jnp.clip(stream.values, -limit, limit))


@sound("gain", "dB", (-6, -12, -18, -24, -30))
def gain(stream: Stream, level: Level, key: Key) -> Stream:
    """Quieter."""
    return stream.replace(values=stream.values * 10 ** (level / 20))


@sound("quantisation", "bits", (8, 7, 6, 5, 4))
def quantisation(stream: Stream, level: Level, key: Key) -> Stream:
    """Rounded to 2^bits uniform steps over full scale, without companding."""
    steps = 2 ** (level - 1)
    return stream.replace(values=jnp.round(stream.values * steps) / steps)


@sound("resampling", "Hz", (12_000, 8000, 6000, 4000, 3000), least_rate=12_001.0)
def resampling(stream: Stream, level: Level, key: Key) -> Stream:
    """To a lower rate and back by straight lines, without a filter: what lies above its half folds.

    Ours; with an ideal filter it would be ``low_pass`` once more.
    """
    last = len(stream.values) - 1
    at = jnp.arange(last + 1) * (level / stream.rate)
    low, share = jnp.floor(at), at - jnp.floor(at)
    values = stream.values

    def picked(number: Float[Array, " S"]) -> Float32[Array, " S"]:
        return _lines(values, jnp.minimum(number * (stream.rate / level), last))

    return stream.replace(values=(1 - share) * picked(low) + share * picked(low + 1))


@sound("speed", "factor", (1.05, 1.1, 1.2, 1.3, 1.5), motion=("speed", lambda level, key: level))
def speed(stream: Stream, level: Level, key: Key) -> Stream:
    """Played faster, pitch and all; the end of the clip, which it no longer fills, is not valid."""
    samples = jnp.arange(len(stream.values))
    # Counted from the first sample that is there to the last.
    first = jnp.argmax(stream.valid)
    last = len(samples) - 1 - jnp.argmax(stream.valid[::-1])
    at = first + (samples - first) * level
    valid = (samples >= first) & (at <= last)
    return stream.replace(values=jnp.where(valid, _read(stream, at, 1 / level), 0), valid=valid)


@sound("pitch", "semitones", (1, 2, 3, 5, 7), "clip")
def pitch(stream: Stream, level: Level, key: Key) -> Stream:
    """Higher or lower, as the clip has it, at the same speed: two taps that move along a delay line and take turns."""
    ratio = 2 ** (level / 12 * jnp.where(uniform(key, "side") < 0.5, -1, 1))
    samples = jnp.arange(len(stream.values), dtype=jnp.float32)
    grain = GRAIN * stream.rate
    turn = samples * (1 - ratio) / grain
    mixed = jnp.zeros_like(samples)
    for half in (0.0, 0.5):
        phase = (turn + half) % 1
        # Each tap is silent where it jumps back; the two weights sum to 1.
        mixed += jnp.sin(jnp.pi * phase) ** 2 * _read(stream, samples - phase * grain, jnp.minimum(1, 1 / ratio))
    return _at_level_of(stream, mixed)


def gaps(stream: Stream, share: Level, key: Key) -> Bool[Array, " T"]:
    """Where a stream is interrupted: once in every two seconds, from a random moment on; the same moments in both."""
    at = times(stream) / CHUNK + uniform(key, "gap phase")
    chunk = jnp.floor(at)
    begin = uniform_at(key, "gap", chunk.astype(jnp.int32)) * (1 - share)
    return (at - chunk >= begin) & (at - chunk < begin + share)


def _padded(stream: Stream, response: Response) -> Stream:
    """Through a filter without delay; a tenth of a second of silence keeps the end from the beginning."""
    silence = max(1, round(0.1 * stream.rate))
    wave = filtered(jnp.pad(stream.values, (0, silence)), stream.rate, response)
    return stream.replace(values=wave[: len(stream.values)])


def _at_level_of(stream: Stream, wave: Float[Array, " S"]) -> Stream:
    """A waveform as loud as the stream, and no louder than full scale."""
    factor = jnp.sqrt(mean_square(stream.values, stream.valid) / jnp.maximum(mean_square(wave, stream.valid), 1e-30))
    wave = jnp.where(stream.valid, factor * wave, 0)
    return stream.replace(values=wave / jnp.maximum(jnp.abs(wave).max(), 1))


def _lines(wave: Float[Array, " S"], at: Float[Array, " T"]) -> Float32[Array, " T"]:
    """The wave between its samples, by straight lines."""
    low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, max(len(wave) - 2, 0))
    return wave[low] + (at - low) * (wave[jnp.minimum(low + 1, len(wave) - 1)] - wave[low])


def _read(stream: Stream, at: Float[Array, " T"], band: Level) -> Float32[Array, " T"]:
    """The wave at any places, without what lies above ``band`` times half its rate; 0 before and after it."""
    samples = len(stream.values)
    spectrum = jnp.fft.rfft(stream.values)
    spectrum = jnp.where(jnp.arange(len(spectrum)) <= band * (len(spectrum) - 1), spectrum, 0)
    fine = OVERSAMPLING * jnp.fft.irfft(spectrum, OVERSAMPLING * samples)
    return jnp.where((at >= 0) & (at <= samples - 1), _lines(fine, at * OVERSAMPLING), 0)


CHANNEL = (
    low_pass,
    band_stop,
    dropout,
    packet_loss,
    reverberation,
    clipping,
    gain,
    quantisation,
    resampling,
    speed,
    pitch,
)
