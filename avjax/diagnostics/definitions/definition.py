"""What a metric is: one row of the table that every number of a report refers to."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

Direction = Literal["higher", "lower", "none"]

SECTIONS = ("contribution", "drift", "consistency", "stress", "faithfulness")


class Scale(NamedTuple):
    """On what a metric is measured.

    Attributes:
      unit: such as "share", "bits", "percent".
      low, high: least and greatest value there can be; None where there is none. Whole numbers will do.
      direction: whether higher or lower is better, or neither.
      null_baseline: value of a model without the property; None where it depends on the data, or is unknown.
    """

    unit: str
    low: float | None
    high: float | None
    direction: Direction = "none"
    null_baseline: float | None = None


@dataclasses.dataclass(frozen=True)
class Definition:
    """One metric.

    Attributes:
      id: "section/name".
      title: as a table shows it.
      equation: in plain text.
      unit, low, high, direction, null_baseline: of ``Scale``.
      pitfalls: what a reader would otherwise take it for.
      source: authors and year; "ours" where nothing is published, or where we could not read what is.
      function: dotted path of what computes it.
      version: rises when the same input would give another number.
    """

    id: str
    title: str
    equation: str
    unit: str
    low: float | None
    high: float | None
    direction: Direction
    null_baseline: float | None
    pitfalls: str
    source: str
    function: str
    version: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"({'|'.join(SECTIONS)})/[a-z][a-z0-9_]*", self.id):
            raise ValueError(f"{self.id!r} is no id: section/name_in_small_letters, of {', '.join(SECTIONS)}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"{self.id}: the range {self.low} to {self.high} is empty")
        if self.null_baseline is not None and not self.holds(self.null_baseline):
            raise ValueError(f"{self.id}: the null baseline {self.null_baseline} is out of range")

    @property
    def section(self) -> str:
        """contribution, drift, consistency, stress or faithfulness."""
        return self.id.split("/")[0]

    def holds(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def range(self) -> str:
        """As a table shows it, such as "[0, 1]" or "[0, inf)"."""
        low = "(-inf" if self.low is None else f"[{self.low:g}"
        high = "inf)" if self.high is None else f"{self.high:g}]"
        return f"{low}, {high}"

    def resolve(self) -> Callable[..., Any] | property:
        """The function, or the property of a class, that computes it."""
        parts = self.function.split(".")
        for end in range(len(parts) - 1, 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            for name in parts[end:]:
                found = getattr(found, name)
            return found
        raise ModuleNotFoundError(f"{self.id}: nothing of {self.function} can be imported")


def definition(
    id: str, title: str, equation: str, scale: Scale, *, function: str, source: str, pitfalls: str, version: int = 1
) -> Definition:
    """A row of a section's table.

    Args:
      function: without "avjax.".
    """
    low, high, baseline = (None if x is None else float(x) for x in (scale.low, scale.high, scale.null_baseline))
    return Definition(
        id, title, equation, scale.unit, low, high, scale.direction, baseline, pitfalls, source, f"avjax.{function}",
        version,
    )  # fmt: skip


def table(rows: Iterable[Definition]) -> dict[str, Definition]:
    """id -> definition; no id twice."""
    found: dict[str, Definition] = {}
    for row in rows:
        if row.id in found:
            raise ValueError(f"{row.id} is defined twice")
        found[row.id] = row
    return found
