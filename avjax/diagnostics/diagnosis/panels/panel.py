"""What every section of the page is made of: panels, each a chart or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from avjax.diagnostics.diagnosis.result import Diagnosis, field
from avjax.diagnostics.measured import Measured

Draw = Callable[[Diagnosis], Markup | None]
STAGES = {
    "contribution/emap_gap": "additive",
    "contribution/mm_shap": "shapley",
    "drift/cmsd_time": "time",
    "drift/cmsd_time_raw": "time",
    "drift/cmsd_train": "training",
    "stress/offset_accuracy": "offsets",
    "stress/mismatch_accuracy": "mixtures",
    "stress/dilution_accuracy": "mixtures",
    "stress/class_noise_accuracy": "mixtures",
    "stress/adversarial_accuracy": "attacks",
    "stress/attack_guard": "attacks",
    "stress/attack_success": "backdoor",
    "contribution/pid_above_null": "information",
    "contribution/imbalance_ratio": "imbalance",
    "faithfulness/rank_cascade": "randomised",
    "faithfulness/pointing_game": "pointing",
    "faithfulness/gap_change": "degraded",
}
"""Definition -> the stage that measures it, where a tier may leave it out."""
JOINT = 3
"""Colour of what is of all modalities together."""
OF_WHAT_IS_MISSING = {
    f"consistency/{name}" for name in
    ("agreement", "kappa", "soft_agreement", "negative_flips", "positive_flips", "ece_change", "overconfidence",
     "brier", "aurc")
}  # fmt: skip
"""Definitions whose lines of a fill are of clips without the modality in their group."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One chart to be.

    Attributes:
      title: above it.
      caption: below it: how it is read.
      ids: definitions of its numbers; those that are not there say why.
      draw: makes it; None where the diagnosis lacks what it needs.
      wide: takes the whole width.
    """

    title: str
    caption: str
    ids: tuple[str, ...]
    draw: Draw
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
      shown: (panel, chart).
      absent: (title, reason).
    """

    name: str
    title: str
    lead: str
    shown: tuple[tuple[Panel, Markup], ...]
    absent: tuple[tuple[str, str], ...]


def section(diagnosis: Diagnosis, name: str, title: str, lead: str, panels: Iterable[Panel]) -> Section:
    """Draws the panels that the diagnosis has numbers for."""
    shown, absent = [], []
    for panel in panels:
        drawn = panel.draw(diagnosis)
        if drawn:
            shown.append((panel, drawn))
        else:
            absent.append((panel.title, why(diagnosis, panel.ids)))
    return Section(name, title, lead, tuple(shown), tuple(absent))


def why(diagnosis: Diagnosis, ids: Sequence[str]) -> str:
    """Why there is no number of these definitions: in the words of a line, of a stage, or of the tier."""
    lines = [line for id in ids for line in diagnosis.find(id)]
    reasons = [line.reason for line in lines if line.reason]
    if reasons:
        return reasons[0]
    names = {name for id in ids for name in (id.split("/")[0], STAGES.get(id))}
    for stage in diagnosis.about["protocol"].get("stages", []):
        if stage["reason"] and stage["name"] in names:
            return stage["reason"]
    if lines:
        return "what is to be drawn was not kept"
    return f"not measured by the tier {diagnosis.about['protocol']['tier']}"


def colour(diagnosis: Diagnosis, group: str | None) -> int:
    """The colour of a modality throughout the page; of several together, another."""
    names = diagnosis.modalities
    if group in names:
        place = names.index(group)
        return place + 1 + (place >= JOINT - 1)
    return JOINT


def distinct(lines: Iterable[Measured], *names: str) -> list[tuple]:
    """The combinations of these fields, in order of appearance."""
    return list(dict.fromkeys(tuple(field(line, name) for name in names) for line in lines))


def commonest(lines: Sequence[Measured]) -> str | None:
    """The estimator of most of the lines."""
    names = [line.estimator for line in lines]
    return max(dict.fromkeys(names), key=names.count, default=None)


def at_worst(lines: Iterable[Measured]) -> list[Measured]:
    """Without the severities of a corruption below its greatest."""
    lines = list(lines)
    greatest: dict[str, float] = {}
    for line in lines:
        if line.condition is not None and line.condition.severity is not None:
            name = line.condition.corruption
            greatest[name] = max(line.condition.severity, greatest.get(name, line.condition.severity))
    return [
        line for line in lines
        if line.condition is None or line.condition.severity in (None, greatest.get(line.condition.corruption))
    ]  # fmt: skip


def kinds(diagnosis: Diagnosis) -> dict[str, str | None]:
    """Corruption -> what it corrupts."""
    return {line.condition.corruption: line.group for line in diagnosis.find("stress/accuracy") if line.condition}


def place(line: Measured) -> str:
    """What sets a line apart among those of its definition, in words."""
    gone = line.group and line.fill and line.id in OF_WHAT_IS_MISSING
    words = [f"without {line.group}" if gone else line.group or ""]
    words.append(line.fill or "")
    if line.condition is not None:
        words.append(line.condition.corruption)
        if line.condition.severity is not None:
            words.append(f"{line.condition.severity:g}")
    if line.layer is not None:
        words.append(f"layer {line.layer}")
    if line.head is not None:
        words.append(f"head {line.head}")
    return ", ".join(word for word in words if word)
