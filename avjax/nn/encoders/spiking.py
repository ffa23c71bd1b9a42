"""Spikes of pictures, for spiking networks."""

from __future__ import annotations

import dataclasses
import math

import jax
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
      shape: (T, height, width, C); or (T, F) of a spectrogram, which is then shown whole at every step.
      depth: stages, each of which halves height and width.
      show: of a spectrogram: time steps, and height and width to which it is resized.
    """

    modality: str
    shape: tuple[int, ...]
    depth: int = 4
    show: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != (4 if self.show is None else 2):
            raise ValueError(
                f"{self.modality}: shape {self.shape} is neither (T, height, width, C) nor, with show, (T, F)"
            )

    @property
    def pictures(self) -> tuple[int, int, int, int]:
        """(T, height, width, C) of what is split into patches."""
        return self.shape if self.show is None else (*self.show, 1)

    @property
    def grid(self) -> tuple[int, ...]:
        """Time steps, and the places of each."""
        return (self.pictures[0], *(math.ceil(extent / 2**self.depth) for extent in self.pictures[1:3]))

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    def build(self, width: int, *, rngs: nnx.Rngs) -> SpikingStem:
        return SpikingStem(self, width, rngs=rngs)


class SpikingStem(nnx.Module):
    """Tokens of a stream through spiking patch splitting."""

    def __init__(self, config: SpikingPatches, width: int, *, rngs: nnx.Rngs):
        self.modality, self.shape, self.show = config.modality, config.shape, config.show
        self.places = math.prod(config.grid[1:])
        self.split = SpikingPatchSplitting(config.pictures[3], width, depth=config.depth, rngs=rngs)

    def __call__(self, stream: Stream, keep: Bool[Array, "B N"] | None = None) -> Stream:
        """Tokens [B, N, C] in time-major order; ``keep`` hides some of them."""
        x, valid = features(self.modality, self.shape, stream)
        rate = stream.rate
        if self.show is not None:
            steps, *size = self.show
            shown = jax.image.resize(x, (x.shape[0], *size), "linear")[:, None, ..., None]
            x, valid = jnp.repeat(shown, steps, axis=1), jnp.repeat(valid.any(axis=1, keepdims=True), steps, axis=1)
            rate = rate * steps / self.shape[0]
        spikes = self.split(x, valid)
        there = jnp.repeat(valid, self.places, axis=1)
        return Stream(
            values=spikes.reshape(x.shape[0], -1, spikes.shape[-1]),
            valid=there if keep is None else there & keep,
            start=stream.start,
            rate=rate * self.places,
        )
