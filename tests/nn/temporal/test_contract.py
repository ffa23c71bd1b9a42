"""What every model of time does: bfloat16 in and out, zeros for a missing sequence, a logical axis for every axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.temporal import Recurrent, TemporalConvolution, TemporalPyramid, TemporalTransformer
from avjax.nn.transformer import Size
from avjax.training.step import split_model
from tests.models import tiny

SIZE = Size(width=4, depth=2, heads=2, hidden=2)
MODELS = {
    "recurrent": lambda: Recurrent(4, 2, rngs=nnx.Rngs(0)),
    "convolution": lambda: TemporalConvolution(4, 4, dilations=(1, 2), rngs=nnx.Rngs(0)),
    "pyramid": lambda: TemporalPyramid(SIZE, windows=(1, 3), rngs=nnx.Rngs(0)),
    "transformer": lambda: TemporalTransformer(SIZE, 6, rngs=nnx.Rngs(0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_and_missing_sequences(name, rng):
    graph, params, *rest = split_model(MODELS[name]())
    for path, leaf in nnx.to_flat_state(params):
        assert len(leaf.get_metadata("axes")) == leaf.ndim, path
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny.randomise(params, rng))
    valid = jnp.asarray([[True, True, False, True, True, False], [False] * 6])
    x = jnp.where(valid[..., None], jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.bfloat16), jnp.nan)

    def call(p, x):
        return nnx.merge(graph, p, *rest)(x, valid)

    got = tiny.jit(call)(half, x)
    assert got.dtype == jnp.bfloat16
    assert got.shape == (2, 6, 4)
    got = np.asarray(got, np.float32)
    assert np.isfinite(got).all()
    assert (got[~np.asarray(valid)] == 0).all()
    assert got[0].any()

    def loss(p, x):
        return (call(p, x).astype(jnp.float32) ** 2).sum()

    found = tiny.jit(jax.grad(loss, argnums=(0, 1)))(half, x)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(found))
