"""What a condition does to the answers (section 3), and whether confidence may be believed under it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import agreement, calibration
from avjax.diagnostics.measured import Measured, OfRows, OfSums
from avjax.diagnostics.protocol.study import Said, Study

ESTIMATORS = {
    "soft_agreement": "probabilities", "ece": "15 bins of equal width", "ece_change": "15 bins of equal width",
    "brier": "all classes", "aurc": "probability of the predicted class",
}  # fmt: skip
"""Of numbers that are not of the predicted class alone."""


def changes(study: Study, clips: Clips, before: Said, after: Said, **fields: object) -> list[Measured]:
    """Section 3: what a condition does to the answers.

    Args:
      fields: of the lines: fill and group, or condition.
    """
    one, other = before, after
    gaps = np.concatenate([_gaps_of(other), _gaps_of(one)], axis=1)

    def ece_change(sums: Float[np.ndarray, " k"], rows: int) -> float:
        errors = np.abs(sums).reshape(2, -1).sum(axis=1) / rows
        return float(errors[0] - errors[1])

    lines = {
        "agreement": OfSums.mean(one.predicted == other.predicted),
        "kappa": _kappa(one.predicted, other.predicted, one.logits.shape[1]),
        "soft_agreement": OfSums.mean(agreement.soft_agreement(one.probability, other.probability)),
        "negative_flips": OfSums.mean(one.right & ~other.right),
        "positive_flips": OfSums.mean(other.right & ~one.right),
        "ece_change": OfSums(gaps, ece_change),
        "overconfidence": OfSums.mean(other.confidence.astype(np.float64) - other.right),
        "brier": OfSums.mean(calibration.brier(other.probability, other.label)),
        "aurc": aurc(other),
    }
    return [
        study.line(f"consistency/{name}", of, clips, **{"estimator": ESTIMATORS.get(name, "argmax"), **fields})
        for name, of in lines.items()
    ]


def _gaps_of(said: Said) -> Float[np.ndarray, "N bins"]:
    return calibration.calibration_gaps(said.confidence, said.right)


def ece(said: Said) -> OfSums:
    """``calibration.expected_calibration_error`` of any rows."""
    return OfSums(_gaps_of(said), lambda sums, rows: float(np.abs(sums).sum()) / rows)


def aurc(said: Said) -> OfRows:
    """``calibration.area_under_risk_coverage`` of any rows, whose confidence is put in order once for all draws."""
    levels, level = np.unique(-said.confidence.astype(np.float64), return_inverse=True)
    wrong = (~said.right).astype(np.float64)

    def of(rows: Int[np.ndarray, " R"]) -> float:
        count = np.bincount(level[rows], minlength=len(levels))
        errors = np.bincount(level[rows], wrong[rows], minlength=len(levels))
        return float(calibration.risk_of_levels(count, errors).mean())

    return of


def _kappa(one: Int[np.ndarray, " N"], other: Int[np.ndarray, " N"], classes: int) -> OfSums:
    """``agreement.kappa`` of any rows."""
    columns = np.concatenate([(one == other)[:, None], one[:, None] == np.arange(classes),
                              other[:, None] == np.arange(classes)], axis=1)  # fmt: skip

    def of(sums: Float[np.ndarray, " k"], rows: int) -> float:
        same, *counts = sums.astype(int)
        return agreement.kappa_of_counts(int(same), *np.split(np.array(counts), 2))

    return OfSums(columns, of)
