"""The counter-based generator: its published answers, and that its draws look independent."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import dropout
from kernels.attention.dropout import dropout_seeds, threefry
from tests.kernels.attention import dense

ONES = 0xFFFFFFFF
kept = jax.jit(dropout.kept, static_argnums=0)


# Known answers of Random123 (Salmon et al. 2011): counter, key -> words.
@pytest.mark.parametrize(
    ("rounds", "key", "counter", "words"),
    [
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (ONES, ONES), (ONES, ONES), (0xFD36D048, 0x2D17272C)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        (20, (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(rounds, key, counter, words):
    assert tuple(int(word) for word in threefry(key, counter, rounds)) == words


def test_draws_are_threefry_of_seed_and_indices(rng):
    """(seed, b, h, i, j), recomputed in Python integers."""
    seed = int(rng.integers(2**32))
    seeds = np.asarray(dropout_seeds(seed, 2, 3))
    survives = np.asarray(kept(0.25, jnp.asarray(seeds), np.array([4, 9]), np.array([0, 7, 1000])))
    for b, h in np.ndindex(2, 3):
        assert int(seeds[b, h]) == dense.threefry((seed, 0x5EED), (b, h), 13)[0]
        for (row, i), (column, j) in itertools.product(enumerate((4, 9)), enumerate((0, 7, 1000))):
            word = dense.threefry((int(seeds[b, h]), 0xD20B), (i, j), 13)[0]
            assert survives[b, h, row, column] == (word >= 2**30)


def test_seeds_of_any_integer():
    expected = np.asarray(dropout_seeds(2**32 - 1, 1, 2))
    for seed in (-1, 2**40 - 1, np.uint32(2**32 - 1), jnp.uint32(2**32 - 1), np.int32(-1)):
        np.testing.assert_array_equal(dropout_seeds(seed, 1, 2), expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_and_independence(rate, rng):
    """2 x 4 x 128 x 128 draws: the rate, and no correlation along any of the axes or between seeds, within 5 sigma."""
    seed = int(rng.integers(2**31))
    shape = (2, 4, 128, 128)
    tokens = np.arange(128)
    draws = [np.asarray(kept(rate, dropout_seeds(seed + step, 2, 4), tokens, tokens)) for step in (0, 1)]
    count, spread = draws[0].size, rate * (1 - rate)
    assert draws[0].shape == shape
    assert abs(draws[0].mean() - (1 - rate)) < 5 * np.sqrt(spread / count)
    centred = draws[0] - (1 - rate)
    for axis in range(4):
        product = centred * np.roll(centred, 1, axis)
        # A roll of an axis of two pairs every draw twice.
        assert abs(product.mean()) < 5 * spread * np.sqrt((2 if shape[axis] == 2 else 1) / count), axis
    assert abs((centred * (draws[1] - (1 - rate))).mean()) < 5 * spread / np.sqrt(count)


def test_blocks_draw_what_the_whole_draws():
    seeds = dropout_seeds(0, 2, 4)
    whole = kept(0.5, seeds, np.arange(20), np.arange(30))
    block = kept(0.5, seeds[1:, 2:], np.arange(7, 20), np.arange(11, 16))
    np.testing.assert_array_equal(block, whole[1:, 2:, 7:, 11:16])
