"""Concentration and redundancy at their ends."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.faithfulness.complexity import (
    Scatter,
    cosines_of_products,
    effective_complexity,
    effective_tokens,
    entropy,
    gini,
    head_cka,
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


def test_products_give_the_same_cosine(rng):
    weights = rng.dirichlet(np.ones(6), size=(4, 5))
    products = np.einsum("hqk,gqk->hg", weights, weights)
    assert cosines_of_products(products) == pytest.approx(head_cosine(weights, np.ones(5, bool)))
    with pytest.raises(Undefined, match="two heads"):
        cosines_of_products(products[:1, :1])
    with pytest.raises(Undefined, match="two heads"):
        cosines_of_products(np.zeros((2, 2)))


def test_scatters_of_parts_add_up(rng):
    """Far from 0, where sums of squares would lose the digits."""
    columns = 1e5 + rng.normal(size=(30, 6))
    cut = np.sort(rng.integers(0, 31, 3))
    parts = [Scatter.of(part) for part in np.split(columns, cut)]
    whole = parts[0]
    for part in parts[1:]:
        whole += part
    np.testing.assert_allclose(whole.products, np.cov(columns.T) * 29, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(whole.mean, columns.mean(axis=0))
    assert whole.rows == 30
    pairs = [
        linear_cka(columns[:, 2 * h : 2 * h + 2], columns[:, 2 * g : 2 * g + 2]) for h, g in ((0, 1), (0, 2), (1, 2))
    ]
    assert head_cka(whole, 3) == pytest.approx(np.mean(pairs))
    with pytest.raises(Undefined, match="two heads"):
        head_cka(whole, 1)
