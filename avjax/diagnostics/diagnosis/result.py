"""A diagnosis: every number of one model on one set of clips, the arrays behind them, and the clips that went wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from avjax.diagnostics.measured import Measured

SOURCE, INDEX = "clips/source", "clips/index"
"""Arrays that every diagnosis has: source video of each clip (text), and its number in the split."""


@dataclasses.dataclass(frozen=True, eq=False)
class ShownClip:
    """A clip as the page shows it.

    Attributes:
      name: of the record.
      label, predicted: names of the true class and of the class that the model tells.
      confidence: probability of ``predicted``.
      seconds: how long it is: the common time axis of all below.
      envelope: lowest and highest sample of each part of the sound, on [-1, 1]; None without sound.
      frames: a few, at even distances in time; None without pictures.
      heard: saliency of each part of time of the sound, 0 or more.
      seen: saliency of the cells of the pictures, by time, row and column, 0 or more.
      allocation: mass of each modality, in the model's order, in windows of time.
      drift: CMSD from each window to the next.
      middles: seconds from its begin to the middle of each window.
    """

    name: str
    label: str
    predicted: str
    confidence: float
    seconds: float
    envelope: Float[np.ndarray, "P 2"] | None = None
    frames: UInt8[np.ndarray, "N H W C"] | None = None
    heard: Float[np.ndarray, " T"] | None = None
    seen: Float[np.ndarray, "S h w"] | None = None
    allocation: Float[np.ndarray, "V M"] | None = None
    drift: Float[np.ndarray, " V-1"] | None = None
    middles: Float[np.ndarray, " V"] | None = None

    @property
    def pictures(self) -> dict[str, np.ndarray]:
        """The arrays that it has."""
        names = ("envelope", "frames", "heard", "seen", "middles", "allocation", "drift")
        named = {name: getattr(self, name) for name in names}
        return {name: array for name, array in named.items() if array is not None}


@dataclasses.dataclass(frozen=True, eq=False)
class Diagnosis:
    """Every number of one model on one set of clips.

    Attributes:
      measured: the lines of report.json.
      about: model, data, env and protocol, as report.schema.json describes them.
      arrays: numbers of every clip, by the names in ``avjax.diagnostics.diagnosis.arrays``.
      clips: those shown, worst first.
    """

    measured: tuple[Measured, ...]
    about: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, np.ndarray]
    clips: tuple[ShownClip, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.about["model"]["modalities"])

    @property
    def fill(self) -> str | None:
        """The one by which numbers without a modality are told where one must do: the protocol's first."""
        return next(iter(self.about["protocol"].get("fills", ())), None)

    @property
    def synthetic(self) -> bool:
        """Whether the clips were generated, not recorded."""
        return bool(self.about["data"]["synthetic"])

    def find(self, id: str, **fields: Any) -> list[Measured]:
        """The lines of a definition, in their order, that agree in these fields of theirs.

        ``corruption`` and ``severity`` are those of the condition, and None where the input is clean.
        """
        return [line for line in self.measured if line.id == id and agrees(line, fields)]

    def one(self, id: str, **fields: Any) -> Measured | None:
        """The first of them that has a value; None where none has."""
        return next((line for line in self.find(id, **fields) if line.value is not None), None)

    def value(self, id: str, **fields: Any) -> float | None:
        """Its value."""
        line = self.one(id, **fields)
        return None if line is None else line.value

    def named(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays below a prefix that ends in "/", by the rest of their names."""
        return {name.removeprefix(prefix): a for name, a in self.arrays.items() if name.startswith(prefix)}


def agrees(line: Measured, fields: Mapping[str, Any]) -> bool:
    """Whether the line has these values in these fields."""
    return all(field(line, name) == value for name, value in fields.items())


def field(line: Measured, name: str) -> Any:
    """A field of a line, or of its condition: corruption, severity, seed."""
    if name in ("corruption", "severity", "seed"):
        return None if line.condition is None else getattr(line.condition, name)
    return getattr(line, name)
