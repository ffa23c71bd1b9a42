"""Adaptive shrinkage against its equations, the two thresholds, what is hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.scoring import AdaptiveShrinkage, sparsemax
from avjax.training.step import split_model
from tests.models import tiny
from tests.nn.randomised import Randomised, assert_named

B, H, NQ, NK = 2, 2, 3, 4


def thresholds(z: np.ndarray, valid: np.ndarray, weights: dict) -> np.ndarray:
    """[B, H, Nq], with the statistics of the batch in the normalisation."""
    size = np.where(valid, np.abs(z), 0)
    features = np.concatenate([size.max(2), size.max(3)], axis=-1) @ weights["up"]["kernel"] + weights["up"]["bias"]
    there = np.broadcast_to(valid.any((2, 3)), (B, H))
    seen = features[there]
    normed = (features - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5) * weights["norm"]["scale"] + weights["norm"][
        "bias"
    ]
    hidden = np.maximum(np.where(there[..., None], normed, 0), 0) @ weights["down"]["kernel"] + weights["down"]["bias"]
    return size.sum(3) / np.maximum(np.broadcast_to(valid, z.shape).sum(3), 1) / (1 + np.exp(-hidden))


@pytest.mark.parametrize("soft", [True, False])
def test_it_is_the_equations(soft, rng):
    module = AdaptiveShrinkage(NQ, NK, hidden=5, soft=soft, normalize=sparsemax, rngs=nnx.Rngs(0))
    graph, params, *rest = split_model(module)
    params = tiny.randomise(params, rng)
    z = rng.normal(size=(B, H, NQ, NK))
    valid = rng.random((B, 1, 1, NK)) < 0.7
    valid[0, ..., 0], valid[1] = True, False
    noisy = jnp.asarray(np.where(valid, z, np.nan), jnp.float32)

    def loss(params, z):
        module = nnx.merge(graph, params, *rest, copy=True)
        shrunken = module.shrink(z, jnp.asarray(valid))
        weights = module(z, jnp.asarray(valid))
        return (weights**2).sum() + (shrunken**2).sum(), (shrunken, weights)

    (_, (shrunken, weights)), gradients = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        params, noisy
    )
    t = thresholds(z, valid, tiny.plain(params))[..., None]
    want = np.sign(z) * np.maximum(np.abs(z) - t, 0) if soft else z * (np.abs(z) >= t)
    np.testing.assert_allclose(shrunken, np.where(valid, want, 0), atol=2e-5)
    np.testing.assert_allclose(weights, sparsemax(10 * shrunken, jnp.asarray(valid)), atol=1e-6)
    assert (np.asarray(weights[1]) == 0).all()
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(np.asarray(leaf)).all()
    # The hard threshold cannot be learned.
    learned = np.abs(tiny.plain(gradients[0])["down"]["kernel"]).max() > 0
    assert learned == soft


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_rows_that_are_not_there(rng, kind):
    block = AdaptiveShrinkage(4, 5, hidden=3, soft=kind == "soft", rngs=nnx.Rngs(0))
    assert_named(block)

    def shrink(block, x, present):
        return block.shrink(x[:, None], present[:, None, None, None])[:, 0]

    forward = Randomised(block, rng, shrink)
    x = rng.normal(size=(6, 4, 5)).astype(np.float32)
    present = np.array([True, True, False, True, True, True])
    w = forward.weights
    size = np.abs(x.astype(float))[present]
    raised = np.concatenate([size.max(1), size.max(2)], 1) @ w["up"]["kernel"] + w["up"]["bias"]
    normed = (raised - raised.mean(0)) / np.sqrt(raised.var(0) + 1e-5) * w["norm"]["scale"] + w["norm"]["bias"]
    share = 1 / (1 + np.exp(-(np.maximum(normed, 0) @ w["down"]["kernel"] + w["down"]["bias"])))
    tau = (size.mean(2) * share)[..., None]
    there = x.astype(float)[present]
    want = np.zeros(x.shape)
    want[present] = there * (size >= tau) if kind == "hard" else np.sign(there) * np.maximum(size - tau, 0)
    bad = np.where(np.arange(x.size).reshape(x.shape) % 2, np.nan, np.inf).astype(np.float32)
    args = jnp.asarray(np.where(present[:, None, None], x, bad)), jnp.asarray(present)
    got = np.asarray(forward(*args))
    # What lies on the threshold to within rounding may fall to either side of a step.
    clear = np.ones(x.shape, bool)
    clear[present] = np.abs(size - tau) > 1e-4
    np.testing.assert_allclose(got[clear], want[clear], rtol=1e-4, atol=1e-4)
    assert (got[~present] == 0).all()
    assert 0 < (want == 0).mean() < 1
    forward.assert_finite(*args)
