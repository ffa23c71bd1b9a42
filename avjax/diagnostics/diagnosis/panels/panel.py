"""What every section of the page is made of: panels, each a chart or the reason why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from avjax.diagnostics.diagnosis.result import Diagnosis, field
from avjax.diagnostics.measured import Measured

Draw = Callable[[Diagnosis], Markup | None]
JOINT = 3
"""Colour of what is of all modalities together."""


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
    reasons = [line.reason for id in ids for line in diagnosis.find(id) if line.reason]
    if reasons:
        return reasons[0]
    names = {id.split("/")[0] for id in ids}
    for stage in diagnosis.about["protocol"].get("stages", []):
        if stage["reason"] and stage["name"].split("/")[0] in names:
            return stage["reason"]
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


def place(line: Measured) -> str:
    """What sets a line apart among those of its definition, in words."""
    words = [line.group or "", line.fill or ""]
    if line.condition is not None:
        words.append(line.condition.corruption)
        if line.condition.severity is not None:
            words.append(f"{line.condition.severity:g}")
    if line.layer is not None:
        words.append(f"layer {line.layer}")
    if line.head is not None:
        words.append(f"head {line.head}")
    return ", ".join(word for word in words if word)
