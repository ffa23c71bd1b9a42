"""Calibration against loops over rows, scikit-learn and closed forms."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from avjax.diagnostics.consistency.calibration import (
    area_under_risk_coverage,
    brier,
    calibration_gaps,
    expected_calibration_error,
    log_probabilities,
    negative_log_likelihood,
    overconfidence,
    probabilities,
    reliability,
    risk_coverage,
)
from avjax.diagnostics.measured import Undefined, paired_bootstrap

seeds = st.integers(0, 2**32 - 1)
EQUAL = ("width", "mass")


@pytest.mark.parametrize("equal", EQUAL)
def test_certain_and_right_half_the_time(equal):
    """KA: confidence 1, accuracy 0.5 -> ECE 0.5."""
    assert expected_calibration_error(np.ones(10), np.arange(10) < 5, equal=equal) == 0.5


@pytest.mark.parametrize("equal", EQUAL)
def test_confidence_that_is_the_accuracy(equal):
    """KA: confidence 0.9 = accuracy 0.9 -> 0."""
    assert expected_calibration_error(np.full(10, 0.9), np.arange(10) < 9, equal=equal) == pytest.approx(0, abs=1e-15)


def test_the_error_of_any_rows_follows_from_sums_of_gaps(rng):
    confidence, right = rng.choice(np.linspace(0, 1, 31), 40), rng.random(40) < 0.6
    gaps = calibration_gaps(confidence, right, bins=10)
    for rows in (np.arange(40), rng.integers(0, 40, 25)):
        error = expected_calibration_error(confidence[rows], right[rows], bins=10)
        assert np.abs(gaps[rows].sum(axis=0)).sum() / len(rows) == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("equal", EQUAL)
@hypothesis.given(st.floats(0, 1), st.integers(1, 40), st.data())
def test_a_constant_prediction(equal, p, count, data):
    """KA of T9: ECE = |p - accuracy|."""
    right = np.arange(count) < data.draw(st.integers(0, count))
    expected = abs(p - right.mean())
    assert expected_calibration_error(np.full(count, p), right, equal=equal) == pytest.approx(expected, abs=1e-12)


@hypothesis.given(seeds, st.integers(1, 60), st.integers(1, 20), st.sampled_from([4, 15, 1000]))
def test_bins_of_equal_width_by_loops(seed, count, bins, levels):
    """Few levels put confidences on the edges: ((b - 1) / bins, b / bins] holds its upper one."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, levels + 1, count)
    confidence, right = steps / levels, rng.random(count) < 0.6
    error = 0.0
    for b in range(bins):
        # In whole numbers: b / bins < steps / levels <= (b + 1) / bins, and 0 in the first.
        inside = (steps * bins > b * levels) & (steps * bins <= (b + 1) * levels) | ((b == 0) & (steps == 0))
        if inside.any():
            error += inside.sum() / count * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, right, bins=bins) == pytest.approx(error, abs=1e-12)


@hypothesis.given(seeds, st.integers(1, 60), st.integers(1, 20))
def test_bins_of_equal_mass(seed, count, bins):
    rng = np.random.default_rng(seed)
    confidence, right = rng.permutation(count) / (2 * count), rng.random(count) < 0.6
    found = reliability(confidence, right, bins=bins, equal="mass")
    assert len(found.count) == min(bins, count)
    assert found.count.max() - found.count.min() <= 1
    # They are runs of the sorted rows.
    order, ends = np.argsort(confidence), np.cumsum(found.count)
    for end, size, claimed, came in zip(ends, found.count, found.confidence, found.accuracy, strict=True):
        rows = order[end - size : end]
        assert (claimed, came) == (pytest.approx(confidence[rows].mean()), pytest.approx(right[rows].mean()))


@pytest.mark.parametrize("equal", EQUAL)
@hypothesis.given(seeds, st.integers(1, 40), st.integers(1, 12))
def test_what_holds_of_any_bins(equal, seed, count, levels):
    rng = np.random.default_rng(seed)
    confidence, right = rng.integers(0, levels + 1, count) / levels, rng.random(count) < 0.6
    error = expected_calibration_error(confidence, right, equal=equal)
    assert 0 <= error <= 1
    # Signs cancel over all rows most, over bins less, and over single rows not at all.
    assert abs(overconfidence(confidence, right)) <= error + 1e-12
    assert error <= np.abs(confidence - right).mean() + 1e-12
    order = rng.permutation(count)
    assert expected_calibration_error(confidence[order], right[order], equal=equal) == pytest.approx(error, abs=1e-12)
    found = reliability(confidence, right, equal=equal)
    assert found.count.sum() == count
    assert (np.diff(found.confidence) > 0).all()
    assert (found.accuracy * found.count).sum() == pytest.approx(right.sum())


def test_a_calibrated_model_is_found_calibrated(rng):
    """Right with just its confidence: what remains is noise, at most some sqrt(15 / N)."""
    confidence = rng.random(40_000)
    right = rng.random(40_000) < confidence
    for equal in EQUAL:
        assert expected_calibration_error(confidence, right, equal=equal) < 0.02
        assert expected_calibration_error(confidence**2, right, equal=equal) == pytest.approx(1 / 6, abs=0.02)


