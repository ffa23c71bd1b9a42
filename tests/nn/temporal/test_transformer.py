"""The transformer over time by hand in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.nn.statistics import recording
from avjax.nn.temporal import TemporalTransformer
from avjax.nn.transformer import Size
from avjax.training.step import split_model
from tests.models import reference, tiny

SIZE = Size(width=6, depth=2, heads=2, hidden=2)


def made(rng):
    graph, params, *rest = split_model(TemporalTransformer(SIZE, 5, rngs=nnx.Rngs(0)))
    return tiny.randomise(params, rng), lambda p, *a: nnx.merge(graph, p, *rest)(*a)


def test_is_a_stack_over_positions(rng):
    params, call = made(rng)
    x = rng.normal(size=(3, 5, 6)).astype(np.float32)
    valid = np.array([[True] * 5, [False] * 5, [False, True, True, False, True]])
    noisy = jnp.asarray(np.where(valid[..., None], x, np.nan))
    got = np.asarray(tiny.jit(call)(params, noisy, jnp.asarray(valid)))
    weights = tiny.plain(params)
    for row in (0, 2):
        tokens = (x[row] + weights["positions"])[valid[row]]
        for layer in range(2):
            p = weights["stack"][layer]["blocks"]["steps"]
            tokens = reference.block(tokens, tokens, p, SIZE.heads)
        np.testing.assert_allclose(
            got[row][valid[row]], reference.layer_norm(tokens, weights["norm"]), rtol=1e-4, atol=1e-4
        )
    assert (got[~valid] == 0).all()
    of_x = tiny.jit(jax.grad(lambda x: (call(params, x, jnp.asarray(valid)) ** 2).sum()))(noisy)
    assert np.isfinite(of_x).all()


def test_its_attention_is_recorded(rng):
    params, call = made(rng)
    with recording(("mass",)) as sites:
        call(params, jnp.asarray(rng.normal(size=(1, 5, 6)), jnp.float32), jnp.ones((1, 5), bool))
    assert list(sites) == ["temporal.steps"]
    assert sites["temporal.steps"]["mass"].shape == (2, 1, 2, 5, 1)
