"""Graph attention and pooling in float64, node by node."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.nn.graph import GraphAttention, GraphPool
from tests.models.reference import dense
from tests.nn.randomised import Randomised

ROWS, NODES, WIDTH = 4, 5, 3


def nodes(rng):
    """Row 1 has nothing; what is not valid is no number."""
    x = rng.normal(size=(ROWS, NODES, WIDTH)).astype(np.float32)
    valid = rng.random((ROWS, NODES)) < 0.6
    valid[0], valid[1] = True, False
    noisy = np.where(valid[..., None], x, np.nan).astype(np.float32)
    return x.astype(np.float64), jnp.asarray(noisy), jnp.asarray(valid)


def test_attention_hears_every_valid_node(rng):
    x, noisy, valid = nodes(rng)
    module = GraphAttention(WIDTH, 4, temperature=2.0, rngs=nnx.Rngs(0))
    block = Randomised(nnx.view(module, use_running_average=False), rng)
    found, p = np.asarray(block(noisy, valid)), block.weights
    raw = np.zeros(found.shape)
    for row, place in np.argwhere(np.asarray(valid)):
        there = x[row][np.asarray(valid)[row]]
        scores = [np.tanh(dense(x[row, place] * h, p["pairs"])) @ p["score"]["kernel"][:, 0] / 2 for h in there]
        weights = np.exp(np.array(scores) - np.max(scores))
        raw[row, place] = dense(weights / weights.sum() @ there, p["attended"]) + dense(x[row, place], p["own"])
    seen = raw[np.asarray(valid)]
    normed = (raw - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
    selu = 1.0507009873554805 * np.where(normed > 0, normed, 1.6732632423543772 * (np.exp(normed) - 1))
    np.testing.assert_allclose(found, np.where(np.asarray(valid)[..., None], selu, 0), rtol=1e-4, atol=1e-5)
    block.assert_finite(noisy, valid)


def test_pool_keeps_the_nodes_that_count(rng):
    x, noisy, valid = nodes(rng)
    block = Randomised(GraphPool(WIDTH, rngs=nnx.Rngs(0)), rng)
    found, there = block(noisy, valid)
    assert found.shape == (ROWS, 3, WIDTH)
    for row in range(ROWS):
        own = x[row][np.asarray(valid)[row]]
        scores = 1 / (1 + np.exp(-dense(own, block.weights["score"])[:, 0]))
        best = np.argsort(-scores)[:3]
        want = own[best] * scores[best, None]
        assert np.asarray(there)[row].sum() == len(best)
        np.testing.assert_allclose(np.asarray(found)[row, : len(best)], want, rtol=1e-4, atol=1e-5)
        assert (np.asarray(found)[row, len(best) :] == 0).all()
    block.assert_finite(noisy, valid)
