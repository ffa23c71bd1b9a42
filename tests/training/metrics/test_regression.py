"""Metrics of values against their definitions, and sentiment by hand."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics

from avjax.training import metrics


def values_of(measures):
    return {name: measure.estimate(0).value for name, measure in measures.items()}


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(-100, 100))
def test_values_against_the_definitions(seed, count, shift):
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=count), rng.normal(size=count) + shift
    mean_p, mean_y = sum(p) / count, sum(y) / count
    covariance = sum((a - mean_p) * (b - mean_y) for a, b in zip(p, y, strict=True)) / count
    var_p, var_y = sum((a - mean_p) ** 2 for a in p) / count, sum((b - mean_y) ** 2 for b in y) / count
    ccc = 2 * covariance / (var_p + var_y + (mean_p - mean_y) ** 2)
    assert metrics.concordance(p, y) == pytest.approx(ccc, abs=1e-9)
    assert metrics.correlation(p, y) == pytest.approx(np.corrcoef(p, y)[0, 1], abs=1e-9)
    assert abs(metrics.concordance(p, y)) <= abs(metrics.correlation(p, y)) + 1e-12
    assert metrics.mean_absolute_error(p, y) == pytest.approx(sklearn.metrics.mean_absolute_error(y, p))
    assert metrics.root_mean_square_error(p, y) == pytest.approx(sklearn.metrics.root_mean_squared_error(y, p))


def test_known_answers():
    y = np.array([-1.0, 0.0, 1.0])
    assert metrics.concordance(y, y) == pytest.approx(1)
    assert metrics.concordance(-y, y) == pytest.approx(-1)
    # A shift by the deviation: 2 v / (2 v + v).
    assert metrics.concordance(y + y.std(), y) == pytest.approx(2 / 3)
    assert metrics.correlation(5 * y + 3, y) == pytest.approx(1)
    for constant in (np.zeros(3), np.ones(3)):
        assert metrics.concordance(constant, y) == metrics.correlation(constant, y) == 0
    assert metrics.concordance(np.ones(3), np.ones(3)) == 0
    assert metrics.concordance(np.zeros(0), np.zeros(0)) == metrics.correlation(np.zeros(0), np.zeros(0)) == 0


def test_table(rng):
    y, p = rng.random((40, 2)), rng.random((40, 2))
    found = metrics.estimates(metrics.value_measures(p.astype(np.float32), y), 30)
    mean = np.mean([metrics.concordance(p[:, d].astype(np.float32), y[:, d]) for d in range(2)])
    assert found["ccc"].value == pytest.approx(mean)
    assert found.keys() == {"ccc", "pcc", "rmse", "mae", "one_minus_mae"}
    assert found["one_minus_mae"].value == pytest.approx(1 - found["mae"].value)
    assert all(each.low <= each.value <= each.high and each.count == 40 for each in found.values())


def test_sentiment_by_hand():
    true = np.array([-3.0, -1.0, 0.0, 0.0, 0.6, 2.0, 3.0])
    predicted = np.array([-2.6, 0.2, 0.3, -0.1, 1.4, 2.6, 9.0])
    found = {
        name: each.value for name, each in metrics.estimates(metrics.sentiment_measures(predicted, true), 2).items()
    }
    # Rounded: -3 0 0 -0 1 3 3 against -3 -1 0 0 1 2 3.
    assert found["acc7"] == pytest.approx(5 / 7)
    # Clipped to 2: the last but one agrees as well.
    assert found["acc5"] == pytest.approx(6 / 7)
    # At least 0: no yes yes no yes yes yes against no no yes yes yes yes yes.
    assert found["acc2_nonnegative"] == pytest.approx(5 / 7)
    # Without both zeros: no yes yes yes yes against no no yes yes yes.
    assert found["acc2_nonzero"] == pytest.approx(4 / 5)
    assert found["mae"] == pytest.approx(np.abs(predicted - true).mean())
    assert found["corr"] == pytest.approx(np.corrcoef(predicted, true)[0, 1])


def test_sentiment_f1_equals_scikit_learn(rng):
    true, predicted = rng.integers(-3, 4, 80).astype(float), rng.normal(size=80) * 2
    found = {
        name: each.value for name, each in metrics.estimates(metrics.sentiment_measures(predicted, true), 2).items()
    }
    expected = sklearn.metrics.f1_score(true >= 0, predicted >= 0, average="weighted")
    assert found["f1_nonnegative"] == pytest.approx(expected)
    rows = true != 0
    expected = sklearn.metrics.f1_score(true[rows] > 0, predicted[rows] > 0, average="weighted")
    assert found["f1_nonzero"] == pytest.approx(expected)
    nothing = metrics.estimates(metrics.sentiment_measures(np.zeros(3), np.zeros(3)), 2)
    assert nothing["acc2_nonzero"].value == 0
    assert nothing["acc7"].value == 1
