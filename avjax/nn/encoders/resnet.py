"""Residual networks: two-dimensional for frames and spectrograms, three-dimensional for video."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.encoders.trunk import ConvNorm, Part, Readout, TrunkEncoder, max_pool

# Blocks in each of the four stages.
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}

Stem = Literal["standard", "small"]


class Factorised(nnx.Module):
    """A (2+1)-D convolution: conv_time(ReLU(BN(conv_space(x)))), each without bias, and BN.

    Tran, Wang, Torresani, Ray, LeCun, Paluri: A Closer Look at Spatiotemporal Convolutions, CVPR 2018.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, size: int, stride: tuple[int, int, int], rngs: nnx.Rngs
    ):
        self.space = ConvNorm(inputs, middle, (1, size, size), stride=(1, *stride[1:]), rngs=rngs)
        self.time = ConvNorm(middle, outputs, (3, 1, 1), stride=(stride[0], 1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B T h w Cin"], valid: Bool[Array, "B T"]) -> Part:
        x, valid = self.space(x, valid)
        return self.time(jax.nn.relu(x), valid)


def middle_channels(inputs: int, outputs: int) -> int:
    """M = floor(t d^2 N_in N_out / (d^2 N_in + t N_out)) with t = d = 3 (Tran et al. 2018, section 3.5).

    With M channels between, the two convolutions have as many parameters as the 3x3x3 one that they stand for.
    """
    return 27 * inputs * outputs // (9 * inputs + 3 * outputs)


class BasicBlock(nnx.Module):
    """y = ReLU(F(x) + S(x)), F = conv3-BN-ReLU-conv3-BN, S the identity or a strided conv1-BN.

    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 3.3.
    """

    expansion = 1

    def __init__(self, inputs: int, channels: int, *, stride: int, axes: int, factorised: bool = False, rngs: nnx.Rngs):
        middle = middle_channels(inputs, channels)

        def conv(inputs: int, stride: int) -> nnx.Module:
            if factorised:
                return Factorised(inputs, middle, channels, size=3, stride=(stride,) * 3, rngs=rngs)
            return ConvNorm(inputs, channels, [3] * axes, stride=[stride] * axes, rngs=rngs)

        # The released (2+1)-D networks give both convolutions of a block the middle of its first.
        self.first = conv(inputs, stride)
        self.second = conv(channels, 1)
        self.shortcut = nnx.data(_shortcut(inputs, channels, stride, axes, rngs))

    def __call__(self, x: Float[Array, "B ... Cin"], valid: Bool[Array, "B ..."]) -> Part:
        y, there = self.first(x, valid)
        y, there = self.second(jax.nn.relu(y), there)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, valid)
        return jax.nn.relu(y + x), there


class Bottleneck(nnx.Module):
    """y = ReLU(F(x) + S(x)), F = conv1-BN-ReLU-conv3-BN-ReLU-conv1-BN to four times the channels.

    He et al. 2016, section 4.1; the stride is that of the middle convolution, as in the networks that are released.
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, *, stride: int, axes: int, rngs: nnx.Rngs):
        outputs = self.expansion * channels
        self.reduce = ConvNorm(inputs, channels, [1] * axes, rngs=rngs)
        self.middle = ConvNorm(channels, channels, [3] * axes, stride=[stride] * axes, rngs=rngs)
        self.expand = ConvNorm(channels, outputs, [1] * axes, rngs=rngs)
        self.shortcut = nnx.data(_shortcut(inputs, outputs, stride, axes, rngs))

    def __call__(self, x: Float[Array, "B ... Cin"], valid: Bool[Array, "B ..."]) -> Part:
        y, there = self.reduce(x, valid)
        y, there = self.middle(jax.nn.relu(y), there)
        y, there = self.expand(jax.nn.relu(y), there)
        if self.shortcut is not None:
            x, _ = self.shortcut(x, valid)
        return jax.nn.relu(y + x), there


def _shortcut(inputs: int, outputs: int, stride: int, axes: int, rngs: nnx.Rngs) -> ConvNorm | None:
    if stride == 1 and inputs == outputs:
        return None
    return ConvNorm(inputs, outputs, [1] * axes, stride=[stride] * axes, rngs=rngs)


class ResNetTrunk(nnx.Module):
    """A residual network without its classifier: [B, ..., Cin] to [B, ..., features].

    Args:
      axes: 2 for images and spectrograms, 3 for video.
      factorised: (2+1)-D convolutions; three axes and depth 18 only.
    """

    def __init__(
        self,
        inputs: int,
        *,
        axes: Literal[2, 3],
        depth: int,
        channels: int,
        stem: Stem,
        factorised: bool = False,
        rngs: nnx.Rngs,
    ):
        self.axes = axes
        size, step = (7, 2) if stem == "standard" else (3, 1)
        if factorised:
            # 45 channels between in the released network, which the formula of its blocks does not give.
            middle = max(45 * channels // 64, 1)
            self.stem = Factorised(inputs, middle, channels, size=size, stride=(1, step, step), rngs=rngs)
        else:
            time = axes - 2
            self.stem = ConvNorm(inputs, channels, [3] * time + [size] * 2, stride=[1] * time + [step] * 2, rngs=rngs)
        self.pool = axes == 2 and stem == "standard"

        options = {"factorised": True} if factorised else {}
        block = BasicBlock if depth == 18 else Bottleneck
        blocks, width = [], channels
        for stage, count in enumerate(STAGES[depth]):
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(block(width, channels << stage, stride=stride, axes=axes, **options, rngs=rngs))
                width = (channels << stage) * block.expansion
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "B ..."], valid: Bool[Array, "B ..."]) -> Part:
        if x.ndim == self.axes + 1:  # A spectrogram is an image of one channel.
            x = x[..., None]
        x, valid = self.stem(x, valid)
        x = jax.nn.relu(x)
        if self.pool:
            x, valid = max_pool(x, valid, (3, 3), (2, 2))
        for block in self.blocks:
            x, valid = block(x, valid)
        return x, valid


@dataclasses.dataclass(frozen=True)
class ResNet:
    """A ResNet over every frame of a video by itself, or over a spectrogram as an image of one channel.

    Frames [T, h, w, C] make one token each, the mean of their final map (He et al. 2016); a spectrogram [T, F] one
    token a time step of its final map, the mean over frequencies. The tokens are projected to the model's width
    unless ``features`` is that width.

    Attributes:
      depth: 18 (basic blocks) or 50 (bottleneck blocks).
      channels: of the first stage.
      stem: standard, a strided 7x7 convolution and max pooling, an extent of the final map being a 32nd of the
        input's; small, one 3x3 convolution for images of 64 pixels and below, an 8th (He et al. 2016, section 4.2).
      cells: one token for every cell of the final map.
    """

    modality: str
    shape: tuple[int, ...]
    depth: int = 18
    channels: int = 64
    stem: Stem = "standard"
    cells: bool = False

    def __post_init__(self) -> None:
        _check_depth(self.modality, self.depth)
        if len(self.shape) not in (2, 4):
            raise ValueError(f"{self.modality}: shape {self.shape} is neither (T, F) nor (T, height, width, C)")

    @property
    def features(self) -> int:
        """Channels of the final map."""
        return _features(self.depth, self.channels)

    @property
    def grid(self) -> tuple[int, ...]:
        """Extents of the final map: time, then cells."""
        stride = 32 if self.stem == "standard" else 8
        reduced = self.shape[1:3] if len(self.shape) == 4 else self.shape
        cells = tuple(math.ceil(extent / stride) for extent in reduced)
        return (self.shape[0], *cells) if len(self.shape) == 4 else cells

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) if self.cells else self.grid[0]

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        frames = len(self.shape) == 4
        inputs = self.shape[3] if frames else 1
        trunk = ResNetTrunk(inputs, axes=2, depth=self.depth, channels=self.channels, stem=self.stem, rngs=rngs)
        stride = 1 if frames else 32 if self.stem == "standard" else 8
        readout = Readout(self.features, width, stride=stride, cells=self.cells, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout, single=frames)


@dataclasses.dataclass(frozen=True)
class ResNet3D:
    """A ResNet with convolutions over time and space of a video [T, h, w, C]: R3D, or R(2+1)D where factorised.

    Tran et al. 2018; depth 50 has the bottleneck blocks of Hara, Kataoka, Satoh: Can Spatiotemporal 3D CNNs Retrace
    the History of 2D CNNs and ImageNet?, CVPR 2018, behind the stem of depth 18. A token is the mean of the final
    map over space at one of its time steps, each of 8 frames. The tokens are projected to the model's width unless
    ``features`` is that width.

    Attributes:
      depth: 18, or 50 without factorised convolutions.
      factorised: every 3x3x3 convolution as 1x3x3 and 3x1x1.
      channels: of the first stage.
      stem: standard, a 3x7x7 convolution with stride 2 in space, a height of the final map being a 16th of the
        input's; small, a 3x3x3 convolution for frames of 64 pixels and below, an 8th (ours).
      cells: one token for every cell of the final map.
    """

    modality: str
    shape: tuple[int, ...]
    depth: int = 18
    factorised: bool = False
    channels: int = 64
    stem: Stem = "standard"
    cells: bool = False

    def __post_init__(self) -> None:
        _check_depth(self.modality, self.depth)
        if len(self.shape) != 4:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, height, width, C)")
        if self.factorised and self.depth != 18:
            raise ValueError(f"{self.modality}: factorised convolutions go with depth 18, not {self.depth}")

    @property
    def features(self) -> int:
        """Channels of the final map."""
        return _features(self.depth, self.channels)

    @property
    def grid(self) -> tuple[int, ...]:
        """Extents of the final map: time, height, width."""
        space = 16 if self.stem == "standard" else 8
        return tuple(math.ceil(e / s) for e, s in zip(self.shape, (8, space, space), strict=False))

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) if self.cells else self.grid[0]

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        trunk = ResNetTrunk(
            self.shape[3],
            axes=3,
            depth=self.depth,
            channels=self.channels,
            stem=self.stem,
            factorised=self.factorised,
            rngs=rngs,
        )
        readout = Readout(self.features, width, stride=8, cells=self.cells, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout)


def _features(depth: int, channels: int) -> int:
    return (channels << 3) * (1 if depth == 18 else 4)


def _check_depth(modality: str, depth: int) -> None:
    if depth not in STAGES:
        raise ValueError(f"{modality}: there is no depth {depth}; choose one of {sorted(STAGES)}")
