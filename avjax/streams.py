"""The types that every part of avjax passes on: Stream, Batch, Output, Mean.

One letter table for every shape annotation of the project:
B batch, N tokens, T time, H heads, D head width, C channels, F mel bins, G groups, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# A NumPy array on the host, a jax.Array on a device; and, since these types are pytrees, whatever a tree map makes
# of one: a sharding, a shape.
Array = Any


def beside(rows: Array, values: Array) -> Array:
    """Numbers of rows [B], or of steps [B, T], with axes of length 1 behind, to go with values [B, T, ...]."""
    return rows.reshape(*rows.shape, *[1] * (values.ndim - rows.ndim))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stream:
    """One modality of a batch: samples, frames or tokens along a time axis.

    A missing modality is a Stream that is ``valid`` nowhere; there is no other sign of absence.

    Attributes:
      values: [B, T, ...] waveform samples, frames, spectrogram rows or tokens.
      valid: [B, T] bool, False where there is nothing (padding, missing modality).
      start: [B] seconds from the start of the clip to the first element.
      rate: elements per second, the same for every row.
    """

    values: Array
    valid: Array
    start: Array
    rate: float = dataclasses.field(metadata={"static": True})

    def replace(self, **changes: Any) -> Stream:
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a model is given.

    Attributes:
      streams: modality name -> Stream. Every modality that an experiment declares is present.
      target: head name -> [B, K] class distribution (one-hot, multi-hot or mixed), [B, D] values,
        [B, T, ...] labels over time, or [B, L] numbers of tokens with 0 behind. ``head/valid`` [B, T] says where labels
        over time are; ``head/modality`` holds a target of that modality's own, where mixup made one.
      weight: [B] float; 0 marks a filler row, which counts nowhere.
      index: [B] number of the record in its split.
    """

    streams: Mapping[str, Stream]
    target: Mapping[str, Array]
    weight: Array
    index: Array

    def replace(self, **changes: Any) -> Batch:
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What a model returns.

    Attributes:
      logits: head name -> [B, K]; ``head/modality`` holds the logits of one modality alone.
      tokens: modality name -> Stream of the last layer's tokens.
      aux: anything else that an objective of the model needs.
      fused: whether the logits of a head come from the modalities together; False where they are no more than the mean
        of the modalities' own, so that the losses of those are the whole loss.
    """

    logits: Mapping[str, Array]
    tokens: Mapping[str, Stream]
    aux: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fused: bool = dataclasses.field(default=True, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over rows by weight, kept as the two sums, so that the means of parts of a batch add up to its own.

    Attributes:
      total: sum of the rows' numbers times their weights.
      weight: sum of the weights.
    """

    total: Array
    weight: Array

    @property
    def value(self) -> Array:
        """The mean; 0 where nothing has weight."""
        return self.total / jnp.maximum(self.weight, 1e-8)

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)
