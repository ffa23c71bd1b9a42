"""Sounds of surroundings, synthesised: no recordings, so nothing to download, and the same on every machine.

They have the spectra and rhythms of what they are named after and would fool nobody; a report says "synthetic". Each
is a waveform [S] for a clip, of any level. What changes slowly is a function of the time in the clip, so that a picture
with the same key changes with it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avjax.diagnostics.stress.rows import Key, named, swell, times, uniform
from avjax.streams import Stream

Wave = Float32[Array, " S"]
Response = Callable[[Float[Array, " F"]], Float[Array, " F"]]

VOICES = 8
SCALE = (0, 2, 4, 7, 9)  # Semitones of the pentatonic scale.
STEPS = 16
"""Notes before a tune begins again."""


def filtered(wave: Wave, rate: float, response: Response) -> Wave:
    """Through a filter without delay, whose gain is a function of Hz; circular over the clip."""
    frequency = jnp.fft.rfftfreq(len(wave), 1 / rate).astype(jnp.float32)
    return jnp.fft.irfft(jnp.fft.rfft(wave) * response(frequency), n=len(wave))


def hiss(stream: Stream, key: Key, name: str, response: Response) -> Wave:
    """Gaussian noise of the draw ``name`` through a filter."""
    return filtered(jax.random.normal(named(key, name), stream.values.shape), stream.rate, response)


def clicks(stream: Stream, key: Key, name: str, a_second: float, response: Response) -> Wave:
    """So many clicks a second of random height, through a filter."""
    at = uniform(key, name, stream.values.shape) < a_second / stream.rate
    height = jax.random.normal(named(key, f"{name} height"), stream.values.shape)
    return filtered(jnp.where(at, height, 0), stream.rate, response)


def tempo(key: Key) -> Float32[Array, ""]:
    """Beats a second of the music, and of the lights that go with it: 1.5 to 2.5."""
    return 1.5 + uniform(key, "tempo")


def babble(stream: Stream, key: Key) -> Wave:
    """Sawtooth voices of 90 to 250 Hz with some breath, in syllables of 2 to 6 Hz, with the spectrum of speech."""
    seconds = times(stream)

    def voice(key: Key) -> Wave:
        height, begin = uniform(key, "voice", (2,))
        phase = 90 * (250 / 90) ** height * seconds + 6 * swell(key, "intonation", seconds, 0.5, 2.0) + begin
        breath = 0.2 * jax.random.normal(named(key, "breath"), seconds.shape)
        return (phase % 1 - 0.5 + breath) * swell(key, "syllables", seconds, 2.0, 6.0) ** 2

    voices = jax.vmap(voice)(jax.random.split(named(key, "voices"), VOICES)).sum(0)
    # Flat to 500 Hz and 9 dB an octave down beyond, roughly the long-term average of speech.
    return filtered(voices, stream.rate, lambda f: (f > 60) / (1 + f / 500) ** 1.5)


def music(stream: Stream, key: Key) -> Wave:
    """Three voices of five harmonics, each in an octave of its own, a decaying note a beat."""
    beat = tempo(key) * times(stream)
    step, since = jnp.floor(beat).astype(jnp.int32) % STEPS, beat % 1
    root = 110 * 2 ** uniform(key, "root")
    tunes = jax.random.choice(named(key, "tunes"), jnp.asarray(SCALE), (3, STEPS))
    harmonic = jnp.arange(1, 6)[:, None]
    mixed = jnp.zeros_like(beat)
    for octave in range(3):
        pitch = root * 2 ** (octave + tunes[octave, step] / 12)
        tones = jnp.sin(2 * jnp.pi * harmonic * pitch * times(stream)) / harmonic
        # What lies above half the rate would come back as another tone.
        mixed += jnp.where(harmonic * pitch < 0.45 * stream.rate, tones, 0).sum(0)
    return mixed * jnp.exp(-3 * since)


def wind(stream: Stream, key: Key) -> Wave:
    """Noise that falls by 12 dB an octave above 150 Hz, in gusts."""
    return hiss(stream, key, "wind", lambda f: 1 / (1 + (f / 150) ** 2)) * gusts(stream, key)


def gusts(stream: Stream, key: Key) -> Float32[Array, " T"]:
    """How hard the wind blows, in [0, 1], at each element of a stream."""
    return 0.1 + 0.9 * swell(key, "gusts", times(stream), 0.2, 1.5) ** 2


def rain(stream: Stream, key: Key) -> Wave:
    """A hiss above 1 kHz, and thirty drops a second that ring around 2.5 kHz."""
    shower = hiss(stream, key, "shower", lambda f: f / (f + 1000) * jnp.exp(-f / 8000))
    drops = clicks(stream, key, "drops", 30.0, lambda f: jnp.exp(-(((f - 2500) / 700) ** 2)))
    return shower + 40 * drops


def traffic(stream: Stream, key: Key) -> Wave:
    """Noise below some 200 Hz, tyres around 800 Hz, and the harmonics of an engine, as cars pass."""
    seconds = times(stream)
    passing = 0.2 + swell(key, "cars", seconds, 0.1, 0.5) ** 2
    rumble = hiss(stream, key, "rumble", lambda f: 1 / (1 + (f / 120) ** 2))
    tyres = 0.3 * hiss(stream, key, "tyres", lambda f: jnp.exp(-(jnp.log2(jnp.maximum(f, 1) / 800) ** 2)))
    turns = 2 * jnp.pi * (30 + 30 * uniform(key, "engine")) * seconds
    engine = sum(jnp.sin(harmonic * turns) / harmonic for harmonic in range(1, 6))
    return (rumble + tyres + 0.1 * engine) * passing


def crackle(stream: Stream, key: Key) -> Wave:
    """Sharp clicks over a faint hiss, as of fire or of ice."""
    sharp = clicks(stream, key, "cracks", 60.0, lambda f: f / (f + 500))
    return sharp + 0.02 * hiss(stream, key, "hiss", lambda f: 1 / (1 + f / 1000))
