"""Spikes of pictures, for spiking networks."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool

from avjax.nn.encoders.trunk import features
from avjax.nn.spiking import SpikingPatchSplitting
from avjax.streams import Stream


@dataclasses.dataclass(frozen=True)
class SpikingPatches:
    """Spiking patch splitting (``SpikingPatchSplitting``) of T pictures [height, width, C], one a time step.

    Each is a frame, a count of events, or a spectrogram, which may be the same at every step. A token is a place at a
    time step and counts its spikes, 0 to 2 in every channel.

    Attributes:
      shape: (T, height, width, C).
      depth: stages, each of which halves height and width.
    """

    modality: str
    shape: tuple[int, ...]
    depth: int = 4

    def __post_init__(self) -> None:
        if len(self.shape) != 4:
            raise ValueError(f"{self.modality}: shape {self.shape} is not (T, height, width, C)")

    @property
    def grid(self) -> tuple[int, ...]:
        """Time steps, and the places of each."""
        return (self.shape[0], *(math.ceil(extent / 2**self.depth) for extent in self.shape[1:3]))

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def build(self, width: int, *, rngs: nnx.Rngs) -> SpikingStem:
        return SpikingStem(self, width, rngs=rngs)


class SpikingStem(nnx.Module):
    """Tokens of a stream through spiking patch splitting."""

    def __init__(self, config: SpikingPatches, width: int, *, rngs: nnx.Rngs):
        self.modality, self.shape, self.places = config.modality, config.shape, math.prod(config.grid[1:])
        self.split = SpikingPatchSplitting(self.shape[3], width, depth=config.depth, rngs=rngs)

    def __call__(self, stream: Stream, keep: Bool[Array, "B N"] | None = None) -> Stream:
        """Tokens [B, N, C] in time-major order; ``keep`` hides some of them."""
        x, valid = features(self.modality, self.shape, stream)
        spikes = self.split(x, valid)
        there = jnp.repeat(valid, self.places, axis=1)
        return Stream(
            values=spikes.reshape(x.shape[0], -1, spikes.shape[-1]),
            valid=there if keep is None else there & keep,
            start=stream.start,
            rate=stream.rate * self.places,
        )
