"""Cross-modal saliency drift: over severities, over a clip's time, over training."""

from __future__ import annotations

import functools

import numpy as np
from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts, pictures
from avjax.diagnostics.diagnosis.arrays import ALLOCATION, STEP, TO_FINAL
from avjax.diagnostics.diagnosis.charts import Bar, Line
from avjax.diagnostics.diagnosis.panels.panel import (
    JOINT,
    Panel,
    Section,
    at_worst,
    colour,
    commonest,
    distinct,
    kinds,
    section,
)
from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.diagnosis.rules import of_gradients
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.page import environment

MOST_SMALL = 12


def severities(diagnosis: Diagnosis) -> Markup | None:
    """Drift against severity, split into re-allocation and re-localisation: a small chart a corruption."""
    lines = [line for line in diagnosis.find("drift/cmsd_allocation") if line.value is not None and line.condition]
    state = commonest(lines)
    lines = [line for line in lines if line.estimator == state and line.condition.severity is not None]
    charted = []
    for (corruption,) in distinct(lines, "corruption"):
        levels = sorted(line.condition.severity for line in lines if line.condition.corruption == corruption)
        if len(levels) < 2:
            continue

        def along(id: str, group: str | None, corruption: str = corruption, levels: list = levels) -> list[float]:
            found = [diagnosis.value(id, corruption=corruption, severity=level, group=group, estimator=state)
                     for level in levels]  # fmt: skip
            return [0.0 if value is None else value for value in [0.0, *found]]

        parts = [("between modalities", along("drift/cmsd_allocation", None), JOINT)]
        parts += [(f"within {name}", along("drift/cmsd_localisation", name), colour(diagnosis, name))
                  for name in diagnosis.modalities]  # fmt: skip
        charted.append((corruption, [0.0, *levels], parts))
    if not charted:
        return None
    charted.sort(key=lambda chart: -sum(part[1][-1] for part in chart[2]))
    top = max(sum(part[1][k] for part in parts) for _, levels, parts in charted for k in range(len(levels)))
    small = [
        (name, charts.stacked(f"Drift under {name} by severity", levels, parts, x="", y="bits", keys=False,
                              y_range=(0.0, 1.05 * max(top, 1e-6)), x_ticks=[(k, f"{k:g}") for k in levels]))
        for name, levels, parts in charted[:MOST_SMALL]
    ]  # fmt: skip
    keys = [{"name": name, "colour": number, "dash": "solid"} for name, _, number in charted[0][2]]
    more = len(charted) - len(small)
    return environment().get_template("diagnosis/parts.html.j2").module.small(small, keys, more)


def following(diagnosis: Diagnosis) -> Markup | None:
    """Whether the model leaves the corrupted modality, corruption by corruption."""
    lines = diagnosis.find("drift/rfi")
    if not any(line.value is not None for line in lines):
        return None
    rows = [
        Bar(_under(line, line.group or "all"), line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group),
            text="" if line.value is not None else "none", second=not of_gradients(line))
        for line in lines
    ]  # fmt: skip
    return charts.bars("Reliability-following index of each corruption", rows, axis=(-1.0, 1.0), zero=0.0, filled=True)


def _under(line: Measured, whole: str) -> str:
    """The corruption of a line, and whether it is of attention."""
    name = line.condition.corruption if line.condition else whole
    return name if of_gradients(line) else f"{name}, attention"


