"""Curves of a model that adds its cells up, whose answers are sums."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.faithfulness.curves import (
    aopc,
    comprehensiveness,
    deletion,
    deletion_curve,
    insertion,
    insertion_curve,
    ranking,
    sufficiency,
)
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)
EVERY = np.ones(20, bool)


def linear(weights):
    return lambda keep: (keep @ weights)[:, None]


@hypothesis.given(seeds)
def test_a_linear_model_falls_in_straight_lines(seed):
    """KA: the curve at each count is what the cells that are left add up to, and so piecewise linear."""
    weights = np.random.default_rng(seed).gamma(1.0, size=20)
    order = ranking(weights, EVERY)
    gone = np.concatenate([[0], np.cumsum(weights[order])]) / weights.sum()
    value = linear(weights)
    np.testing.assert_allclose(deletion_curve(value, order, 20)[:, 0], 1 - gone, rtol=0, atol=1e-14)
    np.testing.assert_allclose(insertion_curve(value, order, 20)[:, 0], gone, rtol=0, atol=1e-14)
    found = deletion(value, order, 20)
    expected = 1 - (gone[1:] + gone[:-1]).mean() / 2
    assert found.area[0] == pytest.approx(expected, abs=1e-14)
    # The most salient first is the fastest way down: no other order has less.
    assert found.gap[0] >= 0
    assert found.against_random[0] <= 1e-14
    # By one fill insertion is the deletion of the reversed order.
    back = insertion(value, order, 20)
    assert back.area[0] == pytest.approx(found.reversed[0], abs=1e-14)
    assert back.against_random[0] >= -1e-14


def test_random_saliency_has_no_gap(rng):
    """KA: MoRF-LeRF gap 0 within its interval."""
    weights = rng.gamma(1.0, size=20)
    orders = [ranking(rng.random(20), EVERY) for _ in range(300)]
    gaps = np.array([deletion(linear(weights), order, 20, draws=1).gap[0] for order in orders])
    # Five standard errors.
    assert abs(gaps.mean()) <= 5 * gaps.std() / np.sqrt(len(gaps)) + 1e-12


def test_ranking_of_one_modality_leaves_the_other():
    audio = np.arange(20) < 8
    order = ranking(np.ones(20), audio)
    np.testing.assert_array_equal(order, np.arange(8))
    weights = np.where(audio, 0.0, 1.0)
    np.testing.assert_array_equal(deletion_curve(linear(weights), order, 20), np.ones((21, 1)))


def test_erased_cells():
    weights = np.arange(20.0)
    order = ranking(weights, EVERY)
    # 1 and 5 per cent of twenty cells are one, 10 two, 20 four, 50 ten.
    top = np.array([19, 19, 37, 70, 145])
    np.testing.assert_allclose(comprehensiveness(linear(weights), order, 20)[:, 0], top)
    np.testing.assert_allclose(sufficiency(linear(weights), order, 20)[:, 0], 190 - top)
    np.testing.assert_allclose(aopc(comprehensiveness(linear(weights), order, 20)), [58])


def test_without_a_value():
    with pytest.raises(Undefined, match="not positive"):
        deletion_curve(linear(np.zeros(20)), np.arange(20), 20)
    with pytest.raises(Undefined, match="no cells"):
        deletion(linear(np.ones(20)), np.arange(0), 20)
