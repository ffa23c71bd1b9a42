"""Cascades, similarity and agreement at their ends."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.faithfulness.sanity import (
    entropy_rise,
    random_floor,
    rank_cascade,
    share_drop_agreement,
    similarity_cascade,
    structural_similarity,
)
from avjax.diagnostics.measured import Undefined


def test_cascades_start_at_one_and_fall(rng):
    maps = rng.random((40, 7, 7))
    noise = rng.random((40, 7, 7))
    cascade = np.stack([maps, (maps + noise) / 2, noise])
    for found in (rank_cascade(maps, cascade), similarity_cascade(maps, cascade)):
        np.testing.assert_allclose(found[0], 1)
        means = found.mean(axis=1)
        assert means[0] > means[1] > means[2]
    # Spearman's rho of 49 unrelated cells deviates by 1 / sqrt(48); five of its standard errors over 40 maps.
    bound = 5 / np.sqrt(48 * 40)
    assert abs(rank_cascade(maps, cascade)[2].mean()) < bound
    assert abs(random_floor(maps).mean()) < bound


def test_similarity_by_hand(rng):
    x, y = rng.random((2, 7, 7))
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    light = (2 * x.mean() * y.mean() + 1e-4) / (x.mean() ** 2 + y.mean() ** 2 + 1e-4)
    expected = light * (2 * covariance + 9e-4) / (x.var() + y.var() + 9e-4)
    assert structural_similarity(x, y) == pytest.approx(expected)
    with pytest.raises(Undefined, match="does not fit"):
        structural_similarity(x, y, window=8)


def test_entropy_rises_to_uniform():
    two = np.array([0.5, -0.5, 0, 0])
    assert entropy_rise(two, np.ones(4)) == pytest.approx(1)
    with pytest.raises(Undefined, match="one cell"):
        entropy_rise(np.eye(4)[0], np.ones(4))


def test_shares_and_drops():
    shares = np.array([0.1, 0.5, 0.9])
    assert share_drop_agreement(shares, shares**3) == pytest.approx(1)
    assert share_drop_agreement(shares, -shares) == pytest.approx(-1)
    with pytest.raises(Undefined, match="constant"):
        share_drop_agreement(shares, np.zeros(3))
