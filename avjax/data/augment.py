"""Augmentation on device: gain and noise, SpecAugment, crop, flip, colour, mixup.

Every draw of a row is keyed by the step's key, the row's global index and the name of the draw. A row therefore comes
out the same in any batch, in any order and on any number of processes, and adding one augmentation leaves the draws of
the others as they were.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Integer, Shaped

from avjax.streams import Batch, Stream

Range = tuple[float, float]
Keys = Shaped[Array, " B"]

# Resampling is a product with weights; in TPU's default bfloat16 it would round pixels to 1 in 256.
PRECISION = jax.lax.Precision.HIGHEST

GREY = (0.299, 0.587, 0.114)  # Luma of ITU-R BT.601.


def row_keys(key: jax.Array, index: Integer[Array, " B"]) -> Keys:
    """One key a row, from the step's key and the row's global index."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index.astype(jnp.uint32))


def named_keys(keys: Keys, names: Sequence[str]) -> Shaped[Array, "D B"]:
    """The keys of so many named draws; all at once, since each separate call costs compile time."""
    numbers = jnp.asarray([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(lambda number: jax.vmap(jax.random.fold_in, (0, None))(keys, number))(numbers)


def uniform(keys: Keys, *names: str) -> Float32[Array, "D B"]:
    """A number a row for each named draw, uniform in [0, 1)."""
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))(named_keys(keys, names))


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
            power = jnp.square(values).sum(1) / jnp.maximum(valid.sum(1), 1)
            variance = jnp.where(noisy < self.noise_probability, power * 10 ** (-_within(self.snr, level) / 10), 0)
            # The square root of 0 has no gradient; below the least 16-bit step there is nothing to measure.
            scale = jnp.where(variance > 1e-14, jnp.sqrt(jnp.maximum(variance, 1e-14)), 0)
            normal = jax.vmap(lambda key: jax.random.normal(key, values.shape[1:], jnp.float32))
            values = values + scale[:, None] * normal(named_keys(keys, ["noise samples"])[0])
        values = values * 10 ** (_within(self.gain, gain)[:, None] / 20)
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
        speed = jnp.exp(_within((low, high), uniform(keys, "speed")[0]))
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


@dataclasses.dataclass(frozen=True)
class Crop:
    """Zoom into a random part of the frame and bring it back to the frame's size; the same part in every frame.

    A random resized crop of an area share in (0.35, 1) is ``zoom=(1.0, 1.69)``; MBT's scale jitter is (0.9, 1.33).

    Attributes:
      zoom: range of the magnification; uniform. Below 1 the frame shrinks and its border is repeated around it.
      aspect: range of the part's width over height, relative to the frame's; log-uniform.
      flip: probability of a horizontal flip.
    """

    zoom: Range = (0.9, 1.33)
    aspect: Range = (1.0, 1.0)
    flip: float = 0.5

    def __call__(self, video: Stream, keys: Keys) -> Stream:
        """Float frames [B, T, H, W, C] in, and out: bilinear, with antialiasing where it shrinks."""
        height, width = video.values.shape[2:4]
        zoom, aspect, row, column, flip = uniform(keys, "zoom", "aspect", "row", "column", "flip")
        zoom = _within(self.zoom, zoom)
        stretch = jnp.exp(0.5 * _within((math.log(self.aspect[0]), math.log(self.aspect[1])), aspect))
        rows = _resampling(height, 1 / (zoom * stretch), row, jnp.zeros(zoom.shape, bool))
        columns = _resampling(width, stretch / zoom, column, flip < self.flip)
        values = jnp.einsum("bih,bthwc->btiwc", rows, video.values, precision=PRECISION)
        values = jnp.einsum("bjw,btiwc->btijc", columns, values, precision=PRECISION)
        return video.replace(values=values)


