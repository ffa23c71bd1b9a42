"""Concentration and redundancy at their ends."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.faithfulness.complexity import (
    effective_complexity,
    effective_tokens,
    entropy,
    gini,
    head_cosine,
    head_redundancy,
    inverse_participation,
    linear_cka,
    normalised_entropy,
)
from avjax.diagnostics.measured import Undefined


def test_uniform_and_one_hot():
    """KA: uniform H / log N = 1, one-hot 0."""
    rows = np.stack([np.full(8, 1 / 8), np.eye(8)[3]])
    valid = np.ones((2, 8), bool)
    np.testing.assert_allclose(normalised_entropy(rows, valid), [1, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(effective_tokens(rows), [8, 1])
    np.testing.assert_allclose(inverse_participation(rows), [8, 1])
    np.testing.assert_allclose(gini(rows), [0, 7 / 8], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(effective_complexity(rows, 0.0), [8, 1])


def test_padding_may_hold_anything():
    row, valid = np.array([0.5, 0.5, np.nan]), np.array([True, True, False])
    assert normalised_entropy(row, valid) == pytest.approx(1)
    with pytest.raises(Undefined, match="two valid"):
        normalised_entropy(row, np.array([True, False, False]))
    with pytest.raises(Undefined, match="no weight"):
        entropy(np.zeros(3))


def test_gini_is_the_mean_difference(rng):
    x = rng.random(9)
    expected = np.abs(x[:, None] - x[None]).mean() / (2 * x.mean())
    assert gini(x) == pytest.approx(expected)


def test_identical_heads(rng):
    """KA: redundancy 1; of heads that share no key 0."""
    head = rng.dirichlet(np.ones(6), size=4)
    queries = np.ones(4, bool)
    same = np.stack([head] * 3)
    assert head_redundancy(same, queries) == 1
    assert head_cosine(same, queries) == pytest.approx(1)
    apart = np.zeros((2, 4, 6))
    apart[0, :, :3] = apart[1, :, 3:] = 1 / 3
    assert head_redundancy(apart, queries) == pytest.approx(0, abs=1e-14)
    assert head_cosine(apart, queries) == 0
    with pytest.raises(Undefined, match="two heads"):
        head_redundancy(same[:1], queries)


def test_cka_ignores_rotation_and_scale(rng):
    x = rng.normal(size=(30, 4))
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    with pytest.raises(Undefined, match="every row"):
        linear_cka(x, np.ones((30, 2)))
