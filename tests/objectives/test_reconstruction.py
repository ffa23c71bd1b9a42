"""Reconstruction against loops in float64, and what was not hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.reconstruction import masked_reconstruction
from tests.models import tiny
from tests.objectives.made import finite


@pytest.mark.parametrize("normalise", [True, False])
def test_hidden_patches_alone_are_read(normalise, rng):
    prediction, target = rng.normal(size=(2, 4, 5, 6))
    hidden = rng.random((4, 5)) < 0.6
    hidden[0], hidden[1, 0] = False, True
    weight = np.array([1, 2, 0, 0.5])
    rows = np.zeros(4)
    for i in range(4):
        errors = []
        for n in np.flatnonzero(hidden[i]):
            x = target[i, n]
            if normalise:
                x = (x - sum(x) / 6) / np.sqrt(sum((x - sum(x) / 6) ** 2) / 5 + 1e-6)
            errors.append(np.mean((prediction[i, n] - x) ** 2))
        rows[i] = np.mean(errors) if errors else 0
    expected = np.average(rows, weights=weight * hidden.any(1))
    prediction[~hidden] = target[~hidden] = np.nan
    prediction[2] = np.inf

    @tiny.jit
    @jax.value_and_grad
    def loss(prediction, target):
        given = (jnp.asarray(hidden), jnp.asarray(weight, "float32"))
        return masked_reconstruction(prediction, target, *given, normalise=normalise).value

    value, gradient = loss(*(jnp.asarray(x, "float32") for x in (prediction, target)))
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert finite(gradient)


@pytest.mark.parametrize("width", [1, 3])
def test_constant_patches_and_nothing_hidden(width):
    """A patch of no variance is all zeros."""
    ones, hidden = jnp.ones((2, 3, width)), jnp.ones((2, 3), bool)
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(lambda x: masked_reconstruction(x, ones, hidden, jnp.ones(2)).value)(ones)
    assert float(value) == 1
    assert finite(gradient)
    assert float(masked_reconstruction(ones, ones, ~hidden, jnp.ones(2)).value) == 0
