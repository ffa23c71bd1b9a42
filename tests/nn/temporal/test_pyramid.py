"""The temporal pyramid by hand in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.temporal import TemporalPyramid
from avjax.nn.transformer import Size
from avjax.training.step import split_model
from tests.models import reference, tiny

SIZE = Size(width=6, depth=1, heads=2, hidden=2)
WINDOWS = (1, 3, 5)


def windowed(x, there, p, window):
    """At one valid step after the other, the block over the valid steps of its window alone."""
    outputs = []
    for n in np.flatnonzero(there):
        near = [m for m in range(len(x)) if there[m] and abs(m - n) <= window // 2]
        outputs.append(reference.block(x[n : n + 1], x[near], p, SIZE.heads)[0])
    return np.array(outputs)


def test_is_the_weighed_sum_of_windows(rng):
    graph, params, *rest = split_model(TemporalPyramid(SIZE, windows=WINDOWS, rngs=nnx.Rngs(0)))
    params = tiny.randomise(params, rng)
    x = rng.normal(size=(3, 8, 6)).astype(np.float32)
    valid = rng.random((3, 8)) < 0.7
    valid[0], valid[1], valid[2, 4] = True, False, True
    noisy = jnp.asarray(np.where(valid[..., None], x, np.nan))

    def call(p, x):
        return nnx.merge(graph, p, *rest)(x, jnp.asarray(valid))

    got = np.asarray(tiny.jit(call)(params, noisy))
    weights = tiny.plain(params)
    for row in (0, 2):
        there = np.flatnonzero(valid[row])
        scales = np.stack(
            [windowed(x[row].astype(float), valid[row], weights["blocks"][s], w) for s, w in enumerate(WINDOWS)]
        )
        scores = np.tanh(reference.dense(scales, weights["pool"]["hidden"])) @ weights["pool"]["score"]["kernel"]
        share = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
        np.testing.assert_allclose(got[row][there], (share * scales).sum(0), rtol=1e-4, atol=1e-4)
    assert (got[~valid] == 0).all()

    of_params, of_x = tiny.jit(jax.grad(lambda p, x: (call(p, x) ** 2).sum(), argnums=(0, 1)))(params, noisy)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x)))
    assert (np.asarray(of_x)[~valid] == 0).all()


def test_even_windows_have_no_middle():
    with pytest.raises(ValueError, match="odd number"):
        TemporalPyramid(SIZE, windows=(3, 4), rngs=nnx.Rngs(0))
