"""A metric's value with a bootstrap interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int


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
    if count < 2:
        return Estimate(value, value, value, count)
    random = np.random.default_rng(seed)
    draws = [measure(random.integers(0, count, count)) for _ in range(samples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high), count)


def over_seeds(right: Bool[np.ndarray, "S N"], *, samples: int = 2000) -> Estimate:
    """Accuracy of S runs, one a seed, on the same N clips.

    The interval is bootstrapped over both: each draw takes as many seeds as there are, and as many clips, the same for
    all its seeds.
    """
    random = np.random.default_rng(0)
    seeds, clips = right.shape
    draws = [
        right[random.integers(0, seeds, seeds)][:, random.integers(0, clips, clips)].mean() for _ in range(samples)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(right.mean()), float(low), float(high), clips)
