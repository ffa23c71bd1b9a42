"""Players of a coalition: into which parts a clip is divided, whose presence a Shapley value is of.

Two kinds. Tokens: a player is some of the encoder's tokens, and an absent one is hidden from every layer (fill "drop").
Raw: a player is a window of the waveform or a cell of the frames, before the front end, and an absent one is replaced
by a baseline (fill "zero", "mean"): any model has these. Sound and pictures have equally many, or sampling noise would
favour the one with more (Parcalabescu & Frank 2023 choose so too).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Num

from avjax.streams import Stream

Baseline = Mapping[str, Num[np.ndarray, "..."] | Num[Array, "..."]]
"""Modality -> what stands in for an absent part, of a row's shape or one that broadcasts to it."""

COUNT = 16
"""Players of each modality, where it can be divided into so many."""
# Of raw frames: in time, height and width.
CELLS = (4, 2, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Players:
    """A division of clips; one is equal to itself alone.

    Attributes:
      groups: modality of each player.
      where: modality -> player of each of its tokens [N]; raw, of each element [T], or pixel [T, H, W].
      raw: which of the two.
    """

    groups: tuple[str, ...]
    where: Mapping[str, Int[np.ndarray, "..."]]
    raw: bool

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.groups))

    def of(self, modality: str) -> Bool[np.ndarray, " n"]:
        """Which players are of a modality."""
        return np.array([group == modality for group in self.groups])


def token_players(grids: Mapping[str, Sequence[int]], count: int = COUNT) -> Players:
    """Blocks of neighbouring tokens: in time first for sound, in time, height and width for pictures.

    Args:
      grids: modality -> tokens along each axis, time first.
      count: of each modality; fewer where one of them cannot be divided into so many.
    """
    splits = _equal({m: tuple(grid) for m, grid in grids.items()}, count)
    return _players({m: (tuple(grids[m]), split) for m, split in splits.items()}, raw=False)


def raw_players(streams: Mapping[str, Stream], count: int = COUNT) -> Players:
    """Windows of the waveform, cells of the frames, steps of features."""
    grids = {m: s.values.shape[1:4] if s.values.ndim == 5 else s.values.shape[1:2] for m, s in streams.items()}
    splits = _equal(grids, count)
    return _players({m: (grids[m], split) for m, split in splits.items()}, raw=True)


def split(grid: Sequence[int], count: int) -> tuple[int, ...]:
    """Into how many parts each axis is cut, ``count`` in all or as near below as it goes.

    Video (three axes) as 4 x 2 x 2 of 16; otherwise time is cut first, and what it cannot give is left to the others.
    """
    wanted = CELLS if len(grid) == 3 and count == COUNT else (count, *[count] * (len(grid) - 1))
    parts = []
    for extent, most in zip(grid, wanted, strict=True):
        room = count // math.prod(parts)
        parts.append(max(min(extent, most, room), 1))
    # What an axis could not give, those before it may.
    for axis, extent in enumerate(grid):
        others = math.prod(parts) // parts[axis]
        parts[axis] = max(min(extent, count // others), 1)
    return tuple(parts)


def filled(streams: Mapping[str, Stream], kept: Any, players: Players, baseline: Baseline) -> dict[str, Stream]:
    """The streams with the baseline in place of absent raw players; of NumPy arrays or JAX's.

    Args:
      kept: one coalition for all rows [n], or one a row [B, n].
    """
    found = {}
    for modality, where in players.where.items():
        stream = streams[modality]
        there = kept[..., where]
        there = there.reshape(there.shape + (1,) * (stream.values.ndim - 1 - where.ndim))
        library = np if isinstance(stream.values, np.ndarray) else jnp
        found[modality] = stream.replace(values=library.where(there, stream.values, baseline[modality]))
    return found


def _equal(grids: Mapping[str, Sequence[int]], count: int) -> dict[str, tuple[int, ...]]:
    """A split of each with the same number of players in all, the largest up to ``count`` that all can have."""
    for number in range(count, 0, -1):
        splits = {modality: split(grid, number) for modality, grid in grids.items()}
        if all(math.prod(parts) == number for parts in splits.values()):
            return splits
    raise ValueError(f"grids {dict(grids)}: no axis has an element")


def _players(divided: Mapping[str, tuple[Sequence[int], tuple[int, ...]]], *, raw: bool) -> Players:
    groups: list[str] = []
    where = {}
    for modality, (grid, parts) in divided.items():
        # In whole numbers, so that no part is empty where an axis has as many elements as parts.
        along = [np.arange(extent) * number // extent for extent, number in zip(grid, parts, strict=True)]
        player = np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), parts) + len(groups)
        where[modality] = player if raw else player.ravel()
        groups += [modality] * math.prod(parts)
    return Players(tuple(groups), where, raw)
