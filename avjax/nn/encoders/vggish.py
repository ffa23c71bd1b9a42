"""VGGish: a VGG-like network over patches of a log-mel spectrogram.

Hershey, Chaudhuri, Ellis et al.: CNN Architectures for Large-Scale Audio Classification, ICASSP 2017; the released
network has 96 x 64 patches, four stages of convolutions, and 128 features a patch.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import Conv
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders.trunk import Part, Readout, TrunkEncoder, max_pool

# Convolutions of each stage, and their channels as multiples of the first's.
STAGES = ((1, 1), (1, 2), (2, 4), (2, 8))


class VGGishTrunk(nnx.Module):
    """[B, patch, F] to [B, features], or to the map [B, patch / 8, F / 8, 8 channels] before the last pooling."""

    def __init__(self, config: VGGish, *, rngs: nnx.Rngs):
        self.conv_map = config.conv_map
        stages, inputs = [], 1
        for count, multiple in STAGES:
            convolutions = []
            for _ in range(count):
                convolutions.append(Conv(inputs, multiple * config.channels, (3, 3), rngs=rngs))
                inputs = multiple * config.channels
            stages.append(nnx.List(convolutions))
        self.stages = nnx.List(stages)
        if not config.conv_map:
            flat = inputs * math.ceil(config.patch / 16) * math.ceil(config.shape[1] / 16)
            self.first = Dense(flat, config.hidden, axes=(EMBED, HIDDEN), rngs=rngs)
            self.second = Dense(config.hidden, config.hidden, axes=(HIDDEN, EMBED), rngs=rngs)
            self.embed = Dense(config.hidden, config.embedding, axes=(EMBED, HIDDEN), rngs=rngs)

    def __call__(self, x: Float[Array, "B T F"], valid: Bool[Array, " B"]) -> Part:
        x = x[..., None]
        for number, stage in enumerate(self.stages):
            for conv in stage:
                x = jax.nn.relu(conv(x))
            if number < 3 or not self.conv_map:
                x, valid = max_pool(x, valid, (2, 2), (2, 2))
        if self.conv_map:
            return x, valid
        x = x.reshape(x.shape[0], -1)
        return self.embed(jax.nn.relu(self.second(jax.nn.relu(self.first(x))))), valid


@dataclasses.dataclass(frozen=True)
class VGGish:
    """VGGish over patches of a log-mel spectrogram [T, F]: one token a patch, or one a cell of its last map.

    Each stage is 3x3 convolutions with ReLU and a 2x2 maximum, with 1, 1, 2, 2 convolutions of 64, 128, 256, 512
    channels; then fully connected layers of 4096, 4096 (ReLU) and 128. Steps of a patch that are not valid are 0 in
    it. The tokens are projected to the model's width unless ``features`` is that width.

    Attributes:
      patch: time steps a patch; 96 of 10 ms in the released network, with 64 mel bins.
      conv_map: the map before the last pooling, [12, 8, 512] a patch of 96 x 64, each cell a token, in place of the
        fully connected layers (MAFnet's audio).
      channels: of the first stage.
      hidden, embedding: widths of the fully connected layers.
    """

    modality: str
    shape: tuple[int, ...]
    patch: int = 96
    conv_map: bool = False
    channels: int = 64
    hidden: int = 4096
    embedding: int = 128

    def __post_init__(self) -> None:
        if len(self.shape) != 2:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, F)")
        if self.shape[0] % self.patch:
            raise ValueError(
                f"{self.modality}: {self.shape[0]} time steps are not a multiple of the patch, {self.patch};"
                " change the crop in the experiment's data or the patch"
            )

    @property
    def features(self) -> int:
        """Values a token before the projection."""
        return 8 * self.channels if self.conv_map else self.embedding

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches; with ``conv_map`` also the extents of a patch's map."""
        patches = self.shape[0] // self.patch
        return (patches, math.ceil(self.patch / 8), math.ceil(self.shape[1] / 8)) if self.conv_map else (patches,)

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        readout = Readout(self.features, width, stride=self.patch, cells=self.conv_map, rngs=rngs)
        trunk = VGGishTrunk(self, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, trunk, readout, single=True, patch=self.patch)
