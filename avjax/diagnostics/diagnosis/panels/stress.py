"""Stress tests: corruption, missing modalities, offset, attacks, imbalance, groups of clips."""

from __future__ import annotations

from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.arrays import AT_CHECKPOINT, ATTACK
from avjax.diagnostics.diagnosis.charts import Bar, Line
from avjax.diagnostics.diagnosis.panels.panel import JOINT, Panel, Section, colour, distinct, section
from avjax.diagnostics.diagnosis.result import Diagnosis, field
from avjax.diagnostics.measured import Measured

SERIES = (4, 5, 6, 7, 1, 2, 3)


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
    return _along(diagnosis, "stress/offset_accuracy", ("fill",), "sound early  ←  milliseconds  →  sound late")


def missing(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the share of clips without a modality."""
    return _by_fill(diagnosis, "stress/missing_accuracy", ("group",), "share of clips without")


def steps_missing(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the share of a modality's steps that are missing."""
    return _by_fill(diagnosis, "stress/frame_missing_accuracy", ("group", "corruption"), "share of steps without")


def mismatch(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the share of clips with another clip's modality."""
    return _along(diagnosis, "stress/mismatch_accuracy", ("group", "corruption"), "share of clips mismatched")


def dilution(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the weight of another clip's signal."""
    return _along(diagnosis, "stress/dilution_accuracy", ("group",), "weight of another clip")


def _by_fill(diagnosis: Diagnosis, id: str, by: tuple[str, ...], x: str) -> Markup | None:
    """Accuracy over severity, a chart for each fill."""
    fills = [fill for (fill,) in distinct(diagnosis.find(id), "fill")]
    drawn = [_along(diagnosis, id, by, f"{x} (fill: {fill})" if len(fills) > 1 else x, fill=fill) for fill in fills]
    return Markup("").join(chart for chart in drawn if chart) or None


def _along(diagnosis: Diagnosis, id: str, by: tuple[str, ...], x: str, **fields: str | None) -> Markup | None:
    """Accuracy over severity, a curve for each combination of these fields."""
    lines = [line for line in diagnosis.find(id, **fields) if line.value is not None and line.condition]
    lines = [line for line in lines if line.condition.severity is not None]
    curves: list[Line] = []
    for names in distinct(lines, *by):
        own = [line for line in lines if tuple(field(line, name) for name in by) == names]
        curves.append(_curve(diagnosis, names, sorted(own, key=lambda line: line.condition.severity), curves))
    clean = diagnosis.value("stress/accuracy", condition=None)
    label = f"Accuracy by {x.replace('  ', ' ')}"
    return charts.lines(label, curves, x=x, y="accuracy", form=charts.percent, rule=clean) if curves else None


def _curve(diagnosis: Diagnosis, names: tuple[str | None, ...], lines: list[Measured], before: list[Line]) -> Line:
    """Coloured by its modality, where it has one, and dashed where that colour is taken."""
    of_modality = names[0] in diagnosis.modalities or "+" in str(names[0])
    shade = colour(diagnosis, names[0]) if of_modality else SERIES[len(before) % len(SERIES)]
    taken = sum(line.colour == shade for line in before)
    edges = None if taken or any(line.ci_lo is None for line in lines) else lines
    return Line(
        ", ".join(str(name) for name in names if name) or "accuracy",
        [line.condition.severity for line in lines], [line.value for line in lines],
        edges and [line.ci_lo for line in edges], edges and [line.ci_hi for line in edges], shade,
        ("solid", "dashed", "dotted")[taken % 3], dots=True,
    )  # fmt: skip


def frontier(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the budgets of an attack on both."""
    if len(diagnosis.modalities) != 2:
        return None
    found, drawn = diagnosis.named(ATTACK), []
    one, other = diagnosis.modalities
    for name in dict.fromkeys(key.rpartition("/")[0] for key in found):
        parts = [found.get(f"{name}/{part}") for part in (one, other, "accuracy")]
        if any(part is None for part in parts):
            continue
        *budgets, accuracy = parts
        rows, columns = ([str(x) if axis.dtype.kind == "U" else f"{x:.3g}" for x in axis] for axis in budgets)
        label, corner = f"Accuracy under {name} by budget", f"{name}: {one} ↓ {other} →"
        drawn.append(charts.heat(label, rows, columns, accuracy.astype(float).tolist(), axis=(0.0, 1.0),
                                 form=charts.percent, corner=corner))  # fmt: skip
    return Markup("").join(drawn) or None


def attacks(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy under each attack."""
    rows = []
    for line in diagnosis.find("stress/adversarial_accuracy"):
        if line.value is not None:
            title = f"{line.estimator}: {line.condition.corruption if line.condition else line.group or 'all'}"
            rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
            both = diagnosis.one("stress/attack_synergy", estimator=line.estimator, group=line.group,
                                 condition=line.condition)  # fmt: skip
            if both is not None:
                rows.append(Bar("synergy", both.value, both.ci_lo, both.ci_hi, charts.QUIET, second=True))
    edges = [0.0, 1.0, *(row.value for row in rows)]
    return charts.bars("Accuracy under attack", rows, axis=(min(edges), max(edges)), zero=0.0, filled=True,
                       form=charts.percent) if rows else None  # fmt: skip


def parts_left(diagnosis: Diagnosis) -> Markup | None:
    """What a diluted modality still gives, and accuracy with noise in some classes."""
    rows = []
    for id, name in (("contribution/necessity", "necessity"), ("contribution/sufficiency", "sufficiency"),
                     ("contribution/imbalance_ratio", "log₁₀ ρ")):  # fmt: skip
        for line in diagnosis.find(id, corruption="dilution"):
            if line.value is not None:
                title = f"{name}: {line.group}, {charts.percent(line.condition.severity)} another clip's"
                rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
    for line in diagnosis.find("stress/class_noise_accuracy"):
        if line.value is not None:
            title = f"accuracy: {line.group}, {line.estimator}"
            rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
    return charts.bars("What is left of a modality", rows, zero=0.0, filled=True) if rows else None


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
    for id, name in (("utilisation_gap", "unimodal gap"), ("probe_gap", "probe gap"), ("imbalance_ratio", "log₁₀ ρ"),
                     ("gradient_norm_ratio", "log₁₀ of gradient norms"),
                     ("fisher_trace_ratio", "log₁₀ of Fisher traces"),
                     ("imbalance_alarm", "share of steps out of balance")):  # fmt: skip
        found = [line for line in diagnosis.find(f"contribution/{id}", corruption=None) if line.value is not None]
        found = [line for line in found if AT_CHECKPOINT not in line.estimator]
        several = len(distinct(found, "estimator")) > 1
        for line in found:
            words = [name, line.group or ""] + ([line.estimator] if several else [line.fill or ""])
            title = ", ".join(word for word in words if word)
            rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
    return charts.bars("Imbalance", rows, zero=0.0, filled=True) if rows else None


def guards(diagnosis: Diagnosis) -> Markup | None:
    """By how many clips what must hold of attacks does not."""
    rows = [
        Bar(line.estimator, line.value, colour=JOINT)
        for line in diagnosis.find("stress/attack_guard") if line.value is not None
    ]  # fmt: skip
    return charts.bars("Shares of clips by which attacks break what they must hold", rows, axis=(0.0, 1.0), zero=0.0,
                       filled=True, form=charts.percent) if rows else None  # fmt: skip


def backdoors(diagnosis: Diagnosis) -> Markup | None:
    """A patch that turns clips into one class, and what would tell of a hidden one."""
    rows = []
    for id, name in (("attack_success", "turned by a"), ("backdoor_detection", "found by"),
                     ("stickiness", "stays with other clips' other modality:"),
                     ("outlying_clips", "outliers:")):  # fmt: skip
        for line in diagnosis.find(f"stress/{id}"):
            if line.value is not None:
                what = line.group if id == "stickiness" else line.estimator
                rows.append(Bar(f"{name} {what}", line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
    return charts.bars("Backdoor", rows, axis=(0.0, 1.0), zero=0.0, filled=True) if rows else None


PANELS = (
    Panel("Corruption and severity", "Accuracy; the darker, the nearer to clean. Below it half the width of its 95 % "
          "interval, in points.", ("stress/accuracy", "stress/mean_performance"), corruptions, wide=True),
    Panel("Sound out of sync", "Level: clean clips. Beyond the clip the sound is real or zero. A flat curve says that "
          "the model uses no fine synchrony: a finding, and no robustness.", ("stress/offset_accuracy",), offsets),
    Panel("Missing for some clips", "Accuracy where a share of the clips lacks a modality.",
          ("stress/missing_accuracy",), missing),
    Panel("Frontier of attacks on both", "Accuracy by the budget in each modality, in rows and in columns.",
          ("stress/adversarial_accuracy",), frontier),
    Panel("Attacks", "Upper bounds: a stronger attack may find more. Synergy above 0: both together cost more than "
          "the two apart.", ("stress/adversarial_accuracy",), attacks),
    Panel("May the attacks be believed?", "Share of clips by which each fails, 0 where it holds: more steps, a wider "
          "radius and gradients break no less, and a radius without bound breaks everything.",
          ("stress/attack_guard",), guards),
    Panel("Backdoor", "The patch that most turns clips into a class, looked for on half of the clips; area under the "
          "ROC by which each detector tells clips that carry it (0.5: not at all); answers that stay whatever the "
          "other modality says.", ("stress/attack_success", "stress/stickiness"), backdoors),
    Panel("Missing for some of the time", "Accuracy where every clip lacks a share of a modality's steps, in one block "
          "or at random.", ("stress/frame_missing_accuracy",), steps_missing),
    Panel("Mismatched", "Accuracy where a share of the clips has a modality of another clip, of the same class or of "
          "another.", ("stress/mismatch_accuracy",), mismatch),
    Panel("Dilution", "Accuracy when a modality is mixed with another clip's.", ("stress/dilution_accuracy",),
          dilution),
    Panel("What is left of a modality", "Necessity, sufficiency and ρ of a modality that is mixed with another clip's; "
          "accuracy with noise in the class that is told worst, or in all others.",
          ("stress/class_noise_accuracy",), parts_left),
    Panel("Imbalance of training", "Gap to a model of that modality alone: above 0 it learned less than it could. ρ: "
          "probability that a modality alone gives the true class, over the others'; above 0 it is ahead.",
          ("contribution/imbalance_ratio", "contribution/utilisation_gap"), imbalance),
    Panel("Groups of clips", "Accuracy with 95 % intervals and number of clips; fewer than 30 are hidden. Dashed: all.",
          ("stress/group_accuracy",), groups),
)  # fmt: skip


def stress(diagnosis: Diagnosis) -> Section:
    lead = "How accuracy falls as the input gets worse, by nature or by design."
    return section(diagnosis, "stress", "Stress tests", lead, PANELS)
