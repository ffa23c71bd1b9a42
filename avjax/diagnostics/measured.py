"""One measured number as the report keeps it, what has no value and why, and intervals of numbers over source videos.

Every diagnostic is a pure function from arrays to numbers, in float64. Where its formula has no value (a constant
predictor, a zero denominator, a group too small to show) it raises ``Undefined`` with the reason and never returns
NaN; ``measured`` turns either into a ``Measured``, one flat line of report.json.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Rows = Int[np.ndarray, " R"]
OfRows = Callable[[Rows], float]
"""A number of some rows, given by their places, which may repeat: what a bootstrap resamples."""
Interval = tuple[float, float]

SAMPLES = 1000
# An interval from fewer draws than these would describe the draws that happened to have a value.
MOST_UNDEFINED_DRAWS = 0.05


class Undefined(ValueError):
    """A formula has no value on this data; the message says why, as report.json will."""

    @property
    def reason(self) -> str:
        return str(self)


@dataclasses.dataclass(frozen=True, eq=False)
class OfSums:
    """A number that follows from sums over rows, such as a mean; one of ``OfRows``.

    A bootstrap has the sums of every draw from how often each row was drawn, in one product for all draws: a report
    has thousands of these numbers.

    Attributes:
      columns: what is summed. Of whole numbers the sums are exact.
      function: from the sums [k] and the number of rows; may raise ``Undefined``.
    """

    columns: Shaped[np.ndarray, "N k"]
    function: Callable[[Float[np.ndarray, " k"], int], float]

    def __call__(self, rows: Rows) -> float:
        return float(self.function(self.columns[rows].sum(axis=0, dtype=np.float64), len(rows)))

    @classmethod
    def mean(cls, values: Shaped[np.ndarray, " N"]) -> OfSums:
        """Of one number or truth value a row."""
        return cls(np.asarray(values, np.float64)[:, None], lambda sums, count: sums[0] / count)

    @classmethod
    def mean_where(cls, values: Shaped[np.ndarray, " N"], which: Bool[np.ndarray, " N"], reason: str) -> OfSums:
        """Over the rows that are meant; ``Undefined`` for this reason where none of them is there."""

        def of(sums: Float[np.ndarray, " k"], _: int) -> float:
            if not sums[1]:
                raise Undefined(reason)
            return float(sums[0] / sums[1])

        return cls(np.stack([np.where(which, values, 0), which], axis=1).astype(np.float64), of)


@dataclasses.dataclass(frozen=True)
class Condition:
    """What was done to the input.

    Attributes:
      corruption: its name.
      severity: None where it has none.
      seed: of its random numbers; None where it has none.
    """

    corruption: str
    severity: float | int | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One line of report.json.

    Attributes:
      id: of the definition, such as "consistency/kappa".
      version: of the definition.
      estimator: how it was estimated; two estimators of one quantity are two numbers.
      target: the class that was explained or judged, "predicted" or "label"; None where none is.
      fill: how a modality was made absent (drop, zero, mean, noise, marginal, learned), or a part of it (mean,
        imputed); None where none was.
      layer, head: of attention; None where the number is of the whole model.
      group: modality, or group of clips.
      condition: what was done to the input; None where it is clean.
      value: None where there is none, with ``reason``.
      ci_lo, ci_hi: 95 % interval; None where there is none.
      n: samples behind the value.
      unit: such as "share", "bits", "points".
      direction: whether higher or lower is better, or neither.
      null_baseline: the value that a model without the property would have; None where that is unknown.
      status: ok; undefined, where the formula has no value; skipped, where it was not computed.
      reason: why there is no value; empty where there is one.
    """

    id: str
    version: int
    estimator: str
    n: int
    unit: str
    direction: Literal["higher", "lower", "none"]
    value: float | None
    target: str | None = None
    fill: str | None = None
    layer: int | str | None = None
    head: int | None = None
    group: str | None = None
    condition: Condition | None = None
    ci_lo: float | None = None
    ci_hi: float | None = None
    null_baseline: float | None = None
    status: Literal["ok", "undefined", "skipped"] = "ok"
    reason: str = ""

    def __post_init__(self) -> None:
        numbers = (self.value, self.ci_lo, self.ci_hi, self.null_baseline)
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"{self.id}: a value must be a finite number, or None with a reason; got {numbers}")
        if (self.value is None) != (self.status != "ok") or (self.value is None) != bool(self.reason):
            raise ValueError(f"{self.id}: value None goes with a reason and a status that is not ok, and only then")
        if (self.ci_lo is None) != (self.ci_hi is None) or (self.value is None and self.ci_lo is not None):
            raise ValueError(f"{self.id}: an interval has two ends, and belongs to a value")
        if self.ci_lo is not None and self.ci_lo > self.ci_hi:
            raise ValueError(f"{self.id}: the interval's ends {self.ci_lo} and {self.ci_hi} are the wrong way round")

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


