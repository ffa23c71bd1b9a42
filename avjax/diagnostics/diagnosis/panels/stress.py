"""Stress tests: corruption, missing modalities, offset, attacks, imbalance, groups of clips."""

from __future__ import annotations

from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.arrays import ATTACK
from avjax.diagnostics.diagnosis.charts import Bar, Line
from avjax.diagnostics.diagnosis.panels.panel import JOINT, Panel, Section, colour, distinct, section
from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.measured import Measured

SERIES = (1, 2, 3, 4, 5, 6, 7, 8)


def corruptions(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by corruption and severity."""
    lines = [line for line in diagnosis.find("stress/accuracy") if line.condition and line.value is not None]
    lines = [line for line in lines if line.condition.severity is not None]
    if not lines:
        return None
    clean = diagnosis.value("stress/accuracy", condition=None)
    levels = sorted({line.condition.severity for line in lines})
    rows, values, notes = [], [], []
    for corruption, group in distinct(lines, "corruption", "group"):
        own = {line.condition.severity: line for line in lines
               if line.condition.corruption == corruption and line.group == group}  # fmt: skip
        rows.append(f"{corruption} ({group})" if group else corruption)
        values.append([clean, *(own[level].value if level in own else None for level in levels)])
        notes.append(["", *(_half(own.get(level)) for level in levels)])
    top = clean if clean else max(value for row in values for value in row if value is not None)
    heads = ["clean", *(f"{level:g}" for level in levels)]
    return charts.heat("Accuracy by corruption and severity", rows, heads, values, axis=(0.0, max(top, 1e-6)),
                       form=charts.percent, small=notes, corner="severity")  # fmt: skip


def _half(line: Measured | None) -> str:
    """Half the width of a line's interval."""
    return "" if line is None or line.ci_lo is None else f"±{50 * (line.ci_hi - line.ci_lo):.0f}"


def offsets(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the sound's delay."""
    lines = _along(diagnosis, "stress/offset_accuracy", "fill")
    curves = [_curve(f"{fill} sound at the edge" if fill else "accuracy", own, number)
              for number, (fill, own) in enumerate(lines.items())]  # fmt: skip
    if not curves:
        return None
    clean = diagnosis.value("stress/accuracy", condition=None)
    return charts.lines("Accuracy by the delay of the sound", curves, x="sound early  ←  milliseconds  →  sound late",
                        y="accuracy", form=charts.percent, rule=clean)  # fmt: skip


def missing(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the share of clips without a modality."""
    lines = _along(diagnosis, "stress/missing_accuracy", "group")
    curves = [_curve(str(group or "missing"), own, number, colour(diagnosis, group))
              for number, (group, own) in enumerate(lines.items())]  # fmt: skip
    return charts.lines("Accuracy by missing rate", curves, x="share of clips without", y="accuracy",
                        form=charts.percent) if curves else None  # fmt: skip


def dilution(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the weight of another clip's signal."""
    lines = _along(diagnosis, "stress/dilution_accuracy", "group")
    curves = [_curve(str(group or "diluted"), own, number, colour(diagnosis, group))
              for number, (group, own) in enumerate(lines.items())]  # fmt: skip
    return charts.lines("Accuracy by dilution", curves, x="weight of another clip", y="accuracy",
                        form=charts.percent) if curves else None  # fmt: skip


def _along(diagnosis: Diagnosis, id: str, by: str) -> dict[str | None, list[Measured]]:
    """Lines with a severity, in order of it, by a field."""
    lines = [line for line in diagnosis.find(id) if line.value is not None and line.condition]
    lines = [line for line in lines if line.condition.severity is not None]
    return {
        name: sorted((line for line in lines if getattr(line, by) == name), key=lambda line: line.condition.severity)
        for (name,) in distinct(lines, by)
    }


def _curve(name: str, lines: list[Measured], number: int, shade: int | None = None) -> Line:
    shade = SERIES[number % len(SERIES)] if shade is None else shade
    edges = None if any(line.ci_lo is None for line in lines) else lines
    return Line(
        name, [line.condition.severity for line in lines], [line.value for line in lines],
        edges and [line.ci_lo for line in edges], edges and [line.ci_hi for line in edges], shade, dots=True,
    )  # fmt: skip


def frontier(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the budgets of an attack on both."""
    found = diagnosis.named(ATTACK)
    drawn = []
    for name in dict.fromkeys(key.rpartition("/")[0] for key in found):
        parts = [found.get(f"{name}/{part}") for part in ("audio", "video", "accuracy")]
        if any(part is None for part in parts):
            continue
        audio, video, accuracy = parts
        rows, columns = ([_budget(float(value)) for value in budgets] for budgets in (audio, video))
        label, corner = f"Accuracy under {name} by budget", f"{name}: sound ↓ picture →"
        drawn.append(charts.heat(label, rows, columns, accuracy.astype(float).tolist(), axis=(0.0, 1.0),
                                 form=charts.percent, corner=corner))  # fmt: skip
    return Markup("").join(drawn) or None


def _budget(value: float) -> str:
    """Steps of eight bits where it is so many."""
    steps = round(255 * value)
    return f"{steps}/255" if steps and abs(255 * value - steps) < 1e-3 else f"{value:.3g}"


def attacks(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy under each attack."""
    rows = [
        Bar(f"{line.estimator}: {line.group or 'all'}{f', {line.condition.corruption}' if line.condition else ''}",
            line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group))
        for line in diagnosis.find("stress/adversarial_accuracy") if line.value is not None
    ]  # fmt: skip
    rows += [
        Bar("synergy of both attacks", line.value, line.ci_lo, line.ci_hi, charts.QUIET)
        for line in diagnosis.find("stress/attack_synergy") if line.value is not None
    ]  # fmt: skip
    edges = [0.0, 1.0, *(row.value for row in rows)]
    return charts.bars("Accuracy under attack", rows, axis=(min(edges), max(edges)), zero=0.0, filled=True,
                       form=charts.percent) if rows else None  # fmt: skip


def groups(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy of groups of clips."""
    rows = [
        Bar(f"{line.group} ({line.n})", line.value, line.ci_lo, line.ci_hi, JOINT,
            text="" if line.value is not None else "hidden")
        for line in diagnosis.find("stress/group_accuracy")
    ]  # fmt: skip
    clean = diagnosis.value("stress/accuracy", condition=None)
    return charts.bars("Accuracy of groups of clips", rows, form=charts.percent, mark=clean) \
        if any(row.value is not None for row in rows) else None  # fmt: skip


def imbalance(diagnosis: Diagnosis) -> Markup | None:
    """Whether a modality was trained below its means."""
    rows = []
    for id, name in (("utilisation_gap", "unimodal gap"), ("probe_gap", "probe gap"),
                     ("imbalance_ratio", "log₁₀ ρ in training"), ("gradient_norm_ratio", "log₁₀ of gradient norms"),
                     ("imbalance_alarm", "share of steps out of balance")):  # fmt: skip
        rows += [
            Bar(f"{name}{f': {line.group}' if line.group else ''}", line.value, line.ci_lo, line.ci_hi,
                colour(diagnosis, line.group))
            for line in diagnosis.find(f"contribution/{id}") if line.value is not None
        ]  # fmt: skip
    return charts.bars("Imbalance", rows, zero=0.0, filled=True) if rows else None


PANELS = (
    Panel("Corruption and severity", "Accuracy; the darker, the nearer to clean. Below it half the width of its 95 % "
          "interval, in points.", ("stress/accuracy", "stress/mean_performance"), corruptions, wide=True),
    Panel("Sound out of sync", "Dashed: clean. A flat curve says that the model uses no fine synchrony, which is a "
          "finding and no robustness.", ("stress/offset_accuracy",), offsets),
    Panel("Missing for some clips", "Accuracy where a share of the clips lacks a modality.",
          ("stress/missing_accuracy",), missing),
    Panel("Frontier of attacks on both", "Accuracy by the budget of the sound (rows) and of the pictures (columns).",
          ("stress/adversarial_accuracy",), frontier),
    Panel("Attacks", "Upper bounds: a stronger attack may find more. Synergy above 0: both together cost more than "
          "the two apart.", ("stress/adversarial_accuracy",), attacks),
    Panel("Dilution", "Accuracy when a modality is mixed with another clip's.", ("stress/dilution_accuracy",),
          dilution),
    Panel("Imbalance of training", "Gap to a model of that modality alone: above 0 it learned less than it could.",
          ("contribution/utilisation_gap", "contribution/imbalance_ratio"), imbalance),
    Panel("Groups of clips", "Accuracy with 95 % intervals and number of clips; fewer than 30 are hidden. Dashed: all.",
          ("stress/group_accuracy",), groups),
)  # fmt: skip


def stress(diagnosis: Diagnosis) -> Section:
    lead = "How accuracy falls as the input gets worse, by nature or by design."
    return section(diagnosis, "stress", "Stress tests", lead, PANELS)
