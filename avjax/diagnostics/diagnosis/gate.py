"""Bounds that a diagnosis must keep, for a build that is to fail when a model gets worse.

bounds.yaml is a list; each entry names a definition, may pick lines by any field, and has ``min``, ``max`` or both:

    - id: stress/accuracy
      corruption: audio/white_noise
      severity: 3
      min: 0.8
    - id: consistency/ece
      max: 0.1
      by: ci            # the interval's unfavourable end must keep it too

Fields are those of a line (estimator, target, fill, layer, head, group) and of its condition (corruption, severity,
seed); ``null`` picks lines that have none. Every line picked must keep the bound; a bound that picks no line, or one
without a value, is broken: what was not measured is not passed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from avjax.diagnostics.definitions import DEFINITIONS
from avjax.diagnostics.diagnosis.panels.panel import place
from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.measured import Measured

FIELDS = ("estimator", "target", "fill", "layer", "head", "group", "corruption", "severity", "seed")


class GateError(ValueError):
    """A file of bounds that cannot be read; says where and why."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """One entry.

    Attributes:
      fields: by which lines are picked.
      by: whether the value must keep it, or also its interval.
    """

    id: str
    fields: Mapping[str, Any]
    least: float | None
    most: float | None
    by: Literal["value", "ci"] = "value"

    def __str__(self) -> str:
        picked = "".join(f" {name}={value}" for name, value in self.fields.items())
        wanted = [f"min {self.least:g}"] if self.least is not None else []
        return f"{self.id}{picked}: {' '.join(wanted + ([f'max {self.most:g}'] if self.most is not None else []))}"


def read_bounds(path: Path) -> list[Bound]:
    """The bounds of a file.

    Raises:
      GateError: for what is not a bound.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GateError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, list) or not found:
        raise GateError(f"{path} must hold a list of bounds, each with an id and min or max")
    return [_bound(entry, f"{path}, entry {place}") for place, entry in enumerate(found, 1)]


def _bound(entry: Any, where: str) -> Bound:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise GateError(f"{where}: has no id")
    if entry["id"] not in DEFINITIONS:
        raise GateError(f"{where}: there is no metric {entry['id']!r}")
    unknown = set(entry) - {"id", "min", "max", "by", *FIELDS}
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise GateError(f"{where}: does not know {names}; a bound has id, min, max, by, {', '.join(FIELDS)}")
    edges = [entry.get("min"), entry.get("max")]
    for edge in edges:
        if edge is not None and (isinstance(edge, bool) or not isinstance(edge, int | float) or edge != edge):
            raise GateError(f"{where}: min and max are numbers, and {edge!r} is none")
    if edges == [None, None] or (None not in edges and edges[0] > edges[1]):
        raise GateError(f"{where}: needs min, or max, or both with min ≤ max")
    if entry.get("by", "value") not in ("value", "ci"):
        raise GateError(f"{where}: by is value or ci")
    fields = {name: entry[name] for name in FIELDS if name in entry}
    least, most = (None if edge is None else float(edge) for edge in edges)
    return Bound(entry["id"], fields, least, most, entry.get("by", "value"))


def violations(diagnosis: Diagnosis, bounds: Sequence[Bound]) -> list[str]:
    """One sentence for every line that breaks a bound, and for every bound that picks none."""
    found = []
    for bound in bounds:
        lines = diagnosis.find(bound.id, **bound.fields)
        if not lines:
            found.append(f"{bound}: no such line was measured")
        found += [sentence for line in lines if (sentence := _broken(line, bound))]
    return found


def exit_code(found: Sequence[str]) -> int:
    """0 where every bound is kept."""
    return 1 if found else 0


def _broken(line: Measured, bound: Bound) -> str:
    where = f" ({place(line)})" if place(line) else ""
    if line.value is None:
        return f"{bound}: has no value{where}: {line.reason}"
    low, high = line.value, line.value
    if bound.by == "ci" and line.ci_lo is not None:
        low, high = line.ci_lo, line.ci_hi
    if (bound.least is None or low >= bound.least) and (bound.most is None or high <= bound.most):
        return ""
    interval = "" if line.ci_lo is None else f", 95 % {line.ci_lo:.4g} to {line.ci_hi:.4g}"
    return f"{bound}: is {line.value:.4g}{interval}{where}"
