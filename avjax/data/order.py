"""The order of the samples of training."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """Position of a sample in training to the number of its record: each record once an epoch, each epoch anew.

    A whole epoch is drawn at once, 8 bytes a record: for two million records a fifth of a second and 16 MB. Drawing a
    position at a time without memory, as Grain's ``shuffle`` does, costs every sample as much as reading it where a
    data set is small: its cipher has at least 65,536 values, and it tries until one is the number of a record.

    Attributes:
      count: number of records.
      seed: of the run.
    """

    count: int
    seed: int

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        return int(_epoch(self.count, self.seed, epoch)[place])


# A batch may lie in two epochs.
@functools.lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation from the generator's bits alone, which are the same in every version of NumPy."""
    # Another counter than that of the crops' draws, whose keys are (seed, position).
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, 1]).random_raw(count)
    return np.argsort(bits, kind="stable")