def test_overconfidence_has_a_sign_and_a_paired_change(rng):
    assert overconfidence(np.full(10, 0.9), np.arange(10) < 6) == pytest.approx(0.3)
    assert overconfidence(np.full(10, 0.5), np.arange(10) < 6) == pytest.approx(-0.1)
    # Missing audio: as confident as before, and wrong more often.
    confidence, right = np.full(300, 0.9), np.arange(300) % 10 != 0
    worse = right & (np.arange(300) % 3 != 0)

    def error(of):
        return lambda rows: expected_calibration_error(confidence[rows], of[rows])

    assert error(worse)(np.arange(300)) - error(right)(np.arange(300)) == pytest.approx(0.3)
    low, high = paired_bootstrap(error(worse), error(right), np.arange(300), samples=200)
    assert 0.2 < low < 0.3 < high < 0.4


@hypothesis.given(seeds, st.integers(1, 20), st.integers(2, 8), st.floats(0.1, 100))
def test_proper_scores_against_other_hands(seed, count, classes, scale):
    rng = np.random.default_rng(seed)
    logits, label = rng.normal(scale=scale, size=(count, classes)), rng.integers(0, classes, count)
    p = probabilities(logits)
    np.testing.assert_allclose(p, scipy.special.softmax(logits, axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_probabilities(logits), scipy.special.log_softmax(logits, axis=1), rtol=1e-12)
    np.testing.assert_allclose(log_probabilities(logits + 7), log_probabilities(logits), rtol=1e-9, atol=1e-9)
    loops = [sum((p[n, k] - (k == label[n])) ** 2 for k in range(classes)) for n in range(count)]
    np.testing.assert_allclose(brier(p, label), loops, rtol=1e-12)
    assert (brier(p, label) <= 2 + 1e-12).all()
    likelihood = [scipy.special.logsumexp(logits[n]) - logits[n, label[n]] for n in range(count)]
    np.testing.assert_allclose(negative_log_likelihood(logits, label), likelihood, atol=1e-9)
    if scale < 3:
        expected = sklearn.metrics.log_loss(label, p, labels=range(classes))
        assert negative_log_likelihood(logits, label).mean() == pytest.approx(expected, rel=1e-9)


def test_scores_of_certain_and_uniform_predictions():
    certain, uniform, label = np.eye(4), np.full((4, 4), 0.25), np.arange(4)
    np.testing.assert_array_equal(brier(certain, label), np.zeros(4))
    np.testing.assert_array_equal(brier(certain, label[::-1]), np.full(4, 2))
    np.testing.assert_array_equal(brier(uniform, label), np.full(4, 0.75))
    np.testing.assert_allclose(negative_log_likelihood(np.zeros((4, 4)), label), np.log(4), rtol=1e-15)
    # float32 logits, and a probability that a float32 softmax would have made 0.
    np.testing.assert_array_equal(negative_log_likelihood(np.array([[0, 200]], np.float32), np.array([0])), [200])
    np.testing.assert_array_equal(certain, np.eye(4))


def test_probabilities_that_do_not_exist():
    allowed = np.array([[0.0, -np.inf], [1.0, 1.0]])
    np.testing.assert_allclose(probabilities(allowed), [[1, 0], [0.5, 0.5]])
    assert negative_log_likelihood(allowed, np.array([0, 1])).tolist() == [0, pytest.approx(np.log(2))]
    with pytest.raises(Undefined, match="probability 0"):
        negative_log_likelihood(allowed, np.array([1, 1]))
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(Undefined, match="NaN or infinite"):
            probabilities(np.array([[0.0, 1.0], [wrong, wrong]]))
    with pytest.raises(ValueError, match="lies in"):
        reliability(np.array([0.5, np.nan]), np.ones(2, bool))


@hypothesis.given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_risk_is_the_mean_over_orders_of_ties(seed, count, levels):
    rng = np.random.default_rng(seed)
    confidence, right = rng.integers(0, levels + 1, count) / levels, rng.random(count) < 0.5
    curves = [
        np.cumsum(~right[list(order)]) / np.arange(1, count + 1)
        for order in itertools.permutations(range(count))
        if (np.diff(confidence[list(order)]) <= 0).all()
    ]
    np.testing.assert_allclose(risk_coverage(confidence, right), np.mean(curves, axis=0), atol=1e-12)
    assert area_under_risk_coverage(confidence, right) == pytest.approx(np.mean(curves), abs=1e-12)
    assert risk_coverage(confidence, right)[-1] == pytest.approx(1 - right.mean(), abs=1e-12)


def test_area_under_risk_in_closed_form():
    right = np.arange(4) < 2
    falling = np.array([0.9, 0.8, 0.7, 0.6])
    # Errors last: risks 0, 0, 1/3, 1/2. Errors first: 1, 1, 2/3, 1/2. No order: 1/2 throughout.
    assert area_under_risk_coverage(falling, right) == pytest.approx(5 / 24)
    assert area_under_risk_coverage(falling[::-1], right) == pytest.approx(19 / 24)
    assert area_under_risk_coverage(np.full(4, 0.7), right) == 0.5
    assert area_under_risk_coverage(falling, np.ones(4, bool)) == 0


def test_of_no_rows_nothing_is_said():
    for measure in (expected_calibration_error, overconfidence, area_under_risk_coverage):
        with pytest.raises(Undefined, match="no rows"):
            measure(np.zeros(0), np.zeros(0, bool))
