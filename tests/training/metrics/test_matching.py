"""Metrics of galleries: scores of clips with candidates, the own one first."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.training.metrics.matching import matching_measures, score_measures


def values(measures) -> dict[str, float]:
    return {name: measure.of(np.arange(measure.count)) for name, measure in measures.items()}


def test_a_gallery_says_what_embeddings_say(rng: np.random.Generator) -> None:
    """Each clip of somebody else: both have nine others of each, and the gallery's are those it has."""
    first, second = rng.normal(size=(2, 10, 4))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    similarity = unit[0] @ unit[1].T
    gallery = np.stack([np.roll(row, -n) for n, row in enumerate(similarity)])
    by_embeddings = values(matching_measures(first, second, np.arange(10)))
    by_scores = values(score_measures(gallery))
    assert by_embeddings.keys() == by_scores.keys()
    for name, value in by_scores.items():
        # Nine of nine others in another order: choices of three fall into other groups.
        if name != "accuracy_1_of_4":
            assert value == pytest.approx(by_embeddings[name]), name


def test_who_is_no_candidate_does_not_count() -> None:
    inf = np.inf
    scores = np.array([
        [2.0, -inf, 1.0, 3.0, 1.0],  # found second of four
        [5.0, 1.0, -inf, 2.0, 4.0],
        [-inf, 0.0, 0.0, 0.0, 0.0],  # has no partner itself
        [1.0, 1.0, 0.0, 0.0, -inf],  # ties with one
    ])  # fmt: skip
    found = values(score_measures(scores))
    assert found["recall_1"] == pytest.approx(1 / 3)
    assert found["recall_5"] == 1.0
    # Three others of each: 1 + 0 + 1, all three, and half of one with two: of nine choices.
    assert found["accuracy_1_of_2"] == pytest.approx((2 + 3 + 2.5) / 9)
    assert found["accuracy_1_of_4"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert "accuracy_1_of_10" not in found


def test_nobody_else() -> None:
    assert score_measures(np.full((3, 4), -np.inf)) == {}
    assert values(score_measures(np.array([[1.0, -np.inf]])))["recall_1"] == 1.0