@dataclasses.dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast, saturation and loss of colour, the same in every frame of a clip.

    Attributes:
      brightness, contrast, saturation: b multiplies by, or blends by, a factor uniform in [max(0, 1 - b), 1 + b].
      grey: probability that colour is lost, among the clips that are changed.
      probability: share of the clips that are changed at all.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    grey: float = 0.1
    probability: float = 0.8

    def __call__(self, video: Stream, keys: Keys) -> Stream:
        """Float frames [B, T, H, W, C] on [0, 1] in, and out. Colour needs C = 3; other C keep theirs."""

        def factor(width: float, at: jax.Array) -> jax.Array:
            return _within((max(0.0, 1 - width), 1 + width), at)

        draws = uniform(keys, "brightness", "contrast", "saturation", "grey", "colour")
        brightness, contrast, saturation, lost, changed = draws[..., None, None, None, None]
        valid = jnp.asarray(video.valid)[:, :, None, None, None]
        values = jnp.clip(video.values * factor(self.brightness, brightness), 0, 1)
        area = video.values.shape[2] * video.values.shape[3]
        total = jnp.where(valid, _grey(values), 0).sum((1, 2, 3, 4), keepdims=True)
        mean = total / jnp.maximum(valid.sum((1, 2, 3, 4), keepdims=True) * area, 1)
        values = jnp.clip(mean + factor(self.contrast, contrast) * (values - mean), 0, 1)
        if values.shape[-1] == 3:
            grey = _grey(values)
            coloured = jnp.clip(grey + factor(self.saturation, saturation) * (values - grey), 0, 1)
            values = jnp.where(lost < self.grey, grey, coloured)
        return video.replace(values=jnp.where(changed < self.probability, values, video.values))


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Each row blended with another row, targets too (arXiv:1710.09412).

    The rows of a batch are ranked by a hash of their index, and each is blended with the next in rank, the last with
    the first: who meets whom depends on which rows there are, never on their order. Filler rows (weight 0) take no
    part. Rows meet across the whole batch, so on several devices the features are exchanged once.

    A blended row stays valid exactly where it was. Where the partner has nothing there (padding, a missing modality)
    the row's own values stay. The target of a modality that the partner lacks is the row's own, and the target of
    ``head`` takes the mean weight over the modalities that the row has.

    Attributes:
      alpha: a row's own weight is drawn from Beta(alpha, alpha).
      by_modality: one weight a modality, each with its own target (MBT's modality mixup), or one for all.
      probability: share of the rows that are blended.
    """

    alpha: float = 0.5
    by_modality: bool = True
    probability: float = 1.0

    def __call__(self, batch: Batch, keys: Keys, modalities: Sequence[str]) -> Batch:
        """Blends the float streams named ``modalities``; every other stream stays, with weight 1.

        Writes ``target[head]`` and ``target[f"{head}/{modality}"]`` for each stream; where the batch has a target of a
        modality's own already, that one is blended.
        """
        real = jnp.asarray(batch.weight) > 0
        partner = pairing(named_keys(keys, ["pairing"])[0], batch, real)
        mixed = real & (partner != jnp.arange(len(real))) & (uniform(keys, "mixup")[0] < self.probability)
        names = [f"weight {name}" if self.by_modality else "weight" for name in modalities]
        beta = jax.vmap(jax.vmap(lambda key: jax.random.beta(key, self.alpha, self.alpha, dtype=jnp.float32)))
        drawn = dict(zip(modalities, beta(named_keys(keys, names)), strict=True)) if modalities else {}
        streams, weights, present = {}, {}, {}
        for name in sorted(batch.streams):
            stream = batch.streams[name]
            valid = jnp.asarray(stream.valid)
            present[name] = valid.any(1)
            streams[name], weights[name] = stream, jnp.ones(len(real), jnp.float32)
            if name in modalities:
                weights[name] = jnp.where(mixed & present[name] & present[name][partner], drawn[name], 1)
                share = jnp.where(valid & valid[partner], weights[name][:, None], 1)
                share = jnp.expand_dims(share, tuple(range(2, stream.values.ndim)))
                values = share * stream.values + (1 - share) * stream.values[partner]
                streams[name] = stream.replace(values=values)
        had = sum(present.values())
        joint = sum(weights[name] * present[name] for name in streams) / jnp.maximum(had, 1)
        joint = jnp.where(had > 0, joint, 1)

        def blend(target: jax.Array, weight: jax.Array) -> jax.Array:
            weight = jnp.expand_dims(weight, tuple(range(1, target.ndim)))
            return weight * target + (1 - weight) * target[partner]

        target = {}
        for head in batch.target:
            if "/" in head:
                continue
            target[head] = blend(jnp.asarray(batch.target[head]), joint)
            for name in streams:
                own_head = f"{head}/{name}"
                target[own_head] = blend(jnp.asarray(batch.target.get(own_head, batch.target[head])), weights[name])
        return batch.replace(streams=streams, target={**batch.target, **target})


def pairing(keys: Keys, batch: Batch, real: Bool[Array, " B"]) -> Int[Array, " B"]:
    """The row that each row is blended with; its own for filler rows and for a lone row."""
    rank_of = jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys)
    # A record that comes twice has one hash and one index, but crops that start at different times.
    starts = [jnp.asarray(batch.streams[name].start) for name in sorted(batch.streams)]
    order = jnp.lexsort([*starts, jnp.asarray(batch.index), rank_of, ~real])
    rank = jnp.argsort(order)
    after = jnp.where(rank + 1 < real.sum(), rank + 1, 0)
    return jnp.where(real, order[after], jnp.arange(len(real)))


def _within(limits: Range, at: Float32[Array, "*dims"]) -> Float32[Array, "*dims"]:
    return limits[0] + (limits[1] - limits[0]) * at


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


def _resampling(
    size: int, share: Float[Array, " B"], place: Float[Array, " B"], flip: Bool[Array, " B"]
) -> Float32[Array, "B N M"]:
    """Weights [B, size, size] that bring a part, ``share`` of an axis long, back to the axis's length.

    ``place`` in [0, 1] puts the part from one end to the other. Bilinear between pixel centres; where the part is
    longer than the axis, the filter widens with it (antialiasing) and the border is repeated.
    """
    at = (jnp.arange(size) + 0.5) / size
    at = jnp.where(flip[:, None], 1 - at, at)
    begin = place * (1 - share)
    centre = jnp.clip((begin[:, None] + share[:, None] * at) * size - 0.5, 0, size - 1)
    reach = jnp.maximum(share, 1)[:, None, None]
    weights = jnp.maximum(0, 1 - jnp.abs(centre[:, :, None] - jnp.arange(size)) / reach)
    return weights / weights.sum(-1, keepdims=True)


def _grey(values: jax.Array) -> jax.Array:
    """[..., 3] to luma [..., 1]; other channel counts to their mean."""
    if values.shape[-1] == 3:
        return (values * jnp.asarray(GREY, jnp.float32)).sum(-1, keepdims=True)
    return values.mean(-1, keepdims=True)