def measured(of: OfRows, clusters: Shaped[np.ndarray, " N"], *, samples: int = SAMPLES, **fields: Any) -> Measured:
    """``of`` all rows, with its ``clustered_bootstrap``; None and the reason where it is ``Undefined``.

    Args:
      clusters: source video of each row.
      fields: of ``Measured``: id, version, estimator, unit, direction, and those that apply.
    """
    try:
        value = float(of(np.arange(len(clusters))))
    except Undefined as undefined:
        return Measured(value=None, status="undefined", reason=undefined.reason, n=len(clusters), **fields)
    low, high = clustered_bootstrap(of, clusters, samples=samples) or (None, None)
    return Measured(value=value, ci_lo=low, ci_hi=high, n=len(clusters), **fields)


def clustered_bootstrap(
    of: OfRows, clusters: Shaped[np.ndarray, " N"], *, samples: int = SAMPLES, seed: int = 0
) -> Interval | None:
    """Middle 95 % of a number over resampled source videos (cluster bootstrap, Davison & Hinkley 1997, section 3.8).

    Each draw takes as many videos as there are, with replacement, and of each all its rows: clips of one video are
    alike, so that resampling rows would give intervals that are too narrow.

    Args:
      clusters: source video of each row.

    Returns:
      None where there are fewer than two videos, or where more than one draw in twenty has no value.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    of_row = cluster.astype(np.int64).tobytes()
    if isinstance(of, OfSums):
        if (times := _times(of_row, samples, seed)) is None:
            return None
        sums, counts = times @ np.asarray(of.columns, np.float64), times.sum(axis=1).astype(int)
        found = _defined(of.function, zip(sums, counts.tolist(), strict=True))
    else:
        if (drawn := _drawn(of_row, samples, seed)) is None:
            return None
        found = _defined(of, zip(drawn))
    draws = list(found)
    if len(draws) < (1 - MOST_UNDEFINED_DRAWS) * samples or not draws:
        return None
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _defined(of: Callable[..., float], draws: Iterable[tuple]) -> Iterator[float]:
    """The number of every draw that has one."""
    for draw in draws:
        try:
            yield of(*draw)
        except Undefined:
            continue


@functools.lru_cache(maxsize=2)
def _times(cluster: bytes, samples: int, seed: int) -> Float[np.ndarray, "draws N"] | None:
    """How often each row is in every draw of ``_drawn``."""
    drawn, rows = _drawn(cluster, samples, seed), len(cluster) // np.dtype(np.int64).itemsize
    return None if drawn is None else np.stack([np.bincount(one, minlength=rows) for one in drawn]).astype(np.float64)


@functools.lru_cache(maxsize=8)
def _drawn(cluster: bytes, samples: int, seed: int) -> tuple[Rows, ...] | None:
    """Rows of every draw, the same for all numbers of the same rows; None where there are fewer than two clusters."""
    of_row = np.frombuffer(cluster, np.int64)
    count = np.bincount(of_row)
    if len(count) < 2:
        return None
    order, start = np.argsort(of_row, kind="stable"), np.cumsum(count) - count
    random = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        chosen = random.integers(0, len(count), len(count))
        length = count[chosen]
        # Places within each chosen video, moved to where its rows begin.
        shift = np.repeat(start[chosen] - (np.cumsum(length) - length), length)
        found.append(order[shift + np.arange(len(shift))])
    return tuple(found)


def paired_bootstrap(
    one: OfRows, other: OfRows, clusters: Shaped[np.ndarray, " N"], *, samples: int = SAMPLES, seed: int = 0
) -> Interval | None:
    """Interval of ``one - other`` of two models, or two conditions, on the same rows: each draw takes both on the same
    videos, so that what makes a video hard for both cancels.

    Otherwise as ``clustered_bootstrap``.
    """
    return clustered_bootstrap(lambda rows: one(rows) - other(rows), clusters, samples=samples, seed=seed)


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Score interval of a share of n independent rows (Wilson 1927), which stays within [0, 1] however few they are.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = successes / n

    Not for rows that share source videos: those need ``clustered_bootstrap``.
    """
    if n < 1:
        raise Undefined("a share of no rows has no interval")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # At p = 0 and p = 1 an end is 0 or 1, which rounding would miss by some 1e-17.
    low = 0.0 if successes == 0 else (middle - half) / (1 + z**2 / n)
    high = 1.0 if successes == n else (middle + half) / (1 + z**2 / n)
    return low, high
