"""Augmentation of sound: of the waveform before the log-mel, and of the log-mel."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int

from avjax.data.augment.draws import Keys, Range, named_keys, uniform, within
from avjax.streams import Stream


@dataclasses.dataclass(frozen=True)
class WaveformJitter:
    """Gain and white noise on the waveform, by clip.

    Attributes:
      gain: range of the gain in dB.
      snr: range of the signal-to-noise ratio in dB, or None for no noise. The signal is measured over the valid
        samples of the clip before the gain; digital silence gets none.
      noise_probability: share of clips that get noise.
    """

    gain: Range = (-6.0, 6.0)
    snr: Range | None = None
    noise_probability: float = 0.5

    def __call__(self, audio: Stream, keys: Keys) -> Stream:
        """Float waveform [B, S] in, and out."""
        valid = jnp.asarray(audio.valid)
        values = jnp.where(valid, audio.values, 0)
        gain, noisy, level = uniform(keys, "gain", "noise", "noise level")
        if self.snr is not None:
            power = jnp.where(
                noisy < self.noise_probability, mean_power(audio) * 10 ** (-within(self.snr, level) / 10), 0
            )
            values = values + white_noise(keys, "noise samples", power, values.shape[1])
        values = values * 10 ** (within(self.gain, gain)[:, None] / 20)
        return audio.replace(values=jnp.where(valid, values, 0))


@dataclasses.dataclass(frozen=True)
class SpeedJitter:
    """Plays the waveform faster or slower: tempo, pitch and formants move together (Ko et al. 2015).

    The cheapest way to more speakers than there are. The crop keeps its length: slower speech is cut at its end, and
    faster speech leaves the end empty.

    Attributes:
      factor: range of the speed; log-uniform.
    """

    factor: Range = (0.9, 1.1)

    def __call__(self, audio: Stream, keys: Keys) -> Stream:
        """Float waveform [B, S] in, and out; linear interpolation between samples."""
        length = audio.values.shape[1]
        if length < 2:
            return audio
        low, high = (math.log(end) for end in self.factor)
        speed = jnp.exp(within((low, high), uniform(keys, "speed")[0]))
        at = jnp.arange(length) * speed[:, None]
        before = jnp.floor(at).astype(jnp.int32)
        share = at - before
        inside = before < length - 1
        before = jnp.clip(before, 0, length - 2)
        take = functools.partial(jnp.take_along_axis, axis=1)
        valid = jnp.asarray(audio.valid)
        # Both neighbours must be there, or padding would leak into the last sample.
        valid = inside & take(valid, before) & take(valid, before + 1)
        values = (1 - share) * take(audio.values, before) + share * take(audio.values, before + 1)
        return audio.replace(values=jnp.where(valid, values, 0), valid=valid)


@dataclasses.dataclass(frozen=True)
class TimeShift:
    """Begins a clip later in its window; the window around it stays empty or is filled with white noise.

    Where recordings are cut close to what is said, a model learns at which token it begins and fails on a recording
    that has a pause in front. The clip's end is cut where it no longer fits, but never before its middle; ``start``
    moves with it, so that streams stay aligned. A missing clip stays missing.

    Attributes:
      latest: longest delay in seconds; uniform from 0.
      fill: range of dB by which the noise lies below the clip's mean power, or None to leave the window empty.
      probability: share of the clips that are delayed.
      fill_probability: share of the clips, delayed or not, whose surroundings are filled.
    """

    latest: float = 0.4
    fill: Range | None = (0.0, 6.0)
    probability: float = 0.75
    fill_probability: float = 0.75

    def __call__(self, audio: Stream, keys: Keys) -> Stream:
        """Float waveform [B, S] in, and out."""
        length = audio.values.shape[1]
        if not length:
            return audio
        shifted, delay, filled, level = uniform(keys, "shift", "delay", "fill", "fill level")
        samples = jnp.where(shifted < self.probability, jnp.floor(delay * self.latest * audio.rate), 0)
        # The middle of what is there stays in the window, however short that is.
        end = length - jnp.argmax(jnp.asarray(audio.valid)[:, ::-1], axis=1)
        samples = jnp.minimum(samples, jnp.maximum(length - (end + 1) // 2, 0))
        at = jnp.arange(length) - samples.astype(jnp.int32)[:, None]
        take = functools.partial(jnp.take_along_axis, indices=jnp.maximum(at, 0), axis=1)
        before = jnp.asarray(audio.valid)
        valid = (at >= 0) & take(before)
        values = jnp.where(valid, take(audio.values), 0)
        if self.fill is not None:
            around = ~valid & (before.any(1) & (filled < self.fill_probability))[:, None]
            power = mean_power(audio) * 10 ** (-within(self.fill, level) / 10)
            values = jnp.where(around, white_noise(keys, "fill samples", power, length), values)
            valid |= around
        return audio.replace(values=values, valid=valid, start=audio.start - samples / audio.rate)


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """Masks over bands of mel bins and over spans of time (arXiv:1904.08779), set to 0, the mean after normalisation.

    The defaults are MBT's release (google-research/scenic, projects/mbt). Warping in time is left out, as there.
    Masked frames stay valid: they are silence to the model, not padding.

    Attributes:
      frequency_masks, time_masks: how many.
      frequency_width, time_width: the widest, in bins and frames; widths are uniform from 0 up to and including it.
      time_share: no time mask is wider than this share of the clip's valid frames (the paper's p).
    """

    frequency_masks: int = 1
    frequency_width: int = 48
    time_masks: int = 4
    time_width: int = 48
    time_share: float = 1.0

    def __call__(self, spectrogram: Stream, keys: Keys) -> Stream:
        """Normalised log-mel [B, T, F] in, and out."""
        valid = jnp.asarray(spectrogram.valid)
        rows, frames, bins = spectrogram.values.shape
        if not frames:
            return spectrogram
        # A crop may leave padding on either side: the valid frames are `count` from `first` on.
        count = valid.sum(1)
        first = jnp.argmax(valid, 1)
        zero = jnp.zeros(rows, jnp.int32)
        widest = jnp.minimum(self.time_width, jnp.floor(self.time_share * count).astype(jnp.int32))
        names = [f"frequency mask {i}" for i in range(self.frequency_masks)]
        masked = _spans(keys, names, zero + self.frequency_width, zero, zero + bins, bins)[:, None, :]
        names = [f"time mask {i}" for i in range(self.time_masks)]
        masked |= _spans(keys, names, widest, first, count, frames)[:, :, None]
        return spectrogram.replace(values=jnp.where(masked, 0, spectrogram.values))


def mean_power(audio: Stream) -> Float32[Array, " B"]:
    """Mean square of the valid samples; 0 where there are none."""
    valid = jnp.asarray(audio.valid)
    return jnp.square(jnp.where(valid, audio.values, 0)).sum(1) / jnp.maximum(valid.sum(1), 1)


def white_noise(keys: Keys, name: str, power: Float32[Array, " B"], length: int) -> Float32[Array, "B S"]:
    """White Gaussian noise of so much mean power a row, of the draw ``name``."""
    # The square root of 0 has no gradient; below the least 16-bit step there is nothing to measure.
    scale = jnp.where(power > 1e-14, jnp.sqrt(jnp.maximum(power, 1e-14)), 0)
    normal = jax.vmap(lambda key: jax.random.normal(key, (length,), jnp.float32))
    return scale[:, None] * normal(named_keys(keys, [name])[0])


def _spans(
    keys: Keys,
    names: Sequence[str],
    widest: Int[Array, " B"],
    first: Int[Array, " B"],
    count: Int[Array, " B"],
    size: int,
) -> Bool[Array, "B N"]:
    """A mask over ``size``: for each name a span inside [first, first + count) of uniform width up to ``widest``."""
    mask = jnp.zeros((len(first), size), bool)
    if not names:
        return mask
    draws = uniform(keys, *[f"{name} {what}" for name in names for what in ("width", "begin")])
    for at_width, at_begin in zip(draws[::2], draws[1::2], strict=True):
        width = jnp.floor(at_width * (jnp.minimum(widest, count) + 1)).astype(jnp.int32)
        begin = first + jnp.floor(at_begin * (count - width + 1)).astype(jnp.int32)
        at = jnp.arange(size)
        mask |= (at >= begin[:, None]) & (at < (begin + width)[:, None])
    return mask
