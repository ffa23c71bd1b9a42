"""Parts of the clips: whom the model serves worst (5.8)."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.consistency import calibration
from avjax.diagnostics.consistency.groups import by_group, gap, rate_by_group, worst_group
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.protocol.study import Found, Study

SMALLEST = 30


def groups(study: Study) -> Found:
    """By true class; a class is the one group that every corpus has."""
    found, clean = Found(), study.clean
    names = np.array(study.probe.classes)[study.clips.label]
    fields = {"estimator": f"by true class, {SMALLEST} clips or more"}
    rates = rate_by_group(clean.right, names, smallest=SMALLEST)
    if len(rates) < 2:
        reason = f"{len(rates)} of {len(set(names))} classes have {SMALLEST} clips or more"
        found.lines.append(skipped("stress/worst_group_accuracy", reason, n=len(names), **fields))
        return found
    for name, rate in rates.items():
        found.lines.append(
            number("stress/group_accuracy", lambda rate=rate: rate.value, n=rate.count, group=name, ci_lo=rate.low,
                   ci_hi=rate.high, **fields)
        )  # fmt: skip

    def accuracies(rows: np.ndarray) -> dict[str, float]:
        return by_group(lambda own: float(clean.right[rows][own].mean()), names[rows], smallest=SMALLEST)

    def errors(rows: np.ndarray) -> dict[str, float]:
        return by_group(
            lambda own: calibration.expected_calibration_error(clean.confidence[rows][own], clean.right[rows][own]),
            names[rows], smallest=SMALLEST,
        )  # fmt: skip

    everyone = np.arange(len(names))
    found.lines += [
        study.line("stress/worst_group_accuracy", lambda rows: worst_group(accuracies(rows))[1], study.clips, **fields),
        study.line("stress/group_gap", lambda rows: gap(accuracies(rows)), study.clips, **fields),
    ]
    for name, error in errors(everyone).items():
        found.lines.append(
            number("stress/group_ece", lambda error=error: error, n=rates[name].count, group=name, **fields)
        )
    return found
