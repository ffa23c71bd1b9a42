"""How much of a model's performance is left under corruptions, noise and missing modalities.

Functions of performances, shares in [0, 1] unless said otherwise; for an interval, give each the mean over resampled
rows (``measured.clustered_bootstrap``), the same rows for clean and corrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Num

from avjax.diagnostics.measured import Undefined


def retention(clean: float, corrupted: float) -> float:
    """rho = A_s / A_clean = 1 - (A_clean - A_s) / A_clean (relative robustness of AVRobustBench, 2025).

    Range [0, inf), higher is better, 1 where nothing is lost. Pitfall: chance is not 0, so that with few classes a
    model that has lost everything keeps much of it: see ``chance_adjusted_retention``.
    """
    if clean == 0:
        raise Undefined("nothing was right on clean clips: there is nothing to keep")
    return corrupted / clean


def absolute_robustness(clean: float, corrupted: float) -> float:
    """alpha = 1 - (A_clean - A_s) (AVRobustBench, 2025, where accuracies are percent and divided by 100).

    Range [0, 2], higher is better, 1 where nothing is lost. Pitfall: a model that is poor to begin with has little to
    lose.
    """
    return 1 - (clean - corrupted)


def chance_adjusted_retention(clean: float, corrupted: float, chance: float) -> float:
    """rho~ = (A_s - A_chance) / (A_clean - A_chance): what is left of the performance beyond chance. Ours.

    Higher is better; 1 where nothing is lost, 0 at chance, below it where corruption misleads. Undefined for a model
    that is not above chance on clean clips.

    Args:
      chance: accuracy without the input: 1 / K, or the share of the commonest class; say which.
    """
    if clean <= chance:
        raise Undefined(f"clean accuracy {clean:.4g} is not above chance {chance:.4g}: there is nothing to keep")
    return (corrupted - chance) / (clean - chance)


def mean_performance(table: Num[np.ndarray, "C S"]) -> float:
    """mPC: mean performance over corruptions [C] and severities [S] (Michaelis et al. 2019), higher is better."""
    if not table.size:
        raise Undefined("no corruptions")
    return float(np.asarray(table, np.float64).mean())


def relative_performance(clean: float, table: Num[np.ndarray, "C S"]) -> float:
    """rPC = mPC / clean (Michaelis et al. 2019), the ``retention`` of the mean; 1 where nothing is lost."""
    return retention(clean, mean_performance(table))


def mean_corruption_error(errors: Num[np.ndarray, "C S"], reference: Num[np.ndarray, "C S"]) -> float:
    """mCE = mean_c sum_s E_cs / sum_s Eref_cs (ImageNet-C, Hendrycks & Dietterich 2019), lower is better.

    A ratio (the paper prints percent): 1 for the reference itself. Pitfall: says nothing without its reference, which
    is to be one frozen model.

    Args:
      errors: error rate by corruption and severity.
      reference: of the reference model.
    """
    _same_shape(errors, reference)
    total = np.asarray(reference, np.float64).sum(axis=1)
    if not total.size or (total == 0).any():
        raise Undefined("the reference model makes no error under some corruption, or there is none")
    return float((np.asarray(errors, np.float64).sum(axis=1) / total).mean())


def area_under_noise(curve: Num[np.ndarray, " L"], *, step: float = 0.1) -> float:
    """RR = sum_i step (p_i + p_{i+1}) / 2, MultiBench's relative robustness (Liang et al. 2021), higher is better.

    Area under performance over noise levels 0, step, ... Pitfall: with ten levels to 0.9 a flat curve p has 0.9 p, not
    p, and one with eleven levels has p: ``relative_area_under_noise`` compares across lengths and models.

    Args:
      curve: performance at each level, the clean one first.
    """
    _curve(curve)
    curve = np.asarray(curve, np.float64)
    return float(step * (curve[:-1] + curve[1:]).sum() / 2)


def relative_area_under_noise(curve: Num[np.ndarray, " L"]) -> float:
    """RR / (step (L - 1) p_0): the area over that of a curve that stays at its clean value; 1 where nothing is lost.

    Ours, since MultiBench's own area rises with the clean performance.
    """
    _curve(curve)
    return retention(float(curve[0]), area_under_noise(curve, step=1.0) / (len(curve) - 1))


def effective_robustness(curve: Num[np.ndarray, " L"], late_fusion: Num[np.ndarray, " L"]) -> float:
    """ER = sum_i (p_i - beta_i),   beta_i = LF_i + (p_0 - LF_0), MultiBench's (Liang et al. 2021), higher is better.

    How far above the late-fusion curve, moved to the same clean performance; 0 for late fusion itself. A sum over
    levels, so it grows with their number.
    """
    _curve(curve)
    _same_shape(curve, late_fusion)
    p, fused = np.asarray(curve, np.float64), np.asarray(late_fusion, np.float64)
    return float((p - (fused + (p[0] - fused[0]))).sum())


def among_methods(values: Mapping[str, float], *, lower_is_better: bool = False) -> dict[str, float]:
    """(v - min) / (max - min) over methods, as MultiBench prints RR and ER; of an error, -v: 1 is the best method's.

    Pitfall: depends on which methods are there, so the raw value belongs beside it.
    """
    signed = {name: -value if lower_is_better else value for name, value in values.items()}
    low, high = min(signed.values(), default=0.0), max(signed.values(), default=0.0)
    if low == high:
        raise Undefined("all methods are equal, or there is none: nothing to scale by")
    return {name: (value - low) / (high - low) for name, value in signed.items()}


@dataclasses.dataclass(frozen=True)
class OverSubsets:
    """Performance over sets of modalities, of one relation to those of training.

    Attributes:
      average: mean over the sets.
      worst: of the set named ``worst_set``.
      worst_set: modalities that the worst was tested with.
      count: number of sets.
    """

    average: float
    worst: float
    worst_set: tuple[str, ...]
    count: int


def over_subsets(performance: Mapping[tuple[str, ...], float], trained: Collection[str]) -> dict[str, OverSubsets]:
    """Average and worst performance over the sets of modalities tested, by their relation to those of training.

    After McKinzie et al. 2023; the names of the relations are ours: "missing", tested with fewer; "added", with more;
    "transfer", where some are new and some missing. Relations without a set are left out, and the set of training
    itself is in none. Of equal sets the first is the worst.

    Args:
      performance: modalities tested with -> performance, higher is better.
      trained: modalities trained with.
    """
    relations: dict[str, dict[tuple[str, ...], float]] = {}
    for tested, value in performance.items():
        missing, added = set(trained) - set(tested), set(tested) - set(trained)
        if missing or added:
            relation = "transfer" if missing and added else "missing" if missing else "added"
            relations.setdefault(relation, {})[tested] = value
    found = {}
    for relation, values in relations.items():
        worst = min(values, key=values.__getitem__)
        found[relation] = OverSubsets(float(np.mean(list(values.values()))), values[worst], worst, len(values))
    return found


def _curve(curve: Num[np.ndarray, " L"]) -> None:
    if len(curve) < 2:
        raise Undefined("a curve over noise needs two levels, the clean one first")


def _same_shape(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape:
        raise ValueError(f"measured at {one.shape} points and its reference at {other.shape}: they must be the same")
