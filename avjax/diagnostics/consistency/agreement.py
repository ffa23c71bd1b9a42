"""Whether a model says the same of a clip whose modality is missing or damaged, and what each modality says alone.

Everything is of two conditions on the same rows: clean against changed, or audio alone against video alone. How a
modality was made absent (the fill) is part of the number's name, and the caller's to say.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.drift.divergence import jensen_shannon
from avjax.diagnostics.measured import Undefined

Classes = Int[np.ndarray, " N"]
Right = Bool[np.ndarray, " N"]
Probability = Num[np.ndarray, "N K"]


def agreement(one: Classes, other: Classes) -> float:
    """PA = mean 1[argmax f(x) = argmax f(x~)], in [0, 1], higher is more consistent.

    Pitfall: a constant predictor has 1, and one that ignores a modality has 1 without it; ``kappa`` and the accuracy
    belong beside it.
    """
    _some(one)
    return float((one == other).mean())


def kappa(one: Classes, other: Classes) -> float:
    """Agreement beyond what the two sets of predictions have by chance (Cohen 1960).

        kappa = (PA - p_e) / (1 - p_e),   p_e = sum_k q_k q'_k,   q, q' shares of the classes in each set

    Range [-1, 1], 1 where all agree, 0 where the two are independent. Undefined where both sets are one and the same
    class. Pitfall: falls with skewed classes at the same PA.
    """
    _some(one)
    classes = int(max(one.max(), other.max())) + 1
    counts = (np.bincount(each, minlength=classes) for each in (one, other))
    return kappa_of_counts(int((one == other).sum()), *counts)


def kappa_of_counts(same: int, one: Int[np.ndarray, " K"], other: Int[np.ndarray, " K"]) -> float:
    """``kappa`` of how many rows agree, and how many each side puts into each class."""
    # In whole numbers, n^2 times each term: whether p_e is 1 must not depend on rounding.
    n, expected = int(one.sum()), int(one @ other)
    if expected == n * n:
        raise Undefined("every prediction of both conditions is one class: agreement by chance is 1")
    return (n * same - expected) / (n * n - expected)


def soft_agreement(one: Probability, other: Probability) -> Float[np.ndarray, " N"]:
    """1 - JSD_2(p(x) || p(x~)) of each row, in [0, 1], higher is more consistent.

    Its mean is SC_m where x~ has modality m missing or damaged, and XC, the cross-modal consistency, where the two
    sides are what each modality says alone. Pitfalls: two flat distributions agree whatever they rank first; XC of a
    model that ignores one modality compares a prediction with what it says of nothing.
    """
    return 1 - jensen_shannon(np.asarray(one, np.float64), np.asarray(other, np.float64))


def top_overlap(one: Probability, other: Probability, k: int = 5) -> Float[np.ndarray, " N"]:
    """|top-k of p  and  top-k of q| / k of each row, in [0, 1], higher is more consistent; the same either way round.

    Of equal probabilities the class with the smaller number comes first. Two random sets of K classes share k / K.
    """
    if k >= one.shape[1]:
        raise Undefined(f"the top {k} of {one.shape[1]} classes are all of them, whatever the model says")

    def top(values: np.ndarray) -> np.ndarray:
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, np.argsort(-values.astype(np.float64), axis=1, kind="stable")[:, :k], True, axis=1)
        return chosen

    return (top(one) & top(other)).sum(axis=1) / k


def negative_flips(before: Right, after: Right) -> float:
    """NFR = P(right before, wrong after), of all rows, in [0, 1], lower is better (Yan et al. 2021).

    Accuracy before - after = NFR - ``positive_flips``. Pitfall: at most the accuracy before, so that a poor model has
    few.
    """
    _some(before)
    return float((before & ~after).mean())


def positive_flips(before: Right, after: Right) -> float:
    """PFR = P(wrong before, right after), of all rows, in [0, 1]."""
    return negative_flips(after, before)


def modality_confusion(single: Mapping[str, Right], joint: Right) -> dict[str, float]:
    """mu_m = 100 #{f(x_m) right and f(x) wrong} / N of each modality m: clips that the other modalities spoil.

    VGGSounder (Zverev et al., ICCV 2025); in percent, in [0, 100], lower is better, 0 for a model that is right where
    any of its modalities is. ``any_confusion`` is the joint version. Pitfall: at most the joint model's error rate.

    Args:
      single: modality -> which rows are right with that modality alone.
      joint: which rows are right with all.
    """
    return {name: 100 * negative_flips(right, joint) for name, right in single.items()}


def any_confusion(single: Mapping[str, Right], joint: Right) -> float:
    """100 #{any f(x_m) right and f(x) wrong} / N, in percent, lower is better (Zverev et al. 2025).

    At least the ``modality_confusion`` of each modality, at most their sum.
    """
    return 100 * negative_flips(np.any(list(single.values()), axis=0), joint)


def _some(rows: np.ndarray) -> None:
    if not len(rows):
        raise Undefined("no rows")
