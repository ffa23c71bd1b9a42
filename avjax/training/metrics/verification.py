"""Metrics of a score that says yes or no, such as whether a voice and a face are one person's."""

from __future__ import annotations

import statistics

import numpy as np
from jaxtyping import Bool, Num

Scores = Num[np.ndarray, " N"]
Positive = Bool[np.ndarray, " N"]


def roc_auc(scores: Scores, positive: Positive) -> float:
    """Share of pairs (positive, negative) in the right order, ties for half; 0.5 where a side is empty."""
    false, true = _curve(scores, positive)
    return float((np.diff(false) * (true[1:] + true[:-1]) / 2).sum())


def equal_error_rate(scores: Scores, positive: Positive) -> float:
    """EER: where as many negatives are accepted as positives refused, on straight lines between thresholds.

    0.5 where a side is empty.
    """
    false, true = _curve(scores, positive)
    # From below 0 to above: accepted negatives less refused positives.
    gap = false - (1 - true)
    after = int(np.argmax(gap >= 0))
    before = max(after - 1, 0)
    share = 0.0 if gap[after] == gap[before] else -gap[before] / (gap[after] - gap[before])
    return float(false[before] + share * (false[after] - false[before]))


def d_prime(scores: Scores, positive: Positive) -> float:
    """d' = sqrt(2) Phi^-1(AUC): how many deviations apart two normal distributions with this AUC are.

    Infinite where the order is perfect.
    """
    area = roc_auc(scores, positive)
    if area in (0.0, 1.0):
        return float(np.copysign(np.inf, area - 0.5))
    return float(np.sqrt(2) * statistics.NormalDist().inv_cdf(area))


def _curve(scores: Scores, positive: Positive) -> tuple[np.ndarray, np.ndarray]:
    """Share of negatives and of positives above each threshold, from (0, 0) to (1, 1); the diagonal of one side."""
    if positive.all() or not positive.any():
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    order = np.argsort(-scores, kind="stable")
    ranked = positive[order].astype(np.float64)
    # A threshold lies only where the score changes.
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true, false = np.cumsum(ranked)[last_of_tie], np.cumsum(1 - ranked)[last_of_tie]
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])
