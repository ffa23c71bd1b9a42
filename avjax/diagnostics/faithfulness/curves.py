"""Deletion and insertion: what the model says as cells go, or come, in the order of one sample's saliency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.measured import Undefined

KeptValue = Callable[[Bool[np.ndarray, "S N"]], Float[np.ndarray, "S B"]]
"""What the model says of one sample with the kept cells of each row: B values, such as classes or models."""
Order = Int[np.ndarray, " M"]
"""Cells, most salient first; those that are not in it stay as they are."""

FRACTIONS = tuple(step / 20 for step in range(21))
ERASED = (0.01, 0.05, 0.10, 0.20, 0.50)


class Area(NamedTuple):
    """Area under a curve and under those it has to be read against, one for each of the B values.

    random is the mean over ``draws`` random orders and random_deviation their standard deviation. curve and
    random_curve are what area and random are the areas of.
    """

    area: Float[np.ndarray, " B"]
    reversed: Float[np.ndarray, " B"]
    random: Float[np.ndarray, " B"]
    random_deviation: Float[np.ndarray, " B"]
    curve: Float[np.ndarray, "Q B"]
    random_curve: Float[np.ndarray, "Q B"]

    @property
    def gap(self) -> Float[np.ndarray, " B"]:
        """reversed - area, the MoRF-LeRF gap of deletion, and of insertion its negative; null baseline 0."""
        return self.reversed - self.area

    @property
    def against_random(self) -> Float[np.ndarray, " B"]:
        """area - random: below 0 is better of deletion, above 0 of insertion."""
        return self.area - self.random


def ranking(saliency: Num[np.ndarray, " N"], among: Bool[np.ndarray, " N"]) -> Order:
    """Cells of ``among``, most salient first; of equal ones the earlier.

    Three rankings are to be run, ours: of all valid cells, of audio's and of video's, because the joint one may
    finish one modality first. Pitfall: where saliency ties, the order is that of the cells, not the model's.
    """
    order = np.argsort(-np.asarray(saliency, np.float64), kind="stable")
    return order[among[order]]


def deletion_curve(
    value: KeptValue, order: Order, cells: int, *, fractions: Sequence[float] = FRACTIONS
) -> Float[np.ndarray, "Q B"]:
    """p_c(q) / p_c(0) with the first share q of the cells in order removed (RISE, Petsiuk et al. 2018).

    Undefined where p_c(0), the value with all cells, is not positive.

    Args:
      cells: N, of the keep mask.
      fractions: q; the number of cells is rounded, so that equal steps are equal only where M allows it.
    """
    return _over_whole(value, _kept(order, cells, _counts(len(order), fractions)), cells)


def insertion_curve(
    value: KeptValue, order: Order, cells: int, *, fractions: Sequence[float] = FRACTIONS
) -> Float[np.ndarray, "Q B"]:
    """p_c(q) / p_c with the first share q of the cells in order there and the rest of the order removed (RISE)."""
    counts = len(order) - _counts(len(order), fractions)
    return _over_whole(value, _kept(order[::-1], cells, counts), cells)


def deletion(
    value: KeptValue,
    order: Order,
    cells: int,
    *,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 10,
    seed: int = 0,
) -> Area:
    """Area under ``deletion_curve`` over the share that is gone, by trapezoids; lower is better.

    0 to 1 where values fall from p_c(0) to 0, unbounded otherwise. Uninterpretable without the random and the
    reversed order, which come with it. Pitfalls: probability and logit order models differently; a zeroed or grey
    patch shows its outline.
    """
    return _area(deletion_curve, value, order, cells, fractions, draws, seed)


def insertion(
    value: KeptValue,
    order: Order,
    cells: int,
    *,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 10,
    seed: int = 0,
) -> Area:
    """Area under ``insertion_curve`` over the share that is there, by trapezoids; higher is better.

    By one fill it is the area of ``deletion`` in reversed order, up to rounding of counts, so that it says something
    new only by another, such as blur. Otherwise as ``deletion``.
    """
    return _area(insertion_curve, value, order, cells, fractions, draws, seed)


def comprehensiveness(
    value: KeptValue, order: Order, cells: int, *, fractions: Sequence[float] = ERASED
) -> Float[np.ndarray, "Q B"]:
    """p_c(x) - p_c(x without r), r the top share of the order (ERASER, DeYoung et al. 2020); higher is better.

    In [-1, 1] of probabilities. At least one cell is removed. Its mean over the fractions is the AOPC.
    """
    kept = _kept(order, cells, _some_counts(len(order), fractions))
    return _whole(value, cells) - np.asarray(value(kept), np.float64)


def sufficiency(
    value: KeptValue, order: Order, cells: int, *, fractions: Sequence[float] = ERASED
) -> Float[np.ndarray, "Q B"]:
    """p_c(x) - p_c(r alone), r the top share of the order (ERASER, DeYoung et al. 2020); lower is better, 0 ideal.

    In [-1, 1] of probabilities. Its mean over the fractions is the AOPC.
    """
    kept = _kept(order[::-1], cells, len(order) - _some_counts(len(order), fractions))
    return _whole(value, cells) - np.asarray(value(kept), np.float64)


def aopc(differences: Float[np.ndarray, "Q B"]) -> Float[np.ndarray, " B"]:
    """Area over the perturbation curve: the mean of ``comprehensiveness``, or of ``sufficiency``, over fractions."""
    return differences.mean(axis=0)


def _area(
    curve: Callable[..., np.ndarray],
    value: KeptValue,
    order: Order,
    cells: int,
    fractions: Sequence[float],
    draws: int,
    seed: int,
) -> Area:
    if not len(order):
        raise Undefined("no cells to remove")
    # Where M cells cannot make the fractions, the widths are those of the cells that went.
    share = _counts(len(order), fractions) / len(order)
    random = np.random.default_rng(seed)

    def along(turned: np.ndarray) -> np.ndarray:
        return curve(value, turned, cells, fractions=fractions)

    def area(found: np.ndarray) -> np.ndarray:
        return np.trapezoid(found, share, axis=0)

    # Of the cells in their own order: two rankings of the same cells are read against the same random ones.
    drawn = [along(random.permutation(np.sort(order))) for _ in range(draws)]
    areas = np.stack([area(found) for found in drawn])
    own = along(order)
    return Area(area(own), area(along(order[::-1])), areas.mean(axis=0), areas.std(axis=0), own, np.mean(drawn, axis=0))


def _counts(cells: int, fractions: Sequence[float]) -> Int[np.ndarray, " Q"]:
    return np.rint(np.asarray(fractions) * cells).astype(np.int64)


def _some_counts(cells: int, fractions: Sequence[float]) -> Int[np.ndarray, " Q"]:
    if not cells:
        raise Undefined("no cells to remove")
    return np.maximum(_counts(cells, fractions), 1)


def _kept(order: Order, cells: int, removed: Int[np.ndarray, " Q"]) -> Bool[np.ndarray, "Q N"]:
    """Rows that lack the first so many cells of the order."""
    place = np.full(cells, cells)
    place[order] = np.arange(len(order))
    return place >= removed[:, None]


def _whole(value: KeptValue, cells: int) -> Float[np.ndarray, "1 B"]:
    return np.asarray(value(np.ones((1, cells), bool)), np.float64)


def _over_whole(value: KeptValue, kept: Bool[np.ndarray, "Q N"], cells: int) -> Float[np.ndarray, "Q B"]:
    whole = _whole(value, cells)
    if not (whole > 0).all():
        raise Undefined("the model's value of the whole sample is not positive: curves are shares of it")
    return np.asarray(value(kept), np.float64) / whole
