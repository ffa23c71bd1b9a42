"""Augmentation of frames: crop, flip, colour, the same in every frame of a clip; noise, of its own in every frame."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from avjax.data.augment.draws import Keys, Range, named_keys, uniform, within
from avjax.streams import Stream, beside

# Resampling is a product with weights; in TPU's default bfloat16 it would round pixels to 1 in 256.
PRECISION = jax.lax.Precision.HIGHEST

GREY = (0.299, 0.587, 0.114)  # Luma of ITU-R BT.601.


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
        zoom = within(self.zoom, zoom)
        stretch = jnp.exp(0.5 * within((math.log(self.aspect[0]), math.log(self.aspect[1])), aspect))
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
            return within((max(0.0, 1 - width), 1 + width), at)

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
class PixelNoise:
    """White Gaussian noise on every pixel, drawn anew in every frame, as strong throughout a clip (Rusak et al. 2020).

    Attributes:
      deviation: range of its standard deviation, of pixels on [0, 1]; uniform.
      probability: share of clips that get noise.
    """

    deviation: Range = (0.0, 0.2)
    probability: float = 0.5

    def __call__(self, video: Stream, keys: Keys) -> Stream:
        """Float frames [B, T, H, W, C] on [0, 1] in, and out; what is not valid stays as it is."""
        noisy, level = uniform(keys, "pixel noise", "pixel noise level")
        shape = video.values.shape[1:]
        drawn = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(
            named_keys(keys, ["pixel noise samples"])[0]
        )
        values = jnp.clip(video.values + beside(within(self.deviation, level), drawn) * drawn, 0, 1)
        changed = jnp.asarray(video.valid) & (noisy < self.probability)[:, None]
        return video.replace(values=jnp.where(beside(changed, values), values, video.values))


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
