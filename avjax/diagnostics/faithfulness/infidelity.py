"""What an attribution predicts of the model's change when its input changes, and how steady the attribution is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Num

from avjax.diagnostics.drift.divergence import OfRows, correlation
from avjax.diagnostics.faithfulness.curves import KeptValue
from avjax.diagnostics.measured import Undefined


def infidelity(
    attribution: Num[np.ndarray, " N"], perturbations: Num[np.ndarray, "S N"], change: Float[np.ndarray, " S"]
) -> float:
    """E_I[(I^T Phi - (f(x) - f(x - I)))^2] (Yeh et al. 2019), at least 0, lower is better.

    Phi is an attribution of the gradient's form, to be multiplied by a change of the input: of a linear model its
    weights, with 0 for every I. In squared units of f, so that models compare only on one scale. Pitfall: the mean is
    over the perturbations that the caller chose, whose name is part of the number's.

    Args:
      perturbations: I, what is subtracted from the input.
      change: f(x) - f(x - I).
    """
    if not len(change):
        raise Undefined("no perturbations")
    return float(np.mean((np.asarray(perturbations, np.float64) @ attribution - change) ** 2))


def subsets(valid: Bool[np.ndarray, " N"], size: int, draws: int, seed: int) -> Bool[np.ndarray, "S N"]:
    """Random sets of ``size`` valid cells each, drawn independently."""
    cells, random = np.flatnonzero(valid), np.random.default_rng(seed)
    if not 1 <= size <= len(cells):
        raise Undefined(f"no sets of {size} among {len(cells)} valid cells")
    chosen = np.zeros((draws, len(valid)), bool)
    for row in chosen:
        row[random.choice(cells, size, replace=False)] = True
    return chosen


def sensitivity_n(
    attribution: Num[np.ndarray, " N"], value: KeptValue, removed: Bool[np.ndarray, "S N"]
) -> Float[np.ndarray, " B"]:
    """corr_S(sum_{j in S} phi_j, f(x) - f(x without S)) over sets of one size (Ancona et al. 2018).

    In [-1, 1], higher is better; 1 of a linear model and phi = w * (x - baseline). Undefined where a side is the same
    for every set, as with all cells. Pitfall: sets of half the cells differ little in sum, so that a size is part of
    the number's name.

    Args:
      removed: ``subsets`` of one size.
    """
    whole = np.asarray(value(np.ones((1, removed.shape[1]), bool)), np.float64)
    change = (whole - np.asarray(value(~removed), np.float64)).T
    return correlation(np.broadcast_to(removed @ np.asarray(attribution, np.float64), change.shape), change)


def completeness_error(
    attribution: Num[np.ndarray, "*rows N"],
    whole: OfRows,
    empty: OfRows,
) -> OfRows:
    """|sum_j phi_j - (f(x) - f(baseline))|, at least 0, 0 best: the axiom of completeness (Sundararajan et al. 2017).

    In units of f. Of integrated gradients it is the error of the integral, of Shapley values that of their sampling.
    """
    return np.abs(np.asarray(attribution, np.float64).sum(axis=-1) - (whole - empty))


def relative_changes(
    attribution: Num[np.ndarray, "*rows N"], changed: Num[np.ndarray, "S *rows N"]
) -> Float[np.ndarray, "S *rows"]:
    """||Phi(x + d) - Phi(x)|| / ||Phi(x)|| of every disturbance d, at least 0, lower is steadier.

    Over d with ||d|| <= r its maximum is max-sensitivity (Yeh et al. 2019), its mean avg-sensitivity; r and the
    number of draws are part of the name, for a maximum grows with them. Undefined where an attribution is 0. Pitfall:
    a constant attribution is the steadiest, and says nothing.
    """
    attribution = np.asarray(attribution, np.float64)
    length = np.linalg.norm(attribution, axis=-1)
    if not length.all():
        raise Undefined(f"{int((length == 0).sum())} of {length.size} attributions are 0")
    return np.linalg.norm(changed - attribution, axis=-1) / length


def local_lipschitz(
    attribution: Num[np.ndarray, " N"],
    changed: Num[np.ndarray, "S N"],
    inputs: Num[np.ndarray, " M"],
    disturbed: Num[np.ndarray, "S M"],
) -> float:
    """max_d ||Phi(x) - Phi(x + d)|| / ||d|| (Alvarez-Melis & Jaakkola 2018), at least 0, lower is steadier."""
    moved = np.linalg.norm(np.asarray(disturbed, np.float64) - inputs, axis=-1)
    if not moved.size or not moved.all():
        raise Undefined("a disturbance is 0, or there is none")
    return float((np.linalg.norm(np.asarray(changed, np.float64) - attribution, axis=-1) / moved).max())
