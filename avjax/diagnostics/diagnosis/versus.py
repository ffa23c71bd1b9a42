"""Two diagnoses of the same clips, side by side: differences with paired intervals.

Each draw of the bootstrap takes both models on the same source videos, so that what makes a video hard for both
cancels (``measured.paired_bootstrap``). Numbers without an array of clips are compared without an interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from avjax.diagnostics.consistency.calibration import expected_calibration_error
from avjax.diagnostics.consistency.robustness import mean_corruption_error
from avjax.diagnostics.diagnosis.arrays import CONFIDENCE, DRIFT, RIGHT, ROWS, SHARE
from avjax.diagnostics.diagnosis.panels.panel import place
from avjax.diagnostics.diagnosis.result import INDEX, SOURCE, Diagnosis
from avjax.diagnostics.measured import SAMPLES, OfRows, Undefined, paired_bootstrap

Pair = tuple[np.ndarray, np.ndarray]
_KEY = ("id", "estimator", "target", "fill", "layer", "head", "group", "condition")


class VersusError(ValueError):
    """Two diagnoses that cannot be compared; says why."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """One number of both.

    Attributes:
      id: of the definition.
      name: in words, what sets it apart among those of its definition.
      one, other: their values.
      difference: one - other.
      low, high: 95 % interval of the difference, paired; None where there is none.
      n: clips behind it.
      direction: whether higher or lower is better.
    """

    id: str
    name: str
    one: float
    other: float
    low: float | None
    high: float | None
    n: int
    direction: str

    @property
    def difference(self) -> float:
        return self.one - self.other

    @property
    def better(self) -> bool | None:
        """Whether one is better for certain, or worse; None where that is open."""
        if self.low is None or self.direction == "none" or self.low <= 0 <= self.high:
            return None
        return (self.low > 0) == (self.direction == "higher")


@dataclasses.dataclass(frozen=True)
class Versus:
    """What ``compare`` finds.

    Attributes:
      one, other: names of the models.
      clips: how many both have.
      paired: differences with an interval.
      lines: of lines alone.
    """

    one: str
    other: str
    clips: int
    paired: tuple[Difference, ...]
    lines: tuple[Difference, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        rows = [{**dataclasses.asdict(row), "difference": row.difference} for row in (*self.paired, *self.lines)]
        return {"other": self.other, "clips": self.clips, "differences": rows}


def compare(one: Diagnosis, other: Diagnosis, *, samples: int = SAMPLES) -> Versus:
    """Pairs the clips that both have, and compares every number that both have.

    Raises:
      VersusError: where they are not of the same records and modalities, or share fewer than two source videos.
    """
    marks = [diagnosis.about["data"].get("fingerprint") for diagnosis in (one, other)]
    if marks[0] != marks[1]:
        raise VersusError(f"the two are of other records: {marks[0]} and {marks[1]}")
    if one.modalities != other.modalities:
        raise VersusError(f"the two have other modalities: {one.modalities} and {other.modalities}")
    sources = _clusters(one, *_rows(one, other, "")[:1])
    if len(np.unique(sources)) < 2:
        raise VersusError(f"the two share {len(sources)} clips of fewer than two source videos: nothing to resample")
    paired = tuple(_paired(one, other, samples))
    names = [str(diagnosis.about["model"]["name"]) for diagnosis in (one, other)]
    return Versus(*names, len(sources), paired, tuple(_lines(one, other)))


def _rows(one: Diagnosis, other: Diagnosis, name: str) -> Pair:
    """Places, in an array of both, of the clips that both have in it, in one order; of all clips where it has none."""
    keys = []
    for diagnosis in (one, other):
        missing = [array for array in (INDEX, SOURCE) if array not in diagnosis.arrays]
        if missing:
            raise VersusError(f"{diagnosis.about['model']['name']} has no array {missing[0]}")
        rows = diagnosis.arrays.get(ROWS + name, np.arange(len(diagnosis.arrays[INDEX])))
        keys.append((diagnosis.arrays[INDEX][rows], diagnosis.arrays[SOURCE][rows]))
    _, first, second = np.intersect1d(keys[0][0], keys[1][0], return_indices=True)
    same = keys[0][1][first] == keys[1][1][second]
    return first[same], second[same]


def _clusters(one: Diagnosis, places: np.ndarray, name: str = "") -> np.ndarray:
    """Source videos of places in an array of ``one``."""
    rows = one.arrays.get(ROWS + name)
    return one.arrays[SOURCE][places if rows is None else rows[places]]


def _paired(one: Diagnosis, other: Diagnosis, samples: int) -> Iterator[Difference]:
    def row(
        id: str, name: str, array: str, taken: tuple[Any, Any], of: Callable[[Any], OfRows], better: str
    ) -> Iterator:
        first, second = (of(values) for values in taken)
        clusters = _clusters(one, _rows(one, other, array)[0], array)
        everything = np.arange(len(clusters))
        try:
            values = float(first(everything)), float(second(everything))
        except Undefined:
            return
        low, high = paired_bootstrap(first, second, clusters, samples=samples) or (None, None)
        yield Difference(id, name, *values, low, high, len(clusters), better)

    for name, arrays in _conditions(one, other).items():
        right = tuple(np.mean(parts, axis=0) for parts in zip(*(_taken(one, other, a) for a in arrays), strict=True))
        id = "stress/accuracy" if "without" not in name else "contribution/ablation_accuracy"
        yield from row(id, name, arrays[0], right, _mean, "higher")
        array = CONFIDENCE + name
        if array in one.arrays and array in other.arrays and arrays == [RIGHT + name]:
            both = tuple(zip(_taken(one, other, array), right, strict=True))
            yield from row("consistency/ece", name, arrays[0], both, _calibration, "lower")
    for name in _both(one, other, SHARE):
        found = _taken(one, other, SHARE + name)
        for k, modality in enumerate(one.modalities):
            own = tuple(array[:, k] for array in found)
            yield from row(f"contribution/{name}", modality, SHARE + name, own, _mean, "none")
    for name in _both(one, other, DRIFT):
        rows = _rows(one, other, DRIFT + name)
        found = tuple(diagnosis.arrays[DRIFT + name][:, rows[k]].mean(0) for k, diagnosis in enumerate((one, other)))
        yield from row("drift/cmsd_severity", name, DRIFT + name, found, _mean, "none")


def _conditions(one: Diagnosis, other: Diagnosis) -> dict[str, list[str]]:
    """Name -> arrays of what is right under it: severities of one corruption are of the same clips, and are one."""
    found: dict[str, list[str]] = {}
    for name in _both(one, other, RIGHT):
        corruption, _, severity = name.rpartition(" ")
        found.setdefault(corruption if severity.isdigit() else name, []).append(RIGHT + name)
    return found


def _both(one: Diagnosis, other: Diagnosis, prefix: str) -> list[str]:
    return [name for name in one.named(prefix) if name in other.named(prefix)]


def _taken(one: Diagnosis, other: Diagnosis, name: str) -> Pair:
    rows = _rows(one, other, name)
    return one.arrays[name][rows[0]], other.arrays[name][rows[1]]


def _mean(values: np.ndarray) -> OfRows:
    values = np.asarray(values, np.float64)
    return lambda rows: float(values[rows].mean())


def _calibration(both: Pair) -> OfRows:
    # What float32 rounds above 1 is 1.
    confidence, right = np.clip(np.asarray(both[0], np.float64), 0.0, 1.0), both[1].astype(bool)
    return lambda rows: expected_calibration_error(confidence[rows], right[rows])


def _lines(one: Diagnosis, other: Diagnosis) -> Iterator[Difference]:
    """Lines of both that say the same of both."""
    theirs = {_key(line): line for line in other.measured if line.value is not None}
    for line in one.measured:
        mate = theirs.get(_key(line))
        if line.value is not None and mate is not None and line.version == mate.version:
            yield Difference(
                line.id, place(line), line.value, mate.value, None, None, min(line.n, mate.n), line.direction
            )
    yield from _corruption_error(one, other)


def _key(line: Any) -> tuple[Any, ...]:
    return tuple(getattr(line, name) for name in _KEY)


def _corruption_error(one: Diagnosis, other: Diagnosis) -> Iterator[Difference]:
    """mCE with the other as the reference: it has 1 of itself."""
    found = [
        {(line.condition.corruption, line.condition.severity): 1 - line.value
         for line in diagnosis.find("stress/accuracy") if line.condition is not None and line.value is not None}
        for diagnosis in (one, other)
    ]  # fmt: skip
    names = list(dict.fromkeys(name for name, _ in found[0]))
    levels = sorted({level for _, level in found[0] if level is not None})
    whole = [name for name in names if all((name, level) in errors for errors in found for level in levels)]
    if not whole or not levels:
        return
    tables = [np.array([[errors[name, level] for level in levels] for name in whole]) for errors in found]
    try:
        value = mean_corruption_error(*tables)
    except Undefined:
        return
    yield Difference("stress/mean_corruption_error", f"{len(whole)} corruptions", value, 1.0, None, None, 0, "lower")
