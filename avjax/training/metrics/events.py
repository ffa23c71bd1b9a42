"""Metrics of when: the class of every segment, and intervals in time with their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.training.metrics.classification import average_precision

Intervals = Num[np.ndarray, "M 2"]


def segment_accuracy(
    predicted: Int[np.ndarray, "N T"], true: Int[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"] | None = None
) -> float:
    """Share of segments whose class, background among them, was predicted (AVE, Tian et al. 2018)."""
    valid = np.ones(true.shape, bool) if valid is None else valid
    return float((predicted == true)[valid].mean()) if valid.any() else 0.0


def intervals(there: Bool[np.ndarray, " T"], step: float = 1.0) -> Float[np.ndarray, "M 2"]:
    """Start and end, in seconds, of each run of segments of ``step`` seconds in which something is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2) * float(step)


def temporal_iou(one: Num[np.ndarray, "P 2"], two: Num[np.ndarray, "M 2"]) -> Float[np.ndarray, "P M"]:
    """Length of the intersection over that of the union, of every pair; 0 where both are empty."""
    start = np.maximum(one[:, None, 0], two[None, :, 0]).astype(np.float64)
    both = np.maximum(np.minimum(one[:, None, 1], two[None, :, 1]) - start, 0.0)
    union = (one[:, 1] - one[:, 0])[:, None] + (two[:, 1] - two[:, 0])[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def interval_average_precision(
    predicted: Sequence[Num[np.ndarray, "_ 2"]],
    scores: Sequence[Num[np.ndarray, "_"]],
    true: Sequence[Num[np.ndarray, "_ 2"]],
    iou: float,
) -> float:
    """AP@IoU over all clips: area under precision over recall of intervals by falling score, ties together.

    A prediction is right where its best interval among those of its clip that are not yet found overlaps by at least
    ``iou``; every interval is found once. 0 where nothing is to be found.
    """
    count = sum(len(these) for these in true)
    rights, all_scores = [], []
    for p, s, y in zip(predicted, scores, true, strict=True):
        order = np.argsort(-s, kind="stable")
        overlap = temporal_iou(p[order], y)
        right = np.zeros(len(order), bool)
        for row in range(len(order)):
            if overlap.shape[1] and overlap[row].max() >= max(iou, 1e-12):
                right[row] = True
                overlap[:, overlap[row].argmax()] = 0.0
        rights.append(right)
        all_scores.append(np.asarray(s, np.float64)[order])
    if not count:
        return 0.0
    right = np.concatenate(rights)
    # Average precision divides by the positives among the predictions; what was never found counts as well.
    return average_precision(np.concatenate(all_scores), right) * float(right.sum()) / count


def average_recall(
    predicted: Sequence[Num[np.ndarray, "_ 2"]],
    scores: Sequence[Num[np.ndarray, "_"]],
    true: Sequence[Num[np.ndarray, "_ 2"]],
    number: int,
    thresholds: Sequence[float] = tuple(np.linspace(0.5, 0.95, 10)),
) -> float:
    """AR@N: share of intervals that one of the clip's N best predictions overlaps enough, mean over thresholds."""
    count, found = 0, np.zeros(len(thresholds))
    for p, s, y in zip(predicted, scores, true, strict=True):
        best = np.argsort(-s, kind="stable")[:number]
        overlap = temporal_iou(p[best], y).max(axis=0, initial=0.0)
        # A threshold such as 0.55 of an overlap that is exactly that.
        found += [(overlap >= threshold - 1e-9).sum() for threshold in thresholds]
        count += len(y)
    return float(found.mean() / count) if count else 0.0
