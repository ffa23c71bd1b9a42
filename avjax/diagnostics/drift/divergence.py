"""How far apart two saliency states are: CMSD and its parts, and the companions that stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num
from scipy.optimize import linprog

from avjax.diagnostics.contribution.shares import members
from avjax.diagnostics.measured import Undefined

OfRows = Float[np.ndarray, "*rows"] | float
"""One number a row; a plain one where there are no leading axes."""

# Rows may have been kept in float32; what is further from 1 was never normalised.
SUM_TOLERANCE = 1e-4
# Below it 1 / lam overflows, and its part of a divergence, lam log(1 / lam) at most, is 0 next to any other.
LEAST_WEIGHT = 1e-300


class Drift(NamedTuple):
    """CMSD of each row and its parts, in bits: ``total = allocation + localisation.sum(axis=-1)``, exactly."""

    total: OfRows
    allocation: OfRows
    localisation: Float[np.ndarray, "*rows G"]


def distributions(states: Num[np.ndarray, "*rows J"]) -> Float[np.ndarray, "*rows J"]:
    """The rows in float64, with sum 1 to its precision; ValueError where they are no distributions."""
    states = np.asarray(states, np.float64)
    total = states.sum(axis=-1, keepdims=True)
    if not (states >= 0).all() or not (np.abs(total - 1) <= SUM_TOLERANCE).all():
        raise ValueError("a saliency state is not negative and its sum is 1: see avjax.diagnostics.drift.grid.state")
    return states / total


def jensen_shannon(
    one: Float[np.ndarray, "*rows J"],
    other: Float[np.ndarray, "*rows J"],
    weight: Float[np.ndarray, "*#rows"] | float = 0.5,
) -> OfRows:
    """JSD_lam(s || t) = lam KL_2(s || mu) + (1 - lam) KL_2(t || mu),   mu = lam s + (1 - lam) t   (Lin 1991).

    In bits, in [0, h_2(lam)] with h_2 the entropy of a coin, so in [0, 1]; 0 where equal. lam = 1/2 is JSD_2.

    Args:
      weight: lam, one a row or one for all.
    """
    weight = np.asarray(weight, np.float64)[..., None]
    weight = np.where(weight < LEAST_WEIGHT, 0, weight)
    middle = weight * one + (1 - weight) * other
    apart = np.where(middle > 0, one - other, 0) / np.where(middle > 0, middle, 1)
    # s / mu = 1 + (1 - lam) a and t / mu = 1 - lam a with a = (s - t) / mu. The linear terms that ``_excess`` leaves
    # out cancel; without them no term is negative, so that the square root of a small drift keeps its digits.
    terms = middle * (weight * _excess((1 - weight) * apart) + (1 - weight) * _excess(-weight * apart))
    return np.minimum(terms.sum(axis=-1) / np.log(2), 1)


def drift(
    one: Num[np.ndarray, "*rows J"], other: Num[np.ndarray, "*rows J"], groups: Sequence[str], names: Sequence[str]
) -> Drift:
    """Cross-modal saliency drift (CMSD, version 1; ours) of each row, with what moved between and within modalities.

        CMSD = JSD_2(pi || pi') = D_alloc + sum_g D_loc,g,
        D_alloc = JSD_2(m || m'),   m_g = sum_{j in g} pi_gj,
        D_loc,g = (m_g + m'_g) / 2 JSD_lam_g(s_g || s'_g),   s_g = pi_g / m_g,   lam_g = m_g / (m_g + m'_g)

    In bits, in [0, 1]: 0 where the states are equal, 1 where they share no cell. sqrt(CMSD) is a metric (Endres &
    Schindelin 2003), so lengths of paths add roots. No direction: moving off a broken microphone is right, so that
    CMSD ranks no models without reliability following and accuracy beside it.

    Pitfalls: a finer grid gives larger values (hence ``grid``'s fixed cells); diffuse states compress it (hence
    ``calibrated``); states of different layers or sources, and different fills within one source, do not compare.

    Args:
      one, other: states before and after.
      groups: modality of each cell.
      names: modalities, in the order of ``localisation``.
    """
    one, other = distributions(one), distributions(other)
    inside = members(groups, names)
    before, after = one @ inside.T.astype(np.float64), other @ inside.T.astype(np.float64)
    both = before + after
    weight = before / np.where(both > 0, both, 1)

    def within(state: np.ndarray, mass: np.ndarray) -> np.ndarray:
        # A modality without mass has no map, and the weight of its divergence is 0.
        return np.where(inside, state[..., None, :], 0) / np.where(mass > 0, mass, 1)[..., None]

    local = both / 2 * jensen_shannon(within(one, before), within(other, after), weight)
    return Drift(jensen_shannon(one, other), jensen_shannon(before, after), local)


def total_variation(one: Float[np.ndarray, "*rows J"], other: Float[np.ndarray, "*rows J"]) -> OfRows:
    """TV = 1/2 ||pi - pi'||_1, in [0, 1]: the mass that has moved, however far. CMSD <= TV."""
    return np.abs(distributions(one) - distributions(other)).sum(axis=-1) / 2


def cosine(one: Num[np.ndarray, "*rows J"], other: Num[np.ndarray, "*rows J"]) -> OfRows:
    """<x, y> / (||x|| ||y||), in [-1, 1], in [0, 1] of states; 1 where one is a multiple of the other.

    Undefined where a row is all zero. Pitfall: the largest cells decide it.
    """
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    none = int((lengths == 0).sum())
    if none:
        raise Undefined(f"{none} of {lengths.size} rows are all zero, which has no direction")
    return (one * other).sum(axis=-1) / lengths


def rank_correlation(one: Num[np.ndarray, "*rows J"], other: Num[np.ndarray, "*rows J"]) -> OfRows:
    """Spearman's rho of each row: Pearson's correlation of ranks, ties at their mean rank; in [-1, 1].

    Of two maps of one modality, or of two numbers of many clips. Undefined where a side of a row is constant.
    Pitfall: cells of next to no mass count as much as the peak.
    """
    return correlation(_ranks(np.asarray(one, np.float64)), _ranks(np.asarray(other, np.float64)))


def correlation(one: Num[np.ndarray, "*rows J"], other: Num[np.ndarray, "*rows J"]) -> OfRows:
    """Pearson's correlation of each row, in [-1, 1]; Undefined where a side of a row is constant."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    constant = (np.ptp(one, axis=-1) == 0) | (np.ptp(other, axis=-1) == 0)
    if constant.any():
        raise Undefined(f"{int(constant.sum())} of {constant.size} rows have a constant side, which has no correlation")
    one, other = one - one.mean(axis=-1, keepdims=True), other - other.mean(axis=-1, keepdims=True)
    return np.clip(cosine(one, other), -1, 1)


def top_iou(one: Num[np.ndarray, "*rows J"], other: Num[np.ndarray, "*rows J"], fraction: float = 0.1) -> OfRows:
    """|A and B| / |A or B| of each side's top cells, ceil(fraction J) of them; in [0, 1], 1 where they are the same.

    Of equal cells the earlier comes first. Pitfall: tools that call 1 - IoU, or IoU, "drift" have either direction.
    """
    count = int(np.ceil(round(fraction * one.shape[-1], 9)))
    shared = (top(one, count) & top(other, count)).sum(axis=-1)
    return shared / (2 * count - shared)


def top(values: Num[np.ndarray, "*rows J"], count: int) -> np.ndarray:
    """Which cells of each row are its ``count`` largest; of equal cells the earlier ones."""
    chosen = np.zeros(values.shape, bool)
    order = np.argsort(-np.asarray(values, np.float64), axis=-1, kind="stable")
    np.put_along_axis(chosen, order[..., :count], True, axis=-1)
    return chosen


def earth_mover_time(one: Float[np.ndarray, "*rows T"], other: Float[np.ndarray, "*rows T"]) -> OfRows:
    """EMD = sum_t |CDF_t - CDF'_t| / (T - 1) of maps over time, in [0, 1]: 1 from the first step to the last."""
    if one.shape[-1] < 2:
        raise Undefined("one step of time has nowhere to move to")
    apart = np.cumsum(distributions(one) - distributions(other), axis=-1)
    return np.abs(apart[..., :-1]).sum(axis=-1) / (one.shape[-1] - 1)


def earth_mover_grid(one: Float[np.ndarray, "H W"], other: Float[np.ndarray, "H W"]) -> float:
    """EMD = min_F sum_ij F_ij d_ij of two maps over a grid, F >= 0 with margins pi and pi' (Rubner et al. 2000).

    d is the Euclidean distance of cells over the grid's diagonal, so that EMD is in [0, 1]: 1 from corner to opposite
    corner. Exact, by a linear programme: of some 50 cells, milliseconds; of more than 200, too slow for many clips.
    """
    height, width = one.shape
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)
    diagonal = float(np.hypot(height - 1, width - 1))
    if not diagonal:
        raise Undefined("a grid of one cell has nowhere to move to")
    source, sink = distributions(one.ravel()), distributions(other.ravel())
    # What stays costs nothing: only the difference travels, and only from cells that lose to cells that gain.
    apart = source - sink
    lose, gain = np.flatnonzero(apart > 0), np.flatnonzero(apart < 0)
    if not len(lose) or not len(gain):
        return 0.0
    distance = np.linalg.norm(place[lose, None] - place[None, gain], axis=-1) / diagonal
    rows = np.kron(np.eye(len(lose)), np.ones(len(gain)))
    columns = np.kron(np.ones(len(lose)), np.eye(len(gain)))
    # Of two margins with equal sums one row is redundant; left out, rounding cannot make the programme infeasible.
    margins = np.concatenate([apart[lose], -apart[gain][:-1]])
    found = linprog(distance.ravel(), A_eq=np.concatenate([rows, columns[:-1]]), b_eq=margins, method="highs")
    if found.fun is None:
        raise Undefined(f"the transport between two maps was not found: {found.message}")
    return float(np.clip(found.fun, 0, 1))


def _excess(x: np.ndarray) -> np.ndarray:
    """(1 + x) ln(1 + x) - x, which is never negative; 1 at -1."""
    above = x > -1
    inner = np.where(above, x, 0)
    return np.where(above, np.maximum((1 + inner) * np.log1p(inner) - inner, 0), 1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the last axis, ties at their mean."""
    flat = values.reshape(-1, values.shape[-1])
    ranks = np.empty(flat.shape)
    for row, order, out in zip(flat, np.sort(flat, axis=-1), ranks, strict=True):
        # Of equal values the first has the rank of the last below them and one more, and so on.
        out[:] = (np.searchsorted(order, row, "left") + np.searchsorted(order, row, "right") + 1) / 2
    return ranks.reshape(values.shape)
