"""Small convolutional encoders: over time, over each frame, over a spectrogram."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import Conv, masked
from avjax.nn.encoders.trunk import ConvNorm, Part, Readout, TrunkEncoder, max_pool, strided


class Conv1dBlock(nnx.Module):
    """y = maxpool(ReLU(BN(conv(x)))) over time, without bias.

    Args:
      size: of the kernel.
      pool, pool_stride: of the maximum; (1, 1) for none.
      normalise: with batch normalisation; without it the convolution has a bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        pool: int = 1,
        pool_stride: int = 1,
        normalise: bool = True,
        rngs: nnx.Rngs,
    ):
        self.pool, self.pool_stride, self.normalise = pool, pool_stride, normalise
        if normalise:
            self.conv = ConvNorm(inputs, outputs, (size,), rngs=rngs)
        else:
            self.conv = Conv(inputs, outputs, (size,), rngs=rngs)

    def __call__(self, x: Float[Array, "B T Cin"], valid: Bool[Array, "B T"]) -> Part:
        """[B, ceil(T / pool_stride), Cout], 0 where it is not valid; x must be 0 where it is not."""
        if self.normalise:
            x, valid = self.conv(x, valid)
        else:
            x = masked(self.conv(x), valid)
        return max_pool(jax.nn.relu(x), valid, (self.pool,), (self.pool_stride,))


class Projection1d(nnx.Module):
    """One convolution over time without bias, normalisation or activation (MulT, section 3.2)."""

    def __init__(self, inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, (size,), bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B T Cin"], valid: Bool[Array, "B T"]) -> Part:
        return self.conv(x), valid


class Sequence(nnx.Module):
    """Parts of a trunk, one after the other."""

    def __init__(self, parts: list[nnx.Module]):
        self.parts = nnx.List(parts)

    def __call__(self, x: Float[Array, "B ..."], valid: Bool[Array, "B ..."]) -> Part:
        for part in self.parts:
            x, valid = part(x, valid)
        return x, valid


@dataclasses.dataclass(frozen=True)
class Conv1dEncoder:
    """Convolutions over time of features [T, F], such as MFCC or those of a file: one token a time step.

    Without ``channels`` it is MulT's projection, one convolution straight to the model's width, without bias (Tsai,
    Bai, Liang, Kolter, Morency, Salakhutdinov: Multimodal Transformer for Unaligned Multimodal Language Sequences,
    ACL 2019). With them it is a network such as AVT-CA's audio branch, (64, 128) with pool=2, whose release does not
    pad; ours does, so that as many steps come out as go in. Its tokens are projected to the model's width unless the
    last of ``channels`` is that width.

    Attributes:
      channels: of every block: convolution, batch normalisation, ReLU, maximum.
      size: of the kernels; 1, 3 or 5 in MulT.
      pool, pool_stride: of the maximum in every block; (1, 1) for none.
      normalise: batch normalisation in every block.
    """

    modality: str
    shape: tuple[int, ...]
    channels: tuple[int, ...] = ()
    size: int = 3
    pool: int = 1
    pool_stride: int = 1
    normalise: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != 2:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, F)")

    @property
    def stride(self) -> int:
        """Time steps a token."""
        return self.pool_stride ** len(self.channels)

    @property
    def tokens(self) -> int:
        return math.ceil(self.shape[0] / self.stride)

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        if not self.channels:
            trunk = Projection1d(self.shape[1], width, self.size, rngs=rngs)
            return TrunkEncoder(self.modality, self.shape, trunk, Readout(width, width, rngs=rngs))
        options = {"pool": self.pool, "pool_stride": self.pool_stride, "normalise": self.normalise}
        widths = (self.shape[1], *self.channels)
        blocks = [
            Conv1dBlock(i, o, size=self.size, **options, rngs=rngs) for i, o in zip(widths, self.channels, strict=False)
        ]
        readout = Readout(self.channels[-1], width, stride=self.stride, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, Sequence(blocks), readout)


class Conv2dBlock(nnx.Module):
    """y = maxpool(ReLU(BN(conv3x3(x)))), the maximum over windows of ``pool``."""

    def __init__(self, inputs: int, outputs: int, *, pool: tuple[int, int], stride: int = 1, rngs: nnx.Rngs):
        self.conv = ConvNorm(inputs, outputs, (3, 3), stride=(stride, stride), rngs=rngs)
        self.pool = pool

    def __call__(self, x: Float[Array, "B h w Cin"], valid: Bool[Array, "B ..."]) -> Part:
        x, valid = self.conv(x, valid)
        return max_pool(jax.nn.relu(x), valid, self.pool, self.pool)


