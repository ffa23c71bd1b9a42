"""Metrics of when: the class of every segment, and intervals in time with their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.training.metrics.classification import average_precision
from avjax.training.metrics.estimate import Measure
from avjax.training.metrics.verification import roc_auc

# Over which an average recall is a mean.
IOUS = tuple(np.linspace(0.5, 0.95, 10))


def segment_accuracy(
    predicted: Int[np.ndarray, "N T"], true: Int[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"] | None = None
) -> float:
    """Share of segments whose class, background among them, was predicted (AVE, Tian et al. 2018)."""
    valid = np.ones(true.shape, bool) if valid is None else valid
    return float((predicted == true)[valid].mean()) if valid.any() else 0.0


def segment_measures(
    predicted: Int[np.ndarray, "N T"], true: Int[np.ndarray, "N T"], valid: Bool[np.ndarray, "N T"]
) -> dict[str, Measure]:
    """segment_accuracy, resampled by clip."""
    right, steps = ((predicted == true) & valid).sum(axis=1), valid.sum(axis=1)
    return {"segment_accuracy": Measure(lambda r: float(right[r].sum() / max(steps[r].sum(), 1)), len(true))}


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
    return _average_precision([_found(*clip, iou) for clip in zip(predicted, scores, true, strict=True)])


def average_recall(
    predicted: Sequence[Num[np.ndarray, "_ 2"]],
    scores: Sequence[Num[np.ndarray, "_"]],
    true: Sequence[Num[np.ndarray, "_ 2"]],
    number: int,
    thresholds: Sequence[float] = IOUS,
) -> float:
    """AR@N: share of intervals that one of the clip's N best predictions overlaps enough, mean over thresholds."""
    recalled = [_recalled(*clip, number, thresholds) for clip in zip(predicted, scores, true, strict=True)]
    count = sum(len(these) for these in true)
    return float(sum(recalled) / count) if count else 0.0


def proposals(
    probabilities: Float[np.ndarray, " T"], thresholds: Sequence[float] = tuple(np.linspace(0.05, 0.95, 19))
) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """Intervals, in segments, in which something seems to be, and a score of each, the best first.

    The runs above each of several thresholds, each once. A run scores by its contrast (Shou et al. 2018): the mean
    probability inside less that of the segments around it, a quarter of its length to either side and one at least.
    """
    p = np.asarray(probabilities, np.float64)
    runs = {tuple(run) for threshold in thresholds for run in intervals(p > threshold).astype(int).tolist()}
    scored = []
    for begin, end in sorted(runs):
        margin = max((end - begin) // 4, 1)
        around = np.concatenate([p[max(begin - margin, 0) : begin], p[end : end + margin]])
        scored.append((p[begin:end].mean() - (around.mean() if len(around) else 0.0), begin, end))
    scored.sort(key=lambda each: (-each[0], each[1:]))
    found = np.array(scored, np.float64).reshape(-1, 3)
    return found[:, 1:], found[:, 0]


def moment_measures(
    probabilities: Float[np.ndarray, "N T"],
    true: Bool[np.ndarray, "N T"],
    valid: Bool[np.ndarray, "N T"],
    clips: Float[np.ndarray, " N"] | None = None,
) -> dict[str, Measure]:
    """Whether something is in a clip (auc), and when: AP@IoU 0.5, 0.75, 0.95 and AR@N of the ``proposals``.

    Args:
      clips: a score of every whole clip; the highest probability of a segment unless given.
    """
    probabilities, true = np.where(valid, probabilities, 0), true & valid
    whole = probabilities.max(axis=1) if clips is None else clips
    count, there = len(true), true.any(axis=1)
    guessed, wanted = [proposals(row) for row in probabilities], [intervals(row) for row in true]
    numbers = np.array([len(each) for each in wanted])
    measures = {"auc": Measure(lambda rows: roc_auc(whole[rows], there[rows]), count)}
    for iou in (0.5, 0.75, 0.95):
        found = [_found(*guess, want, iou) for guess, want in zip(guessed, wanted, strict=True)]
        measures[f"ap_{100 * iou:.0f}"] = Measure(lambda rows, f=found: _average_precision([f[r] for r in rows]), count)
    for number in (1, 5, 10, 50):
        some = np.array([_recalled(*guess, want, number, IOUS) for guess, want in zip(guessed, wanted, strict=True)])
        measures[f"ar_{number}"] = Measure(
            lambda rows, s=some: float(s[rows].sum() / max(numbers[rows].sum(), 1)), count
        )
    return measures


def _found(
    predicted: Num[np.ndarray, "_ 2"], scores: Num[np.ndarray, "_"], true: Num[np.ndarray, "_ 2"], iou: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Of one clip: scores, falling; whether each prediction finds an interval; how many there are to find."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    overlap = temporal_iou(predicted[order], true)
    right = np.zeros(len(order), bool)
    for row in range(len(order)):
        if overlap.shape[1] and overlap[row].max() >= max(iou, 1e-12):
            right[row] = True
            overlap[:, overlap[row].argmax()] = 0.0
    return np.asarray(scores, np.float64)[order], right, len(true)


def _average_precision(found: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> float:
    count = sum(each[2] for each in found)
    if not count:
        return 0.0
    scores, right = (np.concatenate([each[part] for each in found]) for part in (0, 1))
    # Average precision divides by the positives among the predictions; what was never found counts as well.
    return average_precision(scores, right) * float(right.sum()) / count


def _recalled(
    predicted: Num[np.ndarray, "_ 2"],
    scores: Num[np.ndarray, "_"],
    true: Num[np.ndarray, "_ 2"],
    number: int,
    thresholds: Sequence[float],
) -> float:
    """Of one clip: how many intervals its best predictions overlap enough, mean over thresholds."""
    best = np.argsort(-scores, kind="stable")[:number]
    overlap = temporal_iou(predicted[best], true).max(axis=0, initial=0.0)
    # A threshold such as 0.55 of an overlap that is exactly that.
    return float(np.mean([(overlap >= threshold - 1e-9).sum() for threshold in thresholds]))
