"""Whether the model says the same without a modality, and whether its confidence may be believed."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from avjax.diagnostics.consistency.calibration import reliability
from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.arrays import CLEAN, CONFIDENCE, RIGHT
from avjax.diagnostics.diagnosis.charts import QUIET, Bar, Line
from avjax.diagnostics.diagnosis.panels.panel import JOINT, Panel, Section, at_worst, colour, place, section
from avjax.diagnostics.diagnosis.result import Diagnosis

COLUMNS = {
    "agreement": "agreement", "kappa": "kappa", "soft_agreement": "soft", "ece_change": "ΔECE",
    "negative_flips": "spoiled", "positive_flips": "mended", "brier": "Brier", "aurc": "AURC",
}  # fmt: skip
MOST_ROWS = 24
MOST_CURVES = 6


def grid(diagnosis: Diagnosis) -> Markup | None:
    """Agreement with the clean prediction under every condition."""
    found: dict[str, dict[str, float]] = {}
    for id in COLUMNS:
        for line in at_worst(diagnosis.find(f"consistency/{id}")):
            if line.value is not None and place(line):
                found.setdefault(place(line), {})[id] = line.value
    if not found:
        return None
    rows = list(found)[:MOST_ROWS]
    columns = [id for id in COLUMNS if any(id in line for line in found.values())]
    values = [[found[row].get(id) for id in columns] for row in rows]
    return charts.heat("Consistency under every condition", rows, [COLUMNS[id] for id in columns], values,
                       axis=(0.0, 1.0), form=lambda value: f"{value:.2f}", corner="condition")  # fmt: skip


def diagram(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy against confidence."""
    confidence = diagnosis.named(CONFIDENCE)
    right = {name: array for name, array in diagnosis.named(RIGHT).items() if name in confidence}
    curves = [Line("perfect", [0.0, 1.0], [0.0, 1.0], colour=QUIET, dash="dashed")]
    names = sorted(right, key=lambda name: name != CLEAN)
    for number, name in enumerate(names[:MOST_CURVES]):
        if not len(right[name]):
            continue
        found = reliability(np.clip(confidence[name], 0.0, 1.0), right[name].astype(bool))
        some = found.count > 0
        shade = (JOINT, *(colour(diagnosis, modality) for modality in diagnosis.modalities), 4, 5, 6, 7)[number]
        curves.append(Line(name, found.confidence[some], found.accuracy[some], colour=shade, dots=True))
    if len(curves) == 1:
        return None
    return charts.lines("Accuracy against confidence", curves, x="confidence", y="accuracy", y_range=(0.0, 1.0),
                        x_ticks=[(tick, charts.percent(tick)) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)],
                        form=charts.percent, tall=True)  # fmt: skip


def flips(diagnosis: Diagnosis) -> Markup | None:
    """Right to wrong, and wrong to right."""
    rows = []
    for line in at_worst(diagnosis.find("consistency/negative_flips")):
        if line.value is None:
            continue
        rows.append(Bar(f"spoiled: {place(line)}", line.value, line.ci_lo, line.ci_hi, 7))
        back = diagnosis.one("consistency/positive_flips", group=line.group, fill=line.fill, condition=line.condition)
        if back is not None:
            rows.append(Bar("mended", back.value, back.ci_lo, back.ci_hi, JOINT, second=True))
    top = max((row.high or row.value for row in rows), default=1.0)
    axis = (0.0, max(1.1 * top, 0.05))
    return charts.bars("Flips of the prediction", rows[:MOST_ROWS], axis=axis, zero=0.0, filled=True,
                       form=charts.percent) if rows else None  # fmt: skip


def calibration(diagnosis: Diagnosis) -> Markup | None:
    """Single numbers of clean clips, and of those without a modality by the one fill that the rest is told by."""
    rows, fills = [], (None, diagnosis.fill)
    for id, name in (("ece", "calibration error"), ("overconfidence", "overconfidence"), ("brier", "Brier score"),
                     ("aurc", "area under risk over coverage"), ("cross_modal", "agreement of single modalities"),
                     ("top_overlap", "overlap of their top 5")):  # fmt: skip
        for line in diagnosis.find(f"consistency/{id}"):
            if line.value is not None and line.condition is None and line.fill in fills:
                both = f"{name} ({line.estimator})" if id == "ece" else name
                rows.append(Bar(", ".join(filter(None, (both, place(line)))), line.value, line.ci_lo, line.ci_hi,
                                colour(diagnosis, line.group)))  # fmt: skip
    for line in diagnosis.find("consistency/modality_confusion") + diagnosis.find("consistency/any_confusion"):
        if line.value is not None and line.fill in fills:
            which = line.group or "any"
            low, high = (None if edge is None else edge / 100 for edge in (line.ci_lo, line.ci_hi))
            rows.append(Bar(f"right by {which} alone, wrong together, {line.fill}", line.value / 100, low, high,
                            colour(diagnosis, line.group)))  # fmt: skip
    edges = [0.0, *(row.value for row in rows), *(row.high for row in rows if row.high is not None)]
    return charts.bars("Calibration and confusion", rows, axis=charts.spread(edges), zero=0.0, filled=True) \
        if rows else None  # fmt: skip


def missing(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the share of clips without a modality, and by which."""
    lines = [line for line in diagnosis.find("stress/missing_accuracy") if line.value is not None and line.condition]
    if not lines:
        return None
    own = {(line.group, line.fill, line.condition.severity): line.value for line in lines}
    rows = list(dict.fromkeys((group, fill) for group, fill, _ in own))
    rates = sorted({rate for *_, rate in own if rate is not None})
    names = [", ".join(word for word in (f"{group}{' in turn' if '+' in str(group) else ''}", fill) if word)
             for group, fill in rows]  # fmt: skip
    values = [[own.get((*row, rate)) for rate in rates] for row in rows]
    top = max(value for row in values for value in row if value is not None)
    return charts.heat("Accuracy by modality and share of clips without it", names, [charts.percent(r) for r in rates],
                       values, axis=(0.0, max(top, 1e-6)), form=charts.percent, corner="missing")  # fmt: skip


PANELS = (
    Panel("Without a modality, and under corruption", "Agreement with the clean prediction: plain, above chance, of "
          "the whole distribution; change of the calibration error; share of clips spoiled and mended; Brier score and "
          "area under risk over coverage, better low. Corruption at its greatest severity.",
          ("consistency/agreement", "consistency/kappa", "consistency/brier"), grid, wide=True),
    Panel("Missing for a share of the clips", "Accuracy where so many clips lack the modality of the row, filled in as "
          "it says; in turn: each lacks one of them.", ("stress/missing_accuracy",), missing),
    Panel("Reliability", "Accuracy of the clips of each confidence, as they are and without a modality; on the "
          "diagonal confidence may be believed.", ("consistency/ece",), diagram),
    Panel("Flips", "Share of all clips that turn from right to wrong, and back.",
          ("consistency/negative_flips",), flips),
    Panel("Calibration and confusion", "Of clean clips, and without a modality by the fill that is named. Confusion: "
          "share of clips that one modality alone gets right and the whole model wrong.",
          ("consistency/ece", "consistency/overconfidence", "consistency/modality_confusion"), calibration),
)  # fmt: skip


def consistency(diagnosis: Diagnosis) -> Section:
    lead = "What changes when a modality is missing or damaged, and how far confidence may be believed."
    return section(diagnosis, "consistency", "Consistency", lead, PANELS)
