"""Robustness over rising noise, as MultiBench has it, from what the corruption stage kept: no model is asked.

The noise axis is that of severities: 0, the clean clips, and those of the tier, taken as levels from 0 to 1. A curve is
the mean accuracy over the corruptions of one group of modalities at each level.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import robustness
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import CLEAN, RIGHT, ROWS
from avjax.diagnostics.diagnosis.result import INDEX, Diagnosis
from avjax.diagnostics.measured import Measured, OfSums, Undefined
from avjax.diagnostics.protocol.study import Found, Study, joined
from avjax.diagnostics.stress.corruption import SUITE

AREAS = ("stress/area_under_noise", "stress/relative_area_under_noise")
AGAINST = ("stress/effective_robustness", "stress/mean_corruption_error")
NO_BASELINE = "it wants a model to be held against, best one of late fusion: --vs FOLDER, its diagnosis"

Arrays = Mapping[str, np.ndarray]
Curve = Float[np.ndarray, "L n"]
"""Of each clip the share of corruptions under which it is right, the clean clip first."""


def noise(study: Study, arrays: Arrays, baseline: Diagnosis | None = None) -> Found:
    """Area under accuracy over noise, and what lies above the curve of a baseline.

    Args:
      baseline: of the same clips; its curves are those of late fusion in MultiBench, and its errors the reference.
    """
    found, severities = Found(), study.tier.severities
    words = f"severities {', '.join(map(str, (0, *severities)))} as noise from 0 to 1"
    groups = _groups(study, arrays)
    if not groups:
        reason = "no corruption was measured at every severity"
        found.lines += [skipped(id, reason, estimator=words) for id in AREAS + AGAINST]
    for group, names in groups.items():
        rows = arrays[f"{ROWS}{RIGHT}{names[0]} {severities[0]}"]
        clips, own = study.clips.take(rows), _right(arrays, names, severities)
        fields = {"estimator": f"{len(names)} corruptions, {words}", "group": group}
        found.lines += _areas(study, clips, own.mean(axis=1), fields)
        try:
            other = _of_baseline(baseline, names, severities, clips)
        except Undefined as undefined:
            found.lines += [skipped(id, undefined.reason, n=len(clips), **fields) for id in AGAINST]
            continue
        fields["estimator"] += f", against {baseline.about['model']['name']}"
        found.lines += _against(study, clips, own, other, fields)
    return found


def _groups(study: Study, arrays: Arrays) -> dict[str, list[str]]:
    """Modalities -> corruptions of them that all severities are kept of, of the same clips."""
    found: dict[str, list[str]] = {}
    for name, corruption in SUITE.items():
        kept = [f"{RIGHT}{name} {severity}" for severity in study.tier.severities]
        if kept and all(one in arrays for one in kept):
            group = joined([m for m in study.modalities if m in corruption.modalities])
            found.setdefault(group, []).append(name)
    return found


def _right(arrays: Arrays, names: list[str], severities: tuple[int, ...]) -> Bool[np.ndarray, "L C n"]:
    """Right or wrong at every level, the clean clips first, under every corruption."""
    rows = arrays[f"{ROWS}{RIGHT}{names[0]} {severities[0]}"]
    clean = [np.asarray(arrays[RIGHT + CLEAN], bool)[rows]] * len(names)
    levels = [[arrays[f"{RIGHT}{name} {severity}"] for name in names] for severity in severities]
    return np.array([clean, *levels], bool)


def _areas(study: Study, clips: Clips, curve: Curve, fields: dict[str, str]) -> list[Measured]:
    levels = np.array([0, *study.tier.severities])
    if len(set(np.diff(levels))) > 1:
        reason = f"severities {', '.join(map(str, levels))} are at uneven distances: no levels of noise"
        return [skipped(id, reason, n=len(clips), **fields) for id in AREAS]
    step = 1 / (len(levels) - 1)
    measures = (
        lambda sums, count: robustness.area_under_noise(sums / count, step=step),
        lambda sums, count: robustness.relative_area_under_noise(sums / count),
    )
    return [
        study.line(id, OfSums(curve.T, of), clips, **fields) for id, of in zip(AREAS, measures, strict=True)
    ]  # fmt: skip


def _of_baseline(
    baseline: Diagnosis | None, names: list[str], severities: tuple[int, ...], clips: Clips
) -> Bool[np.ndarray, "L C n"]:
    """Of the same clips. Undefined where it has no such numbers of them."""
    if baseline is None:
        raise Undefined(NO_BASELINE)
    arrays, name = baseline.arrays, baseline.about["model"]["name"]
    wanted = [f"{RIGHT}{one} {severity}" for one in names for severity in severities]
    rows: Int[np.ndarray, " n"] | None = arrays.get(ROWS + wanted[0])
    if rows is None or any(one not in arrays for one in (RIGHT + CLEAN, *wanted)):
        raise Undefined(f"{name} was not measured under the same corruptions")
    if not np.array_equal(arrays[INDEX][rows], clips.index):
        raise Undefined(f"{name} was measured on other clips")
    return _right(arrays, names, severities)


def _against(
    study: Study, clips: Clips, own: np.ndarray, other: np.ndarray, fields: dict[str, str]
) -> list[Measured]:  # fmt: skip
    levels, corruptions = own.shape[:2]

    def effective(sums: Float[np.ndarray, " k"], count: int) -> float:
        return robustness.effective_robustness(*np.split(sums / count, 2))

    def error(sums: Float[np.ndarray, " k"], count: int) -> float:
        table = (1 - sums / count).reshape(2, levels - 1, corruptions).swapaxes(1, 2)
        return robustness.mean_corruption_error(*table)

    curves = np.concatenate([own.mean(axis=1), other.mean(axis=1)])
    tables = np.concatenate([one[1:].reshape(-1, len(clips)) for one in (own, other)])
    return [
        study.line(id, OfSums(columns.T, of), clips, **fields)
        for id, columns, of in zip(AGAINST, (curves, tables), (effective, error), strict=True)
    ]