def headline(diagnosis: Diagnosis) -> Markup | None:
    """Calibrated drift of each corruption, and how much of it does harm."""
    rows, kind = [], kinds(diagnosis)
    for line in diagnosis.find("drift/cmsd_severity"):
        if line.value is not None:
            under = line.condition.corruption if line.condition else "all corruptions"
            shade, second = colour(diagnosis, kind.get(under, line.group)), not of_gradients(line)
            rows.append(Bar(_under(line, "all corruptions"), line.value, line.ci_lo, line.ci_hi, shade, second=second))
    for id, name in (("cmsd_time", "over time"), ("unexplained", "prediction unchanged"),
                     ("harmful", "right to wrong"), ("separation", "separation of harm (AUROC)")):  # fmt: skip
        lines = _alike(diagnosis, f"drift/{id}")
        if len(lines) == 1:
            rows.append(Bar(name, lines[0].value, lines[0].ci_lo, lines[0].ci_hi, charts.QUIET, second=True))
        elif lines:
            middle = float(np.mean([line.value for line in lines]))
            rows.append(Bar(f"{name}, mean of {len(lines)}", middle, colour=charts.QUIET, second=True))
    return charts.bars("Calibrated drift", rows, axis=(0.0, 1.0)) if rows else None


def _alike(diagnosis: Diagnosis, id: str, **fields: str | None) -> list[Measured]:
    """The lines with a value of the commonest estimator."""
    lines = [line for line in diagnosis.find(id, **fields) if line.value is not None]
    state = commonest(lines)
    return [line for line in lines if line.estimator == state]


def companions(diagnosis: Diagnosis) -> Markup | None:
    """Other distances of the same states, means over corruptions at their greatest severity."""
    rows = []
    for id, name in (("total_variation", "total variation"), ("cosine", "cosine"), ("top_iou", "shared top cells"),
                     ("rank_correlation", "rank correlation"), ("earth_mover_time", "moved in time"),
                     ("earth_mover_grid", "moved over the picture")):  # fmt: skip
        for (group,) in distinct(diagnosis.find(f"drift/{id}"), "group"):
            lines = at_worst(_alike(diagnosis, f"drift/{id}", group=group))
            if lines:
                middle = float(np.mean([line.value for line in lines]))
                shade = charts.QUIET if group is None else colour(diagnosis, group)
                rows.append(Bar(name if group is None else f"{name}, {group}", middle, colour=shade))
    return charts.bars("Companions of drift", rows, axis=(-1.0, 1.0), zero=0.0, filled=True) if rows else None


def offset(diagnosis: Diagnosis) -> Markup | None:
    """Drift by the sound's delay, and the mass that the delay takes out of the comparison."""
    lines = [line for line in diagnosis.find("drift/cmsd", corruption="offset") if line.value is not None]
    if len(lines) < 2:
        return None
    lines.sort(key=lambda line: line.condition.severity)
    places = [line.condition.severity for line in lines]
    curves = [Line("CMSD, bits", places, [line.value for line in lines], colour=4, dots=True)]
    for side in ("clean", "changed"):
        lost = {
            line.condition.severity: line.value for line in diagnosis.find("drift/dropped_mass", corruption="offset")
            if line.estimator.endswith(f"of the {side} state")
        }  # fmt: skip
        if set(lost) >= set(places):
            name = f"mass out of view, {side} state"
            curves.append(Line(name, places, [lost[at] for at in places], colour=charts.QUIET))
    x = "sound early  ←  milliseconds  →  sound late"
    return charts.lines("Drift by the offset of the sound", curves, x=x, y="")


def attacked(diagnosis: Diagnosis) -> Markup | None:
    """Whether an attack moves attention from one modality to the other."""
    whole = next((line for line in diagnosis.find("drift/cmsd") if ", under " in line.estimator), None)
    if whole is None or whole.value is None:
        return None
    parts = [("drift", "drift/cmsd", None, 4), ("between modalities", "drift/cmsd_allocation", None, JOINT)]
    parts += [(f"within {m}", "drift/cmsd_localisation", m, colour(diagnosis, m)) for m in diagnosis.modalities]
    found = [(name, diagnosis.one(id, estimator=whole.estimator, group=group), shade)
             for name, id, group, shade in parts]  # fmt: skip
    rows = [Bar(name, line.value, line.ci_lo, line.ci_hi, shade, second=name != "drift")
            for name, line, shade in found if line is not None]  # fmt: skip
    return charts.bars("Drift between clean clips and the same under attack", rows, zero=0.0, filled=True)


