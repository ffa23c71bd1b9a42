"""Identification and recall by hand and by sorting."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.training import metrics


def test_identification():
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2], [0.5, 0.5, 0.1], [0.3, 0.3, 0.3]])
    assert metrics.identification_accuracy(scores) == pytest.approx((1 + 0 + 1 / 2 + 1 / 3) / 4)
    assert metrics.identification_accuracy(np.zeros((5, 4))) == 0.25
    assert metrics.identification_accuracy(np.zeros((0, 4))) == 0


def test_recall_is_by_rank(rng):
    similarity = rng.normal(size=(12, 12))
    for k in (1, 3, 12):
        found = [i in np.argsort(-similarity[i])[:k] for i in range(12)]
        assert metrics.recall_at(similarity, k) == pytest.approx(np.mean(found))
    assert metrics.recall_at(np.eye(3), 1) == 1
    assert metrics.recall_at(np.zeros((3, 3)), 2) == 0
    # More candidates than queries.
    assert metrics.recall_at(np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), 1) == 0.5
