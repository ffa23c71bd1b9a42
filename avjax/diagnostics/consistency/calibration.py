"""Whether confidence means what it says: calibration errors, scores of probabilities, overconfidence, selective risk.

The change of any of them under a condition, such as dECE = ECE_condition - ECE_clean, is the difference of two calls
on the same rows; ``measured.paired_bootstrap`` has its interval.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.measured import Undefined

Confidence = Num[np.ndarray, " N"]
Right = Bool[np.ndarray, " N"]
Bins = Literal["width", "mass"]


def log_probabilities(logits: Num[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Logarithm of the softmax, natural, in float64; a class whose logit is -inf has probability 0."""
    logits = np.asarray(logits, np.float64)
    largest = logits.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        raise Undefined("some rows have logits that are NaN or infinite: they have no probabilities")
    shifted = logits - largest
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def probabilities(logits: Num[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Softmax in float64."""
    return np.exp(log_probabilities(logits))


@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram (Guo et al. 2017): what was claimed and what came true, bin by bin; empty bins left out.

    Attributes:
      confidence: mean confidence of each bin, rising.
      accuracy: share of each bin that is right.
      count: rows of each bin.
    """

    confidence: Float[np.ndarray, " M"]
    accuracy: Float[np.ndarray, " M"]
    count: Int[np.ndarray, " M"]


def reliability(confidence: Confidence, right: Right, *, bins: int = 15, equal: Bins = "width") -> Reliability:
    """Rows in bins of equal width, ((b - 1) / bins, b / bins], or of equal mass, by rank.

    Rows of one confidence share a bin in either case, so that their order cannot matter; where ties are many, bins of
    equal mass are therefore not quite equal. That is ours.
    """
    _some(confidence)
    confidence = np.asarray(confidence, np.float64)
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(f"confidence lies in [0, 1]; got {confidence.min()} to {confidence.max()}")
    if equal == "width":
        place = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    else:
        _, level, ties = np.unique(confidence, return_inverse=True, return_counts=True)
        # Twice the middle rank of a run of ties: a whole number, so that the division below rounds once.
        place = bins * (2 * np.cumsum(ties) - ties)[level.ravel()] // (2 * len(confidence))
    count = np.bincount(place, minlength=bins)
    there = count > 0
    claimed, came = (np.bincount(place, weights=each, minlength=bins)[there] for each in (confidence, right))
    return Reliability(claimed / count[there], came / count[there], count[there])


def expected_calibration_error(confidence: Confidence, right: Right, *, bins: int = 15, equal: Bins = "width") -> float:
    """Mean distance between confidence and accuracy over bins (Naeini et al. 2015; Guo et al. 2017).

        ECE = sum_b n_b / n |acc_b - conf_b|

    Range [0, 1], lower is better; 0 for a calibrated model, of a constant prediction |confidence - accuracy|. Pitfalls:
    biased upwards where bins hold few rows, so that two values compare only at the same n and bins; blind to
    differences that cancel within a bin; a model that always claims its accuracy has 0 and is of no use.
    """
    bin = reliability(confidence, right, bins=bins, equal=equal)
    return float((bin.count * np.abs(bin.accuracy - bin.confidence)).sum() / bin.count.sum())


def calibration_gaps(confidence: Confidence, right: Right, *, bins: int = 15) -> Float[np.ndarray, "N bins"]:
    """1[row in bin b] (right - confidence): of any rows, ECE over bins of equal width is sum_b |sum of b| / n."""
    place = np.searchsorted(np.arange(1, bins) / bins, np.asarray(confidence, np.float64), side="left")
    gap = np.asarray(right, np.float64) - confidence
    return np.where(place[:, None] == np.arange(bins), gap[:, None], 0.0)


def overconfidence(confidence: Confidence, right: Right) -> float:
    """mean confidence - accuracy, in [-1, 1]; best 0, above it the model claims more than it knows.

    Printed under a missing modality: a model that should know less should claim less. Its absolute value is at most
    the expected calibration error, since signs cancel between bins.
    """
    _some(confidence)
    return float(np.asarray(confidence, np.float64).mean() - right.mean())


def brier(probability: Num[np.ndarray, "N K"], label: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """sum_k (p_k - 1[k = y])^2 of each row (Brier 1950), in [0, 2], lower is better; the Brier score is their mean.

    A uniform prediction has 1 - 1/K. Pitfall: for two classes many tools print (p_1 - y)^2, which is half of this.
    """
    error = np.asarray(probability, np.float64).copy()
    error[np.arange(len(label)), label] -= 1
    return (error**2).sum(axis=1)


def negative_log_likelihood(logits: Num[np.ndarray, "N K"], label: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """-ln p_y of each row, in nats, in [0, inf), lower is better; a uniform prediction has ln K.

    From logits, not from probabilities, where a small one would have been rounded to 0. Pitfall: a few confident errors
    outweigh all else in the mean.
    """
    found = -log_probabilities(logits)[np.arange(len(label)), label]
    if not np.isfinite(found).all():
        raise Undefined("the true class of some rows has probability 0: their likelihood has no logarithm")
    return found


def risk_coverage(confidence: Confidence, right: Right) -> Float[np.ndarray, " N"]:
    """Share of errors among the i most confident rows, i = 1 .. N: the model answers those and declines the rest.

    Rows of one confidence come in no order of their own; the curve is the mean over all their orders.
    """
    _some(confidence)
    # Negative, so that levels come by falling confidence.
    _, level, ties = np.unique(-np.asarray(confidence, np.float64), return_inverse=True, return_counts=True)
    return risk_of_levels(ties, np.bincount(level.ravel(), weights=~right))


def risk_of_levels(rows: Int[np.ndarray, " L"], errors: Num[np.ndarray, " L"]) -> Float[np.ndarray, " N"]:
    """``risk_coverage`` of levels of confidence, the highest first.

    Args:
      rows: of each level; some may have none.
      errors: how many of them are wrong.
    """
    rate = np.divide(errors, rows, out=np.zeros(len(rows)), where=rows > 0)
    return np.cumsum(np.repeat(rate, rows)) / np.arange(1, rows.sum() + 1)


def area_under_risk_coverage(confidence: Confidence, right: Right) -> float:
    """AURC: mean of ``risk_coverage`` over coverages 1/N .. 1 (Geifman et al. 2019), lower is better.

    Range [0, 1]; where confidence says nothing about errors, the error rate. Pitfall: falls with the error rate too, so
    that it ranks models by accuracy first; compare it at equal accuracy, or with the error rate beside it.
    """
    return float(risk_coverage(confidence, right).mean())


def _some(confidence: Confidence) -> None:
    if not len(confidence):
        raise Undefined("no rows")
