"""The calibrated score between its floor and its ceiling."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.drift.calibrated import calibrated, drift_ceiling, drift_floor
from avjax.diagnostics.drift.divergence import drift
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)
NAMES = ("audio", "video")
GROUPS = ("audio",) * 2 + ("video",) * 3


def states(rng, *rows):
    return rng.dirichlet(np.ones(5), size=rows)


@hypothesis.given(seeds)
@pytest.mark.slow
def test_the_scores_ends(seed):
    """0 of a re-encoding of mean drift, 1 of another clip, clipped beyond."""
    rng = np.random.default_rng(seed)
    clean = states(rng, 12)
    encoded = 0.99 * clean + 0.01 * states(rng, 4, 12)
    floor = drift_floor(clean, encoded, GROUPS, NAMES)
    ceiling = drift_ceiling(clean, GROUPS, NAMES)
    by_loops = [np.mean([drift(clean[i], s[i], GROUPS, NAMES).total for s in encoded]) for i in range(12)]
    np.testing.assert_allclose(floor, by_loops, rtol=0, atol=1e-15)
    ends = np.array([0, floor.mean(), (floor.mean() + ceiling.mean()) / 2, ceiling.mean(), 1])
    found = calibrated(ends, floor.mean(), ceiling.mean())
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], rtol=0, atol=1e-12)


def test_a_ceiling_of_all_pairs(rng):
    """With a partner for every shift each clip meets every other one."""
    clean = states(rng, 7)
    pairs = np.array([[float(drift(a, b, GROUPS, NAMES).total) for b in clean] for a in clean])
    np.testing.assert_allclose(drift_ceiling(clean, GROUPS, NAMES, draws=6), pairs.sum(axis=1) / 6, rtol=0, atol=1e-14)


def test_a_ceiling_of_some_pairs_is_near_that_of_all(rng):
    clean = states(rng, 400)
    found = drift_ceiling(clean, GROUPS, NAMES, seed=3)
    np.testing.assert_array_equal(found, drift_ceiling(clean, GROUPS, NAMES, seed=3))
    every = drift_ceiling(clean, GROUPS, NAMES, draws=399)
    # Drift of a clip to eight others: the standard error of 400 means of eight, of values in [0, 1], is below 0.02.
    assert found.mean() == pytest.approx(every.mean(), abs=0.1)


def test_disjoint_clips_have_a_ceiling_of_one():
    np.testing.assert_array_equal(drift_ceiling(np.eye(5), GROUPS, NAMES), np.ones(5))


def test_without_a_value():
    same = np.full((4, 5), 0.2)
    with pytest.raises(Undefined, match="no other"):
        drift_ceiling(same[:1], GROUPS, NAMES)
    ceiling = float(drift_ceiling(same, GROUPS, NAMES).mean())
    with pytest.raises(Undefined, match="states of different clips"):
        calibrated(np.zeros(4), 0.0, ceiling)
    with pytest.raises(Undefined, match="floor"):
        drift_floor(same, np.empty((0, 4, 5)), GROUPS, NAMES)
