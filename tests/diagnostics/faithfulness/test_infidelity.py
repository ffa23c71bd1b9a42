"""Attributions of linear models are exact in each form."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.faithfulness.infidelity import (
    completeness_error,
    infidelity,
    local_lipschitz,
    relative_changes,
    sensitivity_n,
    subsets,
)
from avjax.diagnostics.measured import Undefined


@pytest.fixture
def model(rng):
    return rng.normal(size=12), rng.normal(size=12)


def test_weights_have_no_infidelity(model, rng):
    """KA: Phi = w: 0 for every perturbation; Phi = w * x is another form and has some."""
    weights, x = model
    moved = rng.normal(size=(50, 12))
    change = weights @ x - (x - moved) @ weights
    assert infidelity(weights, moved, change) == pytest.approx(0, abs=1e-26)
    expected = np.mean([(row @ (weights * x) - c) ** 2 for row, c in zip(moved, change, strict=True)])
    assert infidelity(weights * x, moved, change) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_products_correlate_fully(model, size):
    """KA: phi = w * x and a baseline of zero: 1; and completeness without error."""
    weights, x = model
    removed = subsets(np.ones(12, bool), size, 40, 0)
    assert (removed.sum(axis=1) == size).all()
    value = lambda keep: np.stack([(keep * x) @ weights, -(keep * x) @ weights], axis=1)  # noqa: E731
    np.testing.assert_allclose(sensitivity_n(weights * x, value, removed), [1, -1], rtol=0, atol=1e-12)
    assert completeness_error(weights * x, float(weights @ x), 0.0) == pytest.approx(0, abs=1e-13)


def test_without_a_value(model):
    weights, x = model
    with pytest.raises(Undefined, match="constant side"):
        sensitivity_n(weights, lambda keep: np.ones((len(keep), 1)), subsets(np.ones(12, bool), 3, 9, 0))
    with pytest.raises(Undefined, match="no sets"):
        subsets(np.ones(12, bool), 13, 9, 0)
    with pytest.raises(Undefined, match="are 0"):
        relative_changes(np.zeros(3), np.ones((2, 3)))
    with pytest.raises(Undefined, match="disturbance"):
        local_lipschitz(weights, weights[None], x, x[None])


def test_steadiness():
    changed = np.array([[3.0, 4.0], [0.0, 4.0]])
    np.testing.assert_allclose(relative_changes(np.array([3.0, 4.0]), changed), [0, 0.6])
    assert local_lipschitz(np.zeros(2), changed, np.zeros(2), 2 * changed) == 0.5