def _blocks(
    inputs: int, channels: tuple[int, ...], pool: tuple[int, int], rngs: nnx.Rngs, stride: int = 1
) -> list[nnx.Module]:
    """One a number of ``channels``; ``stride`` is that of the first."""
    layers = zip((inputs, *channels), channels, (stride, *[1] * len(channels)), strict=False)
    return [Conv2dBlock(before, after, pool=pool, stride=own, rngs=rngs) for before, after, own in layers]


@dataclasses.dataclass(frozen=True)
class FrameConv:
    """A few convolutions over every frame [h, w, C] of a video by itself, for small frames and few of them.

    Each layer is a 3x3 convolution, batch normalisation, ReLU and a 2x2 maximum; a token is the mean of a frame's
    final map. The tokens are projected to the model's width unless the last of ``channels`` is that width.

    Attributes:
      channels: of every layer.
      cells: one token for every cell of the final map.
      stride: of the first convolution; 2 makes all of it about four times cheaper.
    """

    modality: str
    shape: tuple[int, ...]
    channels: tuple[int, ...] = (16, 32, 64)
    cells: bool = False
    stride: int = 1

    def __post_init__(self) -> None:
        if len(self.shape) != 4:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, height, width, C)")

    @property
    def grid(self) -> tuple[int, ...]:
        """Frames, and the extents of a frame's final map."""
        stride = self.stride * 2 ** len(self.channels)
        return (self.shape[0], *(math.ceil(extent / stride) for extent in self.shape[1:3]))

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) if self.cells else self.grid[0]

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        trunk = Sequence(_blocks(self.shape[3], self.channels, (2, 2), rngs, stride=self.stride))
        readout = Readout(self.channels[-1], width, cells=self.cells, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout, single=True)


class SpectrogramTrunk(nnx.Module):
    """[B, T, F] to [B, ceil(T / step), Cout]: convolutions, then means over frequency and over ``step`` time steps."""

    def __init__(self, channels: tuple[int, ...], step: int, *, rngs: nnx.Rngs):
        self.blocks = Sequence(_blocks(1, channels, (1, 2), rngs))
        self.step = step

    def __call__(self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"]) -> Part:
        x, valid = self.blocks(x[..., None], valid)
        return segment_means(x.mean(axis=2), valid, self.step)


class SpectrogramCells(nnx.Module):
    """[B, T, F] to a map of cells: [B, ceil(T / 2^layers), ceil(F / 2^layers), Cout]."""

    def __init__(self, channels: tuple[int, ...], *, rngs: nnx.Rngs):
        self.blocks = Sequence(_blocks(1, channels, (2, 2), rngs))

    def __call__(self, x: Float[Array, "B T F"], valid: Bool[Array, "B T"]) -> Part:
        return self.blocks(x[..., None], valid)


def segment_means(x: Float[Array, "B T C"], valid: Bool[Array, "B T"], step: int) -> Part:
    """Means of what is valid of every ``step`` time steps; 0 where nothing is."""
    rest = -x.shape[1] % step
    x = jnp.pad(masked(x, valid), ((0, 0), (0, rest), (0, 0))).reshape(x.shape[0], -1, step, x.shape[2])
    number = jnp.pad(valid, ((0, 0), (0, rest))).reshape(*x.shape[:3]).sum(axis=2)
    return x.sum(axis=2) / jnp.maximum(number, 1)[..., None].astype(x.dtype), strided(valid, step)


@dataclasses.dataclass(frozen=True)
class SpectrogramConv:
    """A few convolutions over a spectrogram [T, F], for small ones: one token a time step, or for a few of them.

    Each layer is a 3x3 convolution, batch normalisation, ReLU and a maximum over two neighbouring frequencies; a token
    is the mean over the frequencies that are left and over ``step`` time steps. The tokens are projected to the
    model's width unless the last of ``channels`` is that width.

    Attributes:
      channels: of every layer.
      step: time steps a token.
      cells: one token for every cell of a map instead: the maxima are then over two neighbours in time as well.
    """

    modality: str
    shape: tuple[int, ...]
    channels: tuple[int, ...] = (16, 32, 64)
    step: int = 1
    cells: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 2:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, F)")
        if self.cells and self.step != 1:
            raise ValueError(f"{self.modality}: a token is a cell, or of {self.step} time steps; not both")

    @property
    def grid(self) -> tuple[int, ...]:
        """Time and frequencies of the map whose cells are the tokens."""
        if not self.cells:
            return (math.ceil(self.shape[0] / self.step),)
        return tuple(math.ceil(extent / 2 ** len(self.channels)) for extent in self.shape)

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        if self.cells:
            readout = Readout(self.channels[-1], width, stride=2 ** len(self.channels), cells=True, rngs=rngs)
            return TrunkEncoder(self.modality, self.shape, SpectrogramCells(self.channels, rngs=rngs), readout)
        trunk = SpectrogramTrunk(self.channels, self.step, rngs=rngs)
        readout = Readout(self.channels[-1], width, stride=self.step, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout)
