"""Metrics of classes: accuracy, recall, F1, average precision."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from avjax.training.metrics.estimate import Measure

Scores = Float[np.ndarray, "N K"]
Labels = Int[np.ndarray, " N"]


def confusion(predicted: Labels, true: Labels, classes: int) -> Int[np.ndarray, "K K"]:
    """Counts by true class (row) and predicted class (column)."""
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: Int[np.ndarray, "K K"]) -> float:
    """Share of clips whose class was predicted; weighted average recall (WAR)."""
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def unweighted_average_recall(matrix: Int[np.ndarray, "K K"]) -> float:
    """Mean recall over the classes that occur (UAR)."""
    occurs = matrix.sum(axis=1)
    recall = np.diag(matrix) / np.maximum(occurs, 1)
    return float(recall[occurs > 0].mean()) if (occurs > 0).any() else 0.0


def macro_f1(matrix: Int[np.ndarray, "K K"]) -> float:
    """Mean F1 over the classes that occur or were predicted."""
    occurs = matrix.sum(axis=1) + matrix.sum(axis=0)
    f1 = 2 * np.diag(matrix) / np.maximum(occurs, 1)
    return float(f1[occurs > 0].mean()) if (occurs > 0).any() else 0.0


def average_precision(scores: Float[np.ndarray, " N"], positive: np.ndarray) -> float:
    """Area under precision over recall, ties taken together; 0 where nothing is positive."""
    if not positive.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ranked = positive[order].astype(float)
    # A threshold lies only where the score changes: tied clips are retrieved together.
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(ranked)[last_of_tie]
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float((np.diff(hits, prepend=0.0) * precision).sum() / ranked.sum())


def mean_average_precision(scores: Scores, target: Float[np.ndarray, "N K"]) -> float:
    """Mean over the classes that occur (mAP)."""
    positive = target > 0.5
    occurs = np.flatnonzero(positive.any(axis=0))
    return float(np.mean([average_precision(scores[:, k], positive[:, k]) for k in occurs])) if len(occurs) else 0.0


def class_measures(scores: Scores, target: Float[np.ndarray, "N K"]) -> dict[str, Measure]:
    """accuracy, uar and macro_f1 of clips with one class each; target one-hot."""
    count, classes = scores.shape
    predicted, true = scores.argmax(axis=1), target.argmax(axis=1)
    measures = {"accuracy": accuracy, "uar": unweighted_average_recall, "macro_f1": macro_f1}
    return {
        name: Measure(lambda r, m=measure: m(confusion(predicted[r], true[r], classes)), count)
        for name, measure in measures.items()
    }


def label_measures(scores: Scores, target: Float[np.ndarray, "N K"]) -> dict[str, Measure]:
    """map of clips with any number of classes; target multi-hot."""
    # A resample costs a sort a class: a tenth of the draws is enough for an interval.
    return {"map": Measure(lambda r: mean_average_precision(scores[r], target[r]), len(scores), cost=10)}
