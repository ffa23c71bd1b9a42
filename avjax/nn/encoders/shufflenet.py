"""ShuffleNet-v2 units and EfficientFace, a small network for faces.

Ma, Zhang, Zheng, Sun: ShuffleNet V2, ECCV 2018.
Zhao, Liu, Zhou: Robust Lightweight Facial Expression Recognition Network with Label Distribution Training, AAAI 2021.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import BatchNorm, Conv
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders.trunk import ConvNorm, Part, Readout, TrunkEncoder, max_pool


def channel_shuffle(x: Float[Array, "*batch C"], groups: int) -> Float[Array, "*batch C"]:
    """y[j G + g] = x[g C/G + j]: channels of every group beside each other."""
    grouped = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.swapaxes(grouped, -1, -2).reshape(x.shape)


class ShuffleUnit(nnx.Module):
    """A unit of ShuffleNet-v2 (figure 3, c and d).

        stride 1:  y = shuffle([x_1 ; R(x_2)])      x = [x_1 ; x_2], R = conv1 - depthwise3 - conv1
        stride 2:  y = shuffle([L(x) ; R(x)])       L = depthwise3 - conv1

    with BN after every convolution and ReLU after those that are 1x1.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs):
        half = outputs // 2
        step = (stride, stride)
        self.split = stride == 1
        if not self.split:
            self.left_depthwise = ConvNorm(inputs, inputs, (3, 3), stride=step, groups=inputs, rngs=rngs)
            self.left = ConvNorm(inputs, half, (1, 1), rngs=rngs)
        self.reduce = ConvNorm(half if self.split else inputs, half, (1, 1), rngs=rngs)
        self.depthwise = ConvNorm(half, half, (3, 3), stride=step, groups=half, rngs=rngs)
        self.expand = ConvNorm(half, half, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B h w Cin"], valid: Bool[Array, " B"]) -> Part:
        if self.split:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left, _ = self.left_depthwise(x, valid)
            left, _ = self.left(left, valid)
            left, right = jax.nn.relu(left), x
        right, _ = self.reduce(right, valid)
        right, _ = self.depthwise(jax.nn.relu(right), valid)
        right, _ = self.expand(right, valid)
        return channel_shuffle(jnp.concatenate([left, jax.nn.relu(right)], axis=-1), 2), valid


class Modulator(nnx.Module):
    """y = x sigmoid(C(x) S(x)), a weight for every channel times one for every cell (EfficientFace).

    C = W_2 ReLU(BN(W_1 mean(x)))                              [C], C/16 hidden
    S = conv1(ReLU(BN(conv3_d4(ReLU(BN(conv3_d4(ReLU(BN(conv1(x)))))))))     [h, w], the 3x3 dilated by 4
    """

    def __init__(self, channels: int, *, reduction: int = 16, rngs: nnx.Rngs):
        hidden = max(channels // reduction, 1)
        self.down = Dense(channels, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.norm = BatchNorm(hidden, rngs=rngs)
        self.up = Dense(hidden, channels, axes=(HIDDEN, EMBED), rngs=rngs)
        self.reduce = ConvNorm(channels, hidden, (1, 1), bias=True, rngs=rngs)
        self.wide = nnx.List([ConvNorm(hidden, hidden, (3, 3), dilation=4, bias=True, rngs=rngs) for _ in range(2)])
        self.last = Conv(hidden, 1, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"], valid: Bool[Array, " B"]) -> Float[Array, "B h w C"]:
        channel = self.up(jax.nn.relu(self.norm(self.down(x.mean(axis=(1, 2))), valid)))
        cell, _ = self.reduce(x, valid)
        for conv in self.wide:
            cell, _ = conv(jax.nn.relu(cell), valid)
        return x * jax.nn.sigmoid(channel[:, None, None] * self.last(jax.nn.relu(cell)))


class LocalFeatures(nnx.Module):
    """Two grouped 3x3 convolutions with BN and ReLU over each quarter of the map, with weights of its own.

    [B, h, w, Cin] to [B, h / 2, w / 2, Cout] (EfficientFace's local-feature extractor).
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        def quarter() -> list[nnx.Module]:
            return [
                ConvNorm(inputs, outputs, (3, 3), stride=(2, 2), groups=inputs, rngs=rngs),
                ConvNorm(outputs, outputs, (3, 3), groups=outputs, rngs=rngs),
            ]

        self.quarters = nnx.List([nnx.List(quarter()) for _ in range(4)])

    def __call__(self, x: Float[Array, "B h w Cin"], valid: Bool[Array, " B"]) -> Float[Array, "B h2 w2 Cout"]:
        seen = []
        for number, layers in enumerate(self.quarters):
            row, column = divmod(number, 2)
            part = jnp.split(jnp.split(x, 2, axis=1)[row], 2, axis=2)[column]
            for layer in layers:
                part = jax.nn.relu(layer(part, valid)[0])
            seen.append(part)
        rows = [jnp.concatenate(seen[2 * row : 2 * row + 2], axis=2) for row in range(2)]
        return jnp.concatenate(rows, axis=1)


class EfficientFaceTrunk(nnx.Module):
    """[B, h, w, C] to [B, h / 32, w / 32, channels[-1]]; local features join behind the first stage."""

    def __init__(self, inputs: int, channels: tuple[int, ...], repeats: tuple[int, ...], *, rngs: nnx.Rngs):
        self.stem = ConvNorm(inputs, channels[0], (3, 3), stride=(2, 2), rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List(
                    [ShuffleUnit(before, after, stride=2, rngs=rngs)]
                    + [ShuffleUnit(after, after, stride=1, rngs=rngs) for _ in range(count - 1)]
                )
                for before, after, count in zip(channels[:-2], channels[1:-1], repeats, strict=True)
            ]
        )
        self.local = LocalFeatures(channels[0], channels[1], rngs=rngs)
        self.modulate = Modulator(channels[1], rngs=rngs)
        self.last = ConvNorm(channels[-2], channels[-1], (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B h w Cin"], valid: Bool[Array, " B"]) -> Part:
        x, _ = self.stem(x, valid)
        x, _ = max_pool(jax.nn.relu(x), valid, (3, 3), (2, 2))
        local = self.local(x, valid)
        for number, stage in enumerate(self.stages):
            for unit in stage:
                x, _ = unit(x, valid)
            if number == 0:
                x = self.modulate(x, valid) + local
        x, _ = self.last(x, valid)
        return jax.nn.relu(x), valid


@dataclasses.dataclass(frozen=True)
class EfficientFace:
    """EfficientFace over every frame [h, w, C] of a video by itself: one token a frame, the mean of its final map.

    A ShuffleNet-v2 whose first stage is modulated and has local features added to it. The tokens are projected to the
    model's width unless the last of ``channels`` is that width.

    Attributes:
      shape: (T, height, width, C); height and width are multiples of 16, so that quarters of the map fit together.
      channels: of stem, three stages and last convolution.
      repeats: units of each stage.
    """

    modality: str
    shape: tuple[int, ...]
    channels: tuple[int, ...] = (29, 116, 232, 464, 1024)
    repeats: tuple[int, ...] = (4, 8, 4)

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or self.shape[1] % 16 or self.shape[2] % 16:
            raise ValueError(
                f"{self.modality}: shape {self.shape} is not (T, height, width, C) with multiples of 16 for"
                " height and width"
            )
        if len(self.channels) != len(self.repeats) + 2:
            raise ValueError(f"{self.modality}: channels {self.channels} do not fit repeats {self.repeats}")
        if self.channels[1] % self.channels[0] or any(channels % 2 for channels in self.channels[1:-1]):
            raise ValueError(
                f"{self.modality}: of channels {self.channels} those of the stages must be even, and those of the"
                " first stage a multiple of the stem's"
            )

    @property
    def features(self) -> int:
        """Channels of the final map."""
        return self.channels[-1]

    @property
    def tokens(self) -> int:
        return self.shape[0]

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        trunk = EfficientFaceTrunk(self.shape[3], self.channels, self.repeats, rngs=rngs)
        readout = Readout(self.features, width, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout, single=True)
