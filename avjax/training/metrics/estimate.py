"""A metric's value with a bootstrap interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int, Shaped


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95 % bootstrap interval over ``count`` clips."""

    value: float
    low: float
    high: float
    count: int

    def plain(self) -> dict[str, float | int]:
        return dataclasses.asdict(self)


def bootstrap(
    measure: Callable[[Int[np.ndarray, " N"]], float], count: int, *, samples: int = 1000, seed: int = 0
) -> Estimate:
    """``measure`` of all rows, and the middle 95 % of it over resampled rows.

    Args:
      measure: from row numbers (with repetitions) to a number.
      count: number of rows.
    """
    value = measure(np.arange(count))
    if count < 2 or not samples:
        return Estimate(value, value, value, count)
    random = np.random.default_rng(seed)
    draws = [measure(random.integers(0, count, count)) for _ in range(samples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric as a function of which rows count, so that it can be bootstrapped.

    Attributes:
      of: from row numbers (with repetitions) to a number.
      count: number of rows.
      cost: an interval takes this many times fewer draws.
    """

    of: Callable[[Int[np.ndarray, " N"]], float]
    count: int
    cost: int = 1

    @classmethod
    def mean(cls, values: Shaped[np.ndarray, " N"]) -> Measure:
        """Of a number a row, such as whether it is right."""
        return cls(lambda rows: float(values[rows].mean()), len(values))

    def estimate(self, samples: int = 1000) -> Estimate:
        """With an interval made of so many draws; without draws the value alone."""
        return bootstrap(self.of, self.count, samples=-(-samples // self.cost))


def estimates(measures: Mapping[str, Measure], samples: int = 1000) -> dict[str, Estimate]:
    """Every measure with its interval."""
    return {name: measure.estimate(samples) for name, measure in measures.items()}


def over_seeds(measures: Sequence[Measure], *, samples: int = 2000) -> Estimate:
    """Mean of one metric of S runs, one a seed, on the same N clips.

    The interval is bootstrapped over both: each draw takes as many seeds as there are, and as many clips, the same for
    all its seeds.
    """
    random = np.random.default_rng(0)
    seeds, clips = len(measures), measures[0].count

    def mean(chosen: np.ndarray, rows: np.ndarray) -> float:
        each = {seed: measures[seed].of(rows) for seed in set(chosen.tolist())}
        return float(np.mean([each[seed] for seed in chosen.tolist()]))

    draws = [
        mean(random.integers(0, seeds, seeds), random.integers(0, clips, clips))
        for _ in range(max(samples // measures[0].cost, 1))
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(mean(np.arange(seeds), np.arange(clips)), float(low), float(high), clips)
