"""The order of the samples of training: whole epochs, new ones, the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.data.order import Order


@given(count=st.integers(1, 40), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**6))
def test_every_epoch_holds_each_record_once(count, seed, epoch):
    order = Order(count, seed)
    assert sorted(order[epoch * count + place] for place in range(count)) == list(range(count))


def test_epochs_and_seeds_differ(rng):
    seed = int(rng.integers(0, 2**31 - 1))
    epochs = [tuple(Order(50, seed + other)[place + 50 * epoch] for place in range(50))
              for other in (0, 1) for epoch in range(20)]  # fmt: skip
    assert len(set(epochs)) == 40


def test_every_record_is_as_likely_at_every_place(rng):
    """Counts over 6000 epochs of 6 records: 36 cells that expect 1000 each."""
    order, counts = Order(6, int(rng.integers(0, 2**31 - 1))), np.zeros((6, 6))
    for position in range(6 * 6000):
        counts[position % 6, order[position]] += 1
    # 25 degrees of freedom: 70 is passed by chance once in 200,000 runs.
    assert ((counts - 1000) ** 2 / 1000).sum() < 70


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, [7, 4, 2, 6, 5, 0, 1, 3, 0, 1, 5, 4, 6, 2, 3, 7]), (7, [2, 5, 7, 1, 3, 4, 0, 6, 2, 0, 4, 1, 5, 3, 7, 6])],
)
def test_the_order_stays_what_it_was(seed, expected):
    """A run that goes on with another version of NumPy goes on with the same samples."""
    assert [Order(8, seed)[position] for position in range(16)] == expected
