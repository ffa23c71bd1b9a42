"""Noise in the sound at a measured signal-to-noise ratio.

SNR = 10 log10(mean s^2 / mean n^2) in dB, both means over the active parts of the clip: of 20 ms, with an energy of
more than -40 dB of the clip's loudest. A silent clip has no SNR and stays as it is. Where the mixture goes beyond full
scale it is turned down as a whole, which keeps the ratio; clipping would not.

AVRobustBench's code (2025) passes the number of the severity as the SNR, so that its order is inverted and the levels
hardly differ; other suites add noise of an absolute level, which hurts quiet clips more. Here the levels are dB.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.diagnostics.stress import ambience
from avjax.diagnostics.stress.rows import Key, Level, named, sound
from avjax.streams import Stream

ELECTRONIC = (40, 30, 20, 10, 0)
AMBIENT = (20, 15, 10, 5, 0)
SILENCE = 2.0**-32
"""Mean square of half a step of 16-bit sound."""
SPARSE = 0.01
"""Share of the samples with an impulse; ours."""


@sound("white_noise", "dB SNR", ELECTRONIC, "clip")
def white_noise(stream: Stream, level: Level, key: Key) -> Stream:
    """White Gaussian noise."""
    return at_snr(stream, jax.random.normal(named(key, "noise"), stream.values.shape), level)


@sound("impulse_noise", "dB SNR", ELECTRONIC, "clip")
def impulse_noise(stream: Stream, level: Level, key: Key) -> Stream:
    """Clicks of either sign and one height, at 1 % of the samples."""
    draw = jax.random.uniform(named(key, "noise"), stream.values.shape)
    # At least one click where the sound is, or the noise would have no level.
    share = jnp.maximum(SPARSE, jnp.where(active(stream), draw, 1).min() * 1.0001 + 1e-9)
    sign = jax.random.rademacher(named(key, "sign"), draw.shape, jnp.float32)
    return at_snr(stream, jnp.where(draw < share, sign, 0), level)


@sound("shot_noise", "dB SNR", ELECTRONIC, "clip")
def shot_noise(stream: Stream, level: Level, key: Key) -> Stream:
    """Noise whose power follows |s|, as the number of carriers would make it: sqrt(|s|) n, n of N(0, 1)."""
    normal = jax.random.normal(named(key, "noise"), stream.values.shape)
    return at_snr(stream, jnp.sqrt(jnp.abs(stream.values)) * normal, level)


@sound("speckle_noise", "dB SNR", ELECTRONIC, "clip")
def speckle_noise(stream: Stream, level: Level, key: Key) -> Stream:
    """Noise whose power follows s^2: s n, n of N(0, 1)."""
    return at_snr(stream, stream.values * jax.random.normal(named(key, "noise"), stream.values.shape), level)


@sound("babble", "dB SNR", AMBIENT, "clip")
def babble(stream: Stream, level: Level, key: Key) -> Stream:
    """Eight synthetic voices at once, without words."""
    return at_snr(stream, ambience.babble(stream, key), level)


@sound("music", "dB SNR", AMBIENT, "clip")
def music(stream: Stream, level: Level, key: Key) -> Stream:
    """Synthetic music: three plucked voices in one scale and tempo."""
    return at_snr(stream, ambience.music(stream, key), level)


@sound("wind", "dB SNR", AMBIENT, "clip")
def wind(stream: Stream, level: Level, key: Key) -> Stream:
    """Synthetic wind in the microphone: low noise in gusts."""
    return at_snr(stream, ambience.wind(stream, key), level)


@sound("rain", "dB SNR", AMBIENT, "clip")
def rain(stream: Stream, level: Level, key: Key) -> Stream:
    """Synthetic rain: a hiss, and drops near by."""
    return at_snr(stream, ambience.rain(stream, key), level)


@sound("traffic", "dB SNR", AMBIENT, "clip")
def traffic(stream: Stream, level: Level, key: Key) -> Stream:
    """Synthetic traffic: rumble and engines that pass."""
    return at_snr(stream, ambience.traffic(stream, key), level)


def active(stream: Stream) -> Bool[Array, " S"]:
    """Samples in parts of 20 ms whose energy is more than -40 dB of the loudest part's."""
    size = max(1, round(0.02 * stream.rate))
    samples = len(stream.values)
    power = jnp.pad(jnp.square(stream.values), (0, -samples % size)).reshape(-1, size).sum(1)
    return jnp.repeat(power > 1e-4 * power.max(), size)[:samples] & stream.valid


def signal_power(stream: Stream) -> Float[Array, ""]:
    """Mean square over the active parts."""
    return mean_square(stream.values, active(stream))


def mean_square(values: Float[Array, " S"], where: Bool[Array, " S"]) -> Float[Array, ""]:
    """Of some samples; 0 where there are none."""
    return jnp.where(where, jnp.square(values), 0).sum() / jnp.maximum(where.sum(), 1)


def at_snr(stream: Stream, noise: Float[Array, " S"], decibels: Level) -> Stream:
    """The sound and the noise, scaled to so many dB of SNR; a clip that is silent, or a noise that is, stays clean."""
    where = active(stream)
    signal, power = mean_square(stream.values, where), mean_square(noise, where)
    gain = jnp.sqrt(signal / jnp.maximum(power, 1e-30) * 10 ** (-decibels / 10))
    audible = (signal > SILENCE) & (power > 1e-30)
    mixed = stream.values + jnp.where(audible, gain, 0) * jnp.where(stream.valid, noise, 0)
    peak = jnp.where(audible, jnp.maximum(jnp.abs(mixed).max(), 1), 1)
    return stream.replace(values=mixed / peak)


SOUND = (white_noise, impulse_noise, shot_noise, speckle_noise, babble, music, wind, rain, traffic)
