"""Drift over time, severity and training: planted movements and what they must give."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.drift.axes import (
    LIFT_BOUNDS,
    collapsed_since,
    content_following,
    drift_rates,
    drift_separation,
    harmful_drift,
    path_length,
    reliability_following,
    settle_step,
    severity_drift,
    shuffled_rate,
    training_drift,
    unexplained_drift,
    wander,
)
from avjax.diagnostics.drift.divergence import drift
from avjax.diagnostics.measured import Undefined, measured

seeds = st.integers(0, 2**32 - 1)
NAMES = ("audio", "video")
GROUPS = ("audio",) * 2 + ("video",) * 3


def states(rng, *rows):
    return rng.dirichlet(np.ones(5), size=rows)


@hypothesis.given(seeds, st.integers(2, 8))
def test_ways_through_the_states(seed, windows):
    rng = np.random.default_rng(seed)
    pi = states(rng, windows)
    rates = drift_rates(pi, GROUPS, NAMES)
    expected = [float(drift(pi[t], pi[t + 1], GROUPS, NAMES).total) for t in range(windows - 1)]
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-15)
    net = np.sqrt(drift(pi[0], pi[-1], GROUPS, NAMES).total)
    assert net <= path_length(rates) + 1e-14
    assert 0 <= wander(pi, GROUPS, NAMES) <= 1
    there_and_back = np.concatenate([pi, pi[-2::-1]])
    assert wander(there_and_back, GROUPS, NAMES) == 1


def test_one_step_does_not_wander(rng):
    assert wander(states(rng, 2), GROUPS, NAMES) == pytest.approx(0, abs=1e-15)
    with pytest.raises(Undefined, match="never moves"):
        wander(np.repeat(states(rng, 1), 4, axis=0), GROUPS, NAMES)
    with pytest.raises(Undefined, match="two windows"):
        drift_rates(states(rng, 1), GROUPS, NAMES)


def test_the_shuffled_rate_is_the_expectation_over_orders(rng):
    """All 24 orders of four windows."""
    pi = states(rng, 4)
    means = [drift_rates(pi[list(order)], GROUPS, NAMES).mean() for order in itertools.permutations(range(4))]
    assert shuffled_rate(pi, GROUPS, NAMES) == pytest.approx(np.mean(means), abs=1e-15)


def test_drift_that_follows_content_and_drift_that_does_not(rng):
    change = rng.random(30)
    followed = content_following(0.1 + 0.5 * change, change)
    np.testing.assert_allclose(followed.residual, 0, atol=1e-14)
    assert followed.unprovoked == pytest.approx(0.1)
    assert followed.correlation == pytest.approx(1)
    noisy = content_following(0.1 + 0.5 * change + 0.05 * rng.normal(size=30), change)
    assert noisy.residual.mean() == pytest.approx(0, abs=1e-14)
    with pytest.raises(Undefined, match="constant side"):
        content_following(change, np.ones(30))


def test_severities_are_a_mean_that_reaches_one(rng):
    assert severity_drift(np.ones((5, 7))) == 1
    scores = rng.random((5, 7))
    assert severity_drift(scores) == pytest.approx(np.mean([row.mean() for row in scores]))
    with pytest.raises(Undefined, match="no clips"):
        severity_drift(np.empty((5, 0)))


def test_reliability_following(rng):
    """1 of a model that leaves the corrupted modality, -1 of one that noise captures."""
    clean = rng.uniform(0.4, 0.6, 20)
    steps = np.arange(1, 6)[:, None]
    assert reliability_following(clean, clean - 0.05 * steps) == pytest.approx(1)
    assert reliability_following(clean, clean + 0.05 * steps**2) == pytest.approx(-1)
    # One swap of neighbours in five: 1 - 6 * 2 / (5 * 24).
    swapped = clean - 0.05 * np.array([1, 2, 4, 3, 5])[:, None]
    assert reliability_following(clean, swapped) == pytest.approx(0.9)


def test_a_model_that_ignores_the_corrupted_modality(rng):
    """KA: CMSD 0, reliability following null with its reason."""
    video = rng.dirichlet(np.ones(3), size=20)
    pi = np.concatenate([np.zeros((20, 2)), video], axis=1)
    corrupted = np.stack([pi] * 5)
    assert not drift(np.broadcast_to(pi, corrupted.shape), corrupted, GROUPS, NAMES).total.any()
    mass = corrupted[..., :2].sum(axis=-1)
    fields = {"id": "rfi", "version": 1, "estimator": "state", "unit": "correlation", "direction": "higher"}
    line = measured(lambda rows: reliability_following(mass[0][rows], mass[:, rows]), np.arange(20), **fields)
    assert line.value is None
    assert "same at every severity" in line.reason
    # Nor does rounding of float32 make an order.
    with pytest.raises(Undefined):
        reliability_following(mass[0], mass + 1e-8 * rng.normal(size=mass.shape))


def test_drift_and_what_it_costs():
    scores = np.array([0.1, 0.2, 0.6, 0.9, 0.4])
    before = np.array([True, True, True, True, False])
    after = np.array([True, True, False, False, False])
    unchanged = np.array([True, True, False, False, True])
    assert unexplained_drift(scores, unchanged) == pytest.approx(0.7 / 3)
    assert harmful_drift(scores, before, after) == pytest.approx(0.75)
    assert drift_separation(scores, before, after, unchanged) == 1
    assert drift_separation(np.ones(5), before, after, unchanged) == 0.5
    with pytest.raises(Undefined, match="keeps its prediction"):
        unexplained_drift(scores, np.zeros(5, bool))
    with pytest.raises(Undefined, match="from right to wrong"):
        harmful_drift(scores, before, before)
    with pytest.raises(Undefined, match="from right to wrong"):
        drift_separation(scores, before, before, unchanged)


def test_training():
    steps = np.array([1, 2, 8, 16, 64])
    between = np.array([0.4, 0.4, 0.1, 0.1])
    np.testing.assert_allclose(training_drift(between, steps), [0.4, 0.2, 0.1, 0.05])
    for wrong in (np.array([0, 1, 2, 4, 8]), np.array([1, 2, 2, 4, 8])):
        with pytest.raises(ValueError, match="rise from 1"):
            training_drift(between, wrong)


def test_the_step_where_a_state_settles():
    steps = np.array([1, 10, 100, 1000, 10000])
    # Within the threshold at 10, but not for good before 1000.
    assert settle_step(np.array([0.5, 0.05, 0.2, 0.05, 0.0]), steps) == 1000
    assert settle_step(np.zeros(5), steps) == 1
    with pytest.raises(Undefined, match="until the last"):
        settle_step(np.array([0.5, 0.4, 0.3, 0.2, 0.0]), steps)


def test_the_alarm_of_a_collapse():
    steps = np.array([1, 10, 100, 1000])
    assert collapsed_since(np.array([0.5, 0.97, 0.6, 0.5]), steps) is None
    assert collapsed_since(np.array([0.5, 0.97, 0.94, 0.96]), steps) == 1000
    assert collapsed_since(np.array([0.5, 0.04, 0.01, 0.0]), steps) == 10
    assert collapsed_since(np.array([0.99, 0.99, 0.99, 0.99]), steps) == 1
    assert collapsed_since(np.array([0.5, 2.0, -3.1, -4.0]), steps, bounds=LIFT_BOUNDS) == 100