def timeline(diagnosis: Diagnosis) -> Markup | None:
    """One clip over time: frames, sound, and where the model looked."""
    clip = next((clip for clip in diagnosis.clips if clip.allocation is not None), None)
    if clip is None:
        return None
    count = len(clip.allocation)
    times = (np.arange(count) + 0.5) / count * clip.seconds if clip.middles is None else np.asarray(clip.middles)
    colours = [colour(diagnosis, name) for name in diagnosis.modalities]
    parts = [(name, clip.allocation[:, k], colours[k]) for k, name in enumerate(diagnosis.modalities)]
    chart = charts.stacked(f"Saliency mass of each modality over {clip.name}", times, parts, x="seconds", y="mass",
                           y_range=(0.0, 1.0), form=charts.percent)  # fmt: skip
    rates = Markup("")
    if clip.drift is not None and len(clip.drift) > 1:
        between = (times[1:] + times[:-1]) / 2
        curve = Line("drift", between, clip.drift, colour=4, dots=True)
        label = f"Drift from window to window of {clip.name}"
        rates = charts.lines(label, [curve], x="seconds", y="bits between windows")
    parts_of = environment().get_template("diagnosis/parts.html.j2").module
    return parts_of.timeline(pictures.shown(clip), colours, chart, rates)


def training(diagnosis: Diagnosis) -> Markup | None:
    """Where the mass lay over training."""
    steps, mass = diagnosis.arrays.get(STEP), diagnosis.arrays.get(ALLOCATION)
    if steps is None or mass is None or len(steps) < 2:
        return None
    places = np.log2(np.maximum(np.asarray(steps, np.float64), 1))
    marks = [(float(place), f"{int(step):,}") for place, step in zip(places, steps, strict=True)]
    marks = marks[:: max(1, -(-len(marks) // 6))]
    parts = [(name, mass[:, k], colour(diagnosis, name)) for k, name in enumerate(diagnosis.modalities)]
    chart = charts.stacked("Saliency mass of each modality over training", places, parts, x="step", y="mass",
                           y_range=(0.0, 1.0), x_ticks=marks, form=charts.percent)  # fmt: skip
    final = diagnosis.arrays.get(TO_FINAL)
    if final is None:
        return chart
    chart += Markup('<p class="lead">{}</p>').format(" ".join(_settled(diagnosis)))
    curve = Line("to the last", places, final, colour=4, dots=True)
    return chart + charts.lines("Drift to the last checkpoint", [curve], x="step", y="bits to the last checkpoint",
                                x_ticks=marks, rule=0.05)  # fmt: skip


def _settled(diagnosis: Diagnosis) -> list[str]:
    """Since when it looks where it looks in the end, and which modality it has left, in words."""
    found, first = [], diagnosis.arrays[STEP][0]
    for line in diagnosis.find("drift/settle_step"):
        if line.value is None:
            found.append(f"Not settled: {line.reason}.")
        else:
            # Of what was before the first checkpoint that was kept nothing is known.
            found.append(f"Settled {'at or before' if line.value <= first else 'from'} step {line.value:,.0f}.")
    for line in diagnosis.find("drift/collapse_step"):
        if line.value is not None:
            found.append(f"The mass of {line.group} has been next to nothing or all since step {line.value:,.0f}.")
    return found


def split(diagnosis: Diagnosis) -> Markup | None:
    """Raw drift over severities, windows and checkpoints: its parts, its floor and its ceiling."""
    rows = []
    for axis, name in (("severity", "over severities"), ("time", "over time"), ("train", "over training")):
        one = functools.partial(diagnosis.one, corruption=None)
        whole = one(f"drift/cmsd_{axis}_raw")
        if whole is None:
            continue
        rows.append(Bar(name, whole.value, whole.ci_lo, whole.ci_hi, 4))
        parts = [("between modalities", one(f"drift/cmsd_{axis}_allocation"), JOINT)]
        parts += [(f"within {m}", one(f"drift/cmsd_{axis}_localisation", group=m), colour(diagnosis, m))
                  for m in diagnosis.modalities]  # fmt: skip
        parts += [(end, one(f"drift/cmsd_{axis}_{end}"), charts.QUIET) for end in ("floor", "ceiling")]
        rows += [
            Bar(f"{name}, {part}", line.value, line.ci_lo, line.ci_hi, shade, second=True)
            for part, line, shade in parts if line is not None
        ]  # fmt: skip
    return charts.bars("Raw drift and its parts, in bits", rows, zero=0.0, filled=True) if rows else None


def content(diagnosis: Diagnosis) -> Markup | None:
    """Whether saliency moves with what it sees, and whether it gets anywhere."""
    names = {"content_following": "follows the content", "unprovoked": "unprovoked, bits", "wander": "wander"}
    lines = {name: diagnosis.one(f"drift/{id}") for id, name in names.items()}
    rows = [Bar(name, line.value, line.ci_lo, line.ci_hi, 4) for name, line in lines.items() if line is not None]
    return charts.bars("The way through a clip", rows, axis=(-1.0, 1.0), zero=0.0, filled=True) if rows else None


PANELS = (
    Panel("Drift against severity", "Raw CMSD in bits, split exactly: between modalities (the model moves attention "
          "from one to the other) and within each (it looks elsewhere in it). Severity 0 is clean; the same scale "
          "everywhere, most drift first.", ("drift/cmsd_allocation", "drift/cmsd_localisation"), severities, wide=True),
    Panel("Does it follow reliability?", "RFI: +1 leaves the corrupted modality as it gets worse, −1 is captured by "
          "its noise.", ("drift/rfi",), following),
    Panel("Calibrated drift", "0 is the drift under imperceptible re-encoding, 1 that between different clips. Drift "
          "is no fault by itself: read it beside RFI and accuracy.", ("drift/cmsd_severity", "drift/cmsd_time"),
          headline),
    Panel("Where it moves", "CMSD in bits from the clean clip to each severity, from each window of a clip to the "
          "next, and from each checkpoint to the next: the sum, and exactly its parts. Floor: re-encoding. Ceiling: a "
          "clip's windows in any order, or other clips.",
          ("drift/cmsd_severity_raw", "drift/cmsd_time_raw", "drift/cmsd_train_raw"), split),
    Panel("Other distances", "Of the same states at the greatest severity, mean of corruptions. Of total variation and "
          "what moved, 0 is no drift; of the others, 1.", ("drift/total_variation", "drift/cosine"), companions),
    Panel("Under attack", "CMSD in bits between clips and the same under the widest attack on all modalities.",
          ("stress/adversarial_accuracy",), attacked),
    Panel("Drift by offset", "CMSD against the clean state moved along with the sound: 0 where saliency moves with "
          "what it hears. What leaves the clip, or comes from outside of it, is not compared.",
          ("stress/offset_accuracy",), offset),
    Panel("The way through a clip", "Follows the content: rank correlation of drift with the change of sound and "
          "pictures. Unprovoked: the drift where nothing changes, 0 is best. Wander: 1 ends where it began.",
          ("drift/content_following", "drift/cmsd_time"), content),
    Panel("One clip over time", "Frames with the cells that count, the sound's envelope with the times that count, and "
          "the mass of each modality.", ("drift/cmsd_time",), timeline, wide=True),
    Panel("Over training", "Mass of each modality at checkpoints, and drift to the last one; below the dashed line it "
          "has settled.", ("drift/cmsd_train", "drift/to_final"), training),
)  # fmt: skip


def drift(diagnosis: Diagnosis) -> Section:
    lead = "Cross-modal saliency drift (CMSD): how far what the model attends to moves, between and within modalities."
    return section(diagnosis, "drift", "Saliency drift", lead, PANELS)
