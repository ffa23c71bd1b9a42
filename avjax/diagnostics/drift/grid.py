"""Saliency of any source on the cells that all states share: pooled, normalised, and cut to what two states share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.measured import Undefined

AUDIO_GRID = (4, 4)
"""Frequency and time of CMSD version 1: 16 cells."""
VISUAL_GRID = (7, 7)
"""Height and width of CMSD version 1: 49 cells."""

Pair = tuple[Float[np.ndarray, "*rows J"], Float[np.ndarray, "*rows J"]]
Lost = tuple[Float[np.ndarray, "*rows"] | float, Float[np.ndarray, "*rows"] | float]


def pooled(mass: Num[np.ndarray, "*rows H W"], grid: tuple[int, int]) -> Float[np.ndarray, "*rows h w"]:
    """Sum of mass in each cell of a coarser grid: cells that lie across a border are split by area.

    The total stays as it is, which a mean over cells would not keep between modalities of different size. Signed
    attributions are pooled as |phi|, which the caller takes, so that it can say so.
    """
    if not (mass >= 0).all():
        raise ValueError("mass is not negative: pool the magnitudes of a signed attribution")
    rows, columns = _overlap(mass.shape[-2], grid[0]), _overlap(mass.shape[-1], grid[1])
    return rows @ np.asarray(mass, np.float64) @ columns.T


def cells(names: Sequence[str], counts: Sequence[int]) -> tuple[str, ...]:
    """Modality of each cell of a state: as many of each name as it has cells, in order."""
    return tuple(name for name, count in zip(names, counts, strict=True) for _ in range(count))


def state(parts: Sequence[Num[np.ndarray, "*rows _"]]) -> Float[np.ndarray, "*rows J"]:
    """pi: masses of all modalities, one after another, over their total; not normalised within a modality.

    Undefined where a row has no mass. Pool first: normalising first would weigh modalities by their number of cells.
    """
    mass = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=-1)
    if not (mass >= 0).all():
        raise ValueError("mass is not negative: take the magnitudes of a signed attribution")
    return _over_total(mass)


def co_valid(
    one: Float[np.ndarray, "*rows J"], other: Float[np.ndarray, "*rows J"], valid: Bool[np.ndarray, "*rows J"]
) -> tuple[Pair, Lost]:
    """Two states on the cells that are valid in both, each again with sum 1; and the mass that each had elsewhere.

    A cell that only one state can reach (padding, a modality that is not there) would count as drift. Undefined where
    a state has no mass on shared cells. Values elsewhere may be anything.

    Args:
      valid: of both: one's validity & the other's.
    """
    kept = [np.where(valid, np.asarray(side, np.float64), 0) for side in (one, other)]
    lost = tuple(np.clip(1 - side.sum(axis=-1), 0, 1) for side in kept)
    return (_over_total(kept[0]), _over_total(kept[1])), lost


def against_warped(
    clean: Float[np.ndarray, "N J"],
    moved: Float[np.ndarray, "N J"],
    target: Int[np.ndarray, "#N J"],
    inside: Bool[np.ndarray, "#N J"],
) -> tuple[Pair, Lost]:
    """The clean state after the warp that the input went through, and the state of the warped input, on shared cells.

    Of a rotation, crop, flip or shift in time, drift is measured between these two: a map that moves with its input
    has none. Cells whose content came from outside are left out on both sides, and what left the view is gone from the
    clean one; both are normalised again.

    Args:
      target: where each cell's content is after the warp; -1 where it is out of view. Several may come to one.
      inside: whether what is in a cell after the warp was in view before.

    Returns:
      The pair, and the mass that each side lost: of the clean state what left the view, of the moved state what lies
      on content from outside.
    """
    rows, cells = clean.shape
    target, inside = (np.broadcast_to(one, clean.shape) for one in (target, inside))
    mass = np.where(target >= 0, np.asarray(clean, np.float64), 0)
    # What comes to cells that count as from outside, by rounding of places to cells, is out of the comparison too.
    place = (np.arange(rows)[:, None] * cells + np.maximum(target, 0)).ravel()
    return co_valid(np.bincount(place, mass.ravel(), rows * cells).reshape(rows, cells), moved, inside)


def _over_total(mass: np.ndarray) -> np.ndarray:
    total = mass.sum(axis=-1, keepdims=True)
    none = int((total == 0).sum())
    if none:
        raise Undefined(f"{none} of {total.size} rows have no saliency on their cells")
    return mass / total


def _overlap(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Share of each old cell's length that lies in each new one; columns sum to 1."""
    # In whole numbers, with each length cut into old * new parts, so that no rounding leaks across a border.
    start, at = np.arange(new)[:, None] * old, np.arange(old)[None] * new
    return np.clip(np.minimum(start + old, at + new) - np.maximum(start, at), 0, None) / new
