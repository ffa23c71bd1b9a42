"""Features that a network made before: from files, straight to tokens."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import BatchNorm
from avjax.nn.dense import layer_norm
from avjax.nn.encoders.trunk import Part, Readout, TrunkEncoder


class Norm(nnx.Module):
    """Layer or batch normalisation of features, or nothing."""

    def __init__(self, kind: Literal["none", "layer", "batch"], width: int, *, rngs: nnx.Rngs):
        self.kind = kind
        if kind == "layer":
            self.norm = layer_norm(width, rngs)
        elif kind == "batch":
            self.norm = BatchNorm(width, rngs=rngs)

    def __call__(self, x: Float[Array, "B T ... C"], valid: Bool[Array, "B T"]) -> Part:
        if self.kind == "none":
            return x, valid
        return (self.norm(x) if self.kind == "layer" else self.norm(x, valid)), valid


@dataclasses.dataclass(frozen=True)
class Precomputed:
    """x W + b of features [T, C], or [T, height, width, C] with one token for every cell; no positions.

    Where C is the model's width there is no projection: the tokens are the features.

    Attributes:
      norm: of the features before the projection.
    """

    modality: str
    shape: tuple[int, ...]
    norm: Literal["none", "layer", "batch"] = "none"

    def __post_init__(self) -> None:
        if len(self.shape) < 2:
            raise ValueError(f"{self.modality}: shape {self.shape} is neither (T, C) nor (T, height, width, C)")

    @property
    def features(self) -> int:
        return self.shape[-1]

    @property
    def grid(self) -> tuple[int, ...]:
        """Time steps, and the cells of each."""
        return self.shape[:-1]

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def build(self, width: int, *, rngs: nnx.Rngs) -> TrunkEncoder:
        readout = Readout(self.features, width, cells=True, rngs=rngs)
        return TrunkEncoder(self.modality, self.shape, Norm(self.norm, self.features, rngs=rngs), readout)
