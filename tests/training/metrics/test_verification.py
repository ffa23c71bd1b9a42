"""AUC, EER and d' against definitions by pairs and thresholds."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics

from avjax.training import metrics


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 8))
@hypothesis.settings(max_examples=60)
def test_area_is_the_share_of_pairs_in_order(seed, count, levels):
    """Few levels make many ties."""
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, levels + 1, count) / levels, rng.random(count) < 0.5
    positive[:2] = [True, False]
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert metrics.roc_auc(scores, positive) == pytest.approx(np.mean(pairs))
    # Symmetries: turned scores, turned labels.
    assert metrics.roc_auc(-scores, positive) == pytest.approx(1 - np.mean(pairs))
    error = metrics.equal_error_rate(scores, positive)
    assert metrics.equal_error_rate(-scores, ~positive) == pytest.approx(error)
    # The point of the ROC curve, with straight lines, at which both errors are equal.
    false, true, _ = sklearn.metrics.roc_curve(positive, scores, drop_intermediate=False)
    fine = np.linspace(0, 1, 20001)
    refused = 1 - np.interp(fine, false, true)
    # Where the curve rises straight up, interpolation is one-sided: the error lies between both ends of the jump.
    first = np.argmax(fine >= refused)
    assert fine[max(first - 1, 0)] - 1e-4 <= error <= fine[first] + 1e-4


def test_known_answers():
    scores, positive = np.array([0.9, 0.8, 0.4, 0.3, 0.2, 0.1]), np.array([1, 1, 0, 1, 0, 0], bool)
    assert metrics.roc_auc(scores, positive) == pytest.approx(8 / 9)
    # At 0.4 and above: one negative of three accepted, one positive of three refused.
    assert metrics.equal_error_rate(scores, positive) == pytest.approx(1 / 3)
    perfect = np.array([1, 1, 1, 0, 0, 0], bool)
    assert metrics.roc_auc(scores, perfect) == 1
    assert metrics.equal_error_rate(scores, perfect) == 0
    assert metrics.equal_error_rate(-scores, perfect) == 1
    assert metrics.d_prime(scores, perfect) == np.inf
    assert metrics.d_prime(-scores, perfect) == -np.inf
    for measure in (metrics.roc_auc, metrics.equal_error_rate):
        assert measure(np.zeros(4), positive[:4]) == 0.5
        assert measure(scores, np.ones(6, bool)) == measure(scores, np.zeros(6, bool)) == 0.5
    assert metrics.d_prime(np.zeros(4), positive[:4]) == 0


def test_d_prime_is_the_distance_of_two_normals():
    rng = np.random.default_rng(3)
    positive = np.arange(60000) % 2 == 0
    scores = rng.normal(size=60000) + 1.5 * positive
    assert metrics.d_prime(scores, positive) == pytest.approx(1.5, abs=0.05)
