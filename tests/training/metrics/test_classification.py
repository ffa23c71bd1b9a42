"""Metrics against scikit-learn, and answers known by hand."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics

from avjax.training import metrics


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 60))
@hypothesis.settings(max_examples=40)
def test_classification_equals_scikit_learn(seed, classes, count):
    rng = np.random.default_rng(seed)
    # Half of the classes may be absent, from labels and predictions alike.
    true, predicted = rng.integers(0, rng.integers(1, classes + 1), count), rng.integers(0, classes, count)
    matrix = metrics.confusion(predicted, true, classes)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(true, predicted, labels=np.arange(classes)))
    assert metrics.accuracy(matrix) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    recall = sklearn.metrics.recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0)
    assert metrics.unweighted_average_recall(matrix) == pytest.approx(recall)
    f1 = sklearn.metrics.f1_score(true, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(matrix) == pytest.approx(f1)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6))
@hypothesis.settings(max_examples=40)
def test_average_precision_equals_scikit_learn(seed, count, levels):
    """Few levels make many ties."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (count, 4)) / levels
    target = (rng.random((count, 4)) < [0.0, 0.2, 0.5, 1.0]).astype(float)
    occurring = [k for k in range(4) if target[:, k].any()]
    expected = [sklearn.metrics.average_precision_score(target[:, k], scores[:, k]) for k in occurring]
    assert metrics.mean_average_precision(scores, target) == pytest.approx(np.mean(expected))


def test_known_answers():
    matrix = metrics.confusion(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), 3)
    np.testing.assert_array_equal(matrix, [[2, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert metrics.accuracy(matrix) == 0.75
    assert metrics.unweighted_average_recall(matrix) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.macro_f1(matrix) == pytest.approx((0.8 + 2 / 3) / 2)
    # Positive, negative, positive, by falling score: precision 1 at the first hit, 2/3 at the second.
    assert metrics.average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx(5 / 6)
    # All tied: the share of positives.
    assert metrics.average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25
    assert metrics.average_precision(np.arange(3.0), np.zeros(3, bool)) == 0.0


def test_nothing_is_zero():
    empty = metrics.confusion(np.zeros(0, int), np.zeros(0, int), 2)
    assert metrics.accuracy(empty) == metrics.unweighted_average_recall(empty) == metrics.macro_f1(empty) == 0.0
    assert metrics.mean_average_precision(np.zeros((3, 2)), np.zeros((3, 2))) == 0.0


def test_bootstrap_covers_the_truth():
    """Of 150 intervals of 95 % for a share of 0.7, about 5 % may miss it."""
    rng = np.random.default_rng(20)
    hits = 0
    for seed in range(150):
        right = rng.random(80) < 0.7
        estimate = metrics.bootstrap(lambda rows, right=right: right[rows].mean(), 80, samples=200, seed=seed)
        assert estimate.low <= estimate.value <= estimate.high
        hits += estimate.low <= 0.7 <= estimate.high
    assert 0.88 <= hits / 150 <= 0.99


def test_bootstrap_is_the_same_every_time():
    values = np.random.default_rng(0).normal(size=30)
    first, second = (metrics.bootstrap(lambda rows: values[rows].mean(), 30, samples=50) for _ in range(2))
    assert first == second
    assert first.value == values.mean()
    assert first.count == 30
    assert metrics.bootstrap(lambda rows: 3.0, 1) == metrics.Estimate(3.0, 3.0, 3.0, 1)
    assert first.plain().keys() == {"value", "low", "high", "count"}


def test_table_of_a_head(rng):
    scores = rng.dirichlet(np.ones(4), 50)
    true = rng.integers(0, 4, 50)
    found = metrics.estimates(metrics.class_measures(scores, np.eye(4)[true]), 20)
    predicted = scores.argmax(1)
    assert found.keys() == {"accuracy", "uar", "macro_f1"}
    assert found["accuracy"].value == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    assert found["uar"].value == pytest.approx(sklearn.metrics.balanced_accuracy_score(true, predicted))
    assert found["uar"].low < found["uar"].high


@pytest.mark.parametrize("samples", [1, 100])
def test_table_of_several_labels(samples, rng):
    scores, target = rng.random((40, 3)), (rng.random((40, 3)) < 0.5).astype(float)
    found = metrics.estimates(metrics.label_measures(scores, target), samples)
    assert found.keys() == {"map"}
    expected = sklearn.metrics.average_precision_score(target, scores, average="macro")
    assert found["map"].value == pytest.approx(expected)
    assert np.isfinite([found["map"].low, found["map"].high]).all()
