"""The metric of emotions, which needs the labels, and the attention to cells."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import mocanu
from avjax.objectives.classification import Classification
from avjax.objectives.terms import WithTerms
from avjax.streams import Stream
from tests.models import tiny
from tests.models.systems import batch, forward, small

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_distances_of_classes():
    """0 within a class, 2 between opposite valences, 1 otherwise."""
    assert mocanu.apart(3, (1, 0, -1)) == ((0, 1, 2), (1, 0, 1), (2, 1, 0))
    assert mocanu.apart(2, None) == ((0, 1), (1, 0))


def test_the_metric_is_that_of_the_fused_vectors(rng):
    """lambda times mean over pairs of (||u_i - u_j|| - m D)^2 is added to the cross-entropy."""
    config, _ = small("mocanu")
    made = batch(config, rng, 5)
    made.weight[4] = 0
    made = jax.tree.map(jnp.asarray, made)
    output = forward("mocanu")(made)
    u = np.asarray(output.aux["fused"], np.float64)
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    label, d = made.target["emotion"].argmax(1), mocanu.apart(3, (1, 0, -1))
    errors = [
        (math.dist(u[i], u[j]) - config.margin * d[label[i]][label[j]]) ** 2
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    term = output.aux["losses"]["metric/emotion"]
    # A distance is the root of a difference in float32: its error is that of the square over twice the distance.
    np.testing.assert_allclose(term.value, np.mean(errors), rtol=1e-4)
    plain, _ = Classification()(output, made)
    whole, parts = WithTerms(Classification(), (("metric/emotion", 0.1),))(output, made)
    np.testing.assert_allclose(whole, plain + 0.1 * np.mean(errors), rtol=1e-4)
    assert "term/metric/emotion" in parts


def test_cells_become_time_steps(rng):
    """A step is the mean over its valid cells, gated; a step without any is not valid, and time goes on as it did."""
    grid = (3, 2, 2)
    block = mocanu.CellAttention(4, grid, reduction=2, kernel=3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(block)
    # Gates of sigmoid(0): every cell is halved twice.
    block = nnx.merge(graph, jax.tree.map(jnp.zeros_like, params))
    valid = np.ones((2, 12), bool)
    valid[0, 4:8], valid[1, 0] = False, False
    values = rng.normal(size=(2, 12, 4)).astype(np.float32)
    cells = Stream(jnp.where(valid[..., None], values, jnp.nan), jnp.asarray(valid), jnp.zeros(2), rate=8.0)
    steps = tiny.jit(lambda cells: block(cells))(cells)
    np.testing.assert_array_equal(steps.valid, [[True, False, True], [True, True, True]])
    assert steps.rate == 2.0
    clean = np.where(valid[..., None], values, 0).reshape(2, 3, 4, 4)
    count = np.maximum(valid.reshape(2, 3, 4).sum(2), 1)[..., None]
    np.testing.assert_allclose(steps.values, clean.sum(2) / count / 4, rtol=1e-5, atol=1e-6)
