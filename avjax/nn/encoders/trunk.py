"""What convolutional encoders are made of: features in, a trunk of convolutions, tokens out.

A trunk maps (x, valid) to (x, valid), as do its parts: ``valid`` is [B] for images that are each wholly there or not,
or [B, T] where time is the first of the convolved axes. A part's output is 0 where it is not valid, so nothing leaks
into a neighbour, and batch statistics count what is there alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import BatchNorm, Conv, masked
from avjax.nn.dense import EMBED, PATCH, Dense
from avjax.nn.placement import BATCH, SEQUENCE, constrain
from avjax.streams import Stream

Part = tuple[Float[Array, "B ..."], Bool[Array, "B ..."]]


def features(
    modality: str, shape: tuple[int, ...], stream: Stream
) -> tuple[Float[Array, "B T ..."], Bool[Array, "B T"]]:
    """Values of a stream, 0 where they are not valid, and where they are valid."""
    values, valid = jnp.asarray(stream.values), jnp.asarray(stream.valid)
    if values.shape[1:] != shape:
        raise ValueError(
            f"{modality}: the model was built for features of shape {shape} and was given {values.shape[1:]};"
            " make the experiment's sampling, front end and model agree"
        )
    return masked(values, valid), valid


def strided(valid: Bool[Array, "B ..."], stride: int) -> Bool[Array, "B ..."]:
    """[B, T] to [B, ceil(T / stride)]: a step counts where any of those it is made of does; [B] stays."""
    if valid.ndim == 1 or stride == 1:
        return valid
    padded = jnp.pad(valid, ((0, 0), (0, -valid.shape[1] % stride)))
    return padded.reshape(valid.shape[0], -1, stride).any(axis=2)


def padding(size: Sequence[int], dilation: int = 1) -> list[tuple[int, int]]:
    """So that ceil(extent / stride) steps come out, the first one centred on the first one in."""
    reach = [dilation * (extent - 1) for extent in size]
    return [(extent // 2, extent - extent // 2) for extent in reach]


def max_pool(
    x: Float[Array, "B ... C"], valid: Bool[Array, "B ..."], size: Sequence[int], stride: Sequence[int]
) -> Part:
    """Maximum of windows; of values that are not negative, where what is not valid is 0."""
    there = strided(valid, stride[0])
    pooled = nnx.max_pool(x, tuple(size), strides=tuple(stride), padding=padding(size))
    return masked(pooled, there), there


class ConvNorm(nnx.Module):
    """y = BN(conv(x)), without an activation.

    Args:
      size, stride: one number for each convolved axis.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        rngs: nnx.Rngs,
    ):
        stride = tuple(stride or [1] * len(size))
        self.time_stride = stride[0]
        self.conv = Conv(
            inputs,
            outputs,
            size,
            stride=stride,
            padding=padding(size, dilation),
            dilation=dilation,
            groups=groups,
            bias=bias,
            rngs=rngs,
        )
        self.norm = BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Float[Array, "B ... Cin"], valid: Bool[Array, "B ..."]) -> Part:
        there = strided(valid, self.time_stride)
        return self.norm(self.conv(x), there), there


class Readout(nnx.Module):
    """From the map of a trunk to tokens [B, N, width]: the mean over all axes but time, or every cell a token.

    Where ``features`` is ``width`` there is no projection: the tokens are the trunk's features as they are.

    Args:
      features: channels of the map.
      stride: time steps of the stream a time step of the map.
    """

    def __init__(self, features: int, width: int, *, stride: int = 1, cells: bool = False, rngs: nnx.Rngs):
        self.stride, self.cells = stride, cells
        projection = None if features == width else Dense(features, width, axes=(PATCH, EMBED), rngs=rngs)
        self.project = nnx.data(projection)

    def __call__(
        self,
        x: Float[Array, "B T ... C"],
        valid: Bool[Array, "B T"],
        stream: Stream,
        keep: Bool[Array, "B _"] | None,
    ) -> Stream:
        cells = math.prod(x.shape[2:-1]) if self.cells else 1
        if self.cells:
            x = x.reshape(x.shape[0], -1, x.shape[-1])
            valid = jnp.repeat(valid, cells, axis=1)
        else:
            x = x.mean(axis=tuple(range(2, x.ndim - 1)))
        if self.project is not None:
            x = self.project(x)
        return Stream(
            values=constrain(masked(x, valid), BATCH, SEQUENCE, None),
            valid=valid if keep is None else valid & keep,
            start=stream.start,
            rate=stream.rate / self.stride * cells,
        )


class TrunkEncoder(nnx.Module):
    """Tokens of a stream through a trunk.

    Args:
      modality, shape: of the configuration.
      single: the trunk sees the elements of the time axis one by one (frames, patches), not time itself.
      patch: time steps that are one element for a trunk that sees them one by one.
    """

    def __init__(
        self,
        modality: str,
        shape: tuple[int, ...],
        trunk: nnx.Module,
        readout: Readout,
        *,
        single: bool = False,
        patch: int | None = None,
    ):
        self.modality, self.shape = modality, shape
        self.trunk, self.readout = trunk, readout
        self.single, self.patch = single, patch

    def __call__(self, stream: Stream, keep: Bool[Array, "B N"] | None = None) -> Stream:
        """Tokens [B, N, C] in time-major order; ``keep`` hides some of them."""
        x, valid = features(self.modality, self.shape, stream)
        if self.patch is not None:
            valid = strided(valid, self.patch)
            x = x.reshape(*valid.shape, self.patch, *x.shape[2:])
        if self.single:
            seen, _ = self.trunk(x.reshape(-1, *x.shape[2:]), valid.reshape(-1))
            x = seen.reshape(*valid.shape, *seen.shape[1:])
        else:
            x, valid = self.trunk(x, valid)
        return self.readout(x, valid, stream, keep)
