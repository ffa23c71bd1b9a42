"""Segments and intervals, by hand and by loops."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.training import metrics


def test_segment_accuracy():
    true = np.array([[0, 1, 1, 2], [0, 0, 0, 0]])
    predicted = np.array([[0, 1, 2, 2], [0, 0, 1, 1]])
    assert metrics.segment_accuracy(predicted, true) == 5 / 8
    valid = np.array([[True] * 4, [True, False, False, False]])
    assert metrics.segment_accuracy(predicted, true, valid) == 4 / 5
    assert metrics.segment_accuracy(predicted, true, np.zeros((2, 4), bool)) == 0


def test_intervals_are_runs():
    there = np.array([1, 1, 0, 1, 0, 0, 1, 1, 1], bool)
    np.testing.assert_allclose(metrics.intervals(there, 0.5), [[0, 1], [1.5, 2], [3, 4.5]])
    assert metrics.intervals(np.zeros(4, bool)).shape == (0, 2)
    np.testing.assert_allclose(metrics.intervals(np.ones(4, bool)), [[0, 4]])


def test_overlap():
    one = np.array([[0.0, 2.0], [1.0, 1.0], [5.0, 6.0]])
    two = np.array([[1.0, 3.0], [0.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(metrics.temporal_iou(one, two), [[1 / 3, 1, 0], [0, 0, 0], [0, 0, 0]])


TRUE = [np.array([[0.0, 10.0], [20.0, 30.0]]), np.array([[0.0, 4.0]]), np.zeros((0, 2))]
# Right, a second time the same one, half of the other; too long; where nothing is.
PREDICTED = [np.array([[0.0, 10.0], [1.0, 10.0], [20.0, 25.0]]), np.array([[0.0, 8.0]]), np.array([[1.0, 2.0]])]
SCORES = [np.array([0.9, 0.8, 0.6]), np.array([0.7]), np.array([0.95])]


def test_average_precision_by_hand():
    # By falling score: wrong, right, wrong (found already), right (4 of 8), right (5 of 10).
    expected = (1 / 2 + 2 / 4 + 3 / 5) / 3
    assert metrics.interval_average_precision(PREDICTED, SCORES, TRUE, 0.5) == pytest.approx(expected)
    # At 0.75 the first alone is right, and the one at 0.9 of it does not stand in for it.
    assert metrics.interval_average_precision(PREDICTED, SCORES, TRUE, 0.75) == pytest.approx(1 / 2 / 3)
    everything = [np.ones(len(these)) for these in TRUE]
    assert metrics.interval_average_precision(TRUE, everything, TRUE, 0.95) == 1
    nothing = [np.zeros((0, 2))] * 3
    none = [np.zeros(0)] * 3
    assert metrics.interval_average_precision(nothing, none, TRUE, 0.5) == 0
    assert metrics.interval_average_precision(PREDICTED, SCORES, nothing, 0.5) == 0


def test_average_recall_by_hand():
    # Of three: one always; at 0.5 all; overlaps of one half pass the lowest of ten thresholds.
    assert metrics.average_recall(PREDICTED, SCORES, TRUE, 3) == pytest.approx((3 + 9 * 1) / 30)
    # The best one of each clip: the half of the other interval is left out.
    assert metrics.average_recall(PREDICTED, SCORES, TRUE, 1, (0.5,)) == pytest.approx(2 / 3)
    assert metrics.average_recall(PREDICTED, SCORES, TRUE, 2, (0.5, 0.9)) == pytest.approx((2 + 1) / 6)
    assert metrics.average_recall(TRUE, [np.ones(len(y)) for y in TRUE], TRUE, 5) == 1
    nothing = [np.zeros((0, 2))] * 3
    assert metrics.average_recall(PREDICTED, SCORES, nothing, 5) == 0
    assert metrics.average_recall(nothing, [np.zeros(0)] * 3, TRUE, 5) == 0
