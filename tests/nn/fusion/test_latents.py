"""Fusion through latent tokens against dense NumPy in float64; gates that start closed; causal order."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion import latents
from avjax.nn.transformer import Size
from kernels.attention.mask import pairs
from tests.models import reference
from tests.nn.randomised import Randomised, as_bfloat16, assert_named

SIZE = Size(width=8, depth=2, heads=2, hidden=2)


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def hidden(x, valid):
    return jnp.asarray(np.where(valid[..., None], x, np.nan), jnp.float32)


def test_the_adapter_equals_its_equations(rng):
    block = latents.LatentAdapter(8, latents=3, reduction=2, groups=2, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, y = rng.normal(size=(3, 5, 8)), rng.normal(size=(3, 4, 8))
    x_valid, y_valid = rng.random((3, 5)) < 0.7, rng.random((3, 4)) < 0.7
    x_valid[:, 0], y_valid[:2, 0], y_valid[2] = True, True, False
    w, heard = forward.weights, []
    for row in range(3):
        mine, other, tokens = x[row][x_valid[row]], y[row][y_valid[row]], w["latents"]
        if len(other):
            tokens = tokens + softmax(tokens @ other.T) @ other
            mine = mine + w["gate"] * softmax(mine @ tokens.T) @ tokens
        heard.append(mine)
    # Batch normalisation is over the valid tokens of all rows.
    joined = np.concatenate(heard)
    down = grouped(joined, w["down"]["kernel"][0])
    normed = (down - down.mean(0)) / np.sqrt(down.var(0) + 1e-5) * w["norm"]["scale"] + w["norm"]["bias"]
    want = np.zeros(x.shape)
    want[x_valid] = x[x_valid] + w["out_gate"] * grouped(np.maximum(normed, 0), w["up"]["kernel"][0])
    args = hidden(x, x_valid), hidden(y, y_valid), jnp.asarray(x_valid), jnp.asarray(y_valid)
    np.testing.assert_allclose(forward(*args), want, rtol=1e-3, atol=1e-3)
    forward.assert_finite(*args)


def grouped(x, kernel):
    """Two groups of channels that do not see each other."""
    inputs, outputs = x.shape[1] // 2, kernel.shape[1] // 2
    return np.concatenate(
        [x[:, :inputs] @ kernel[:, :outputs], x[:, inputs:] @ kernel[:, outputs:]],
        axis=1,
    )


@pytest.mark.slow
def test_the_adapter_starts_as_the_identity(rng):
    block = latents.LatentAdapter(8, reduction=2, rngs=nnx.Rngs(0))
    x, y = (jnp.asarray(rng.normal(size=(2, n, 8)), jnp.float32) for n in (5, 4))
    np.testing.assert_array_equal(block(x, y, jnp.ones((2, 5), bool), jnp.ones((2, 4), bool)), x)


def test_an_adapter_needs_equal_groups():
    with pytest.raises(ValueError, match="no 2 equal groups"):
        latents.LatentAdapter(8, reduction=8, rngs=nnx.Rngs(0))


def test_perceiver_resampler(rng):
    block = latents.PerceiverResampler(SIZE, 3, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = rng.normal(size=(3, 5, 8)), rng.random((3, 5)) < 0.7
    valid[:2, 0], valid[2] = True, False
    args = hidden(x, valid), jnp.asarray(valid)
    got = np.asarray(forward(*args))
    for row in range(2):
        queries = forward.weights["queries"]
        for p in forward.weights["blocks"].values():
            queries = reference.block(queries, np.concatenate([x[row][valid[row]], queries]), p, 2)
        np.testing.assert_allclose(got[row], queries, rtol=1e-3, atol=1e-3)
    assert (got[2] == 0).all()
    forward.assert_finite(*args)


def former(queries, x, p):
    for among, read in zip(p["among"].values(), p["read"].values(), strict=True):
        queries = reference.block(queries, queries, among, 2)
        queries = reference.block(queries, x, read, 2)
    return queries


def test_q_former(rng):
    block = latents.QFormer(SIZE, 3, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = rng.normal(size=(3, 5, 8)), rng.random((3, 5)) < 0.7
    valid[:2, 0], valid[2] = True, False
    args = hidden(x, valid), jnp.asarray(valid)
    got = np.asarray(forward(*args))
    for row in range(2):
        want = former(forward.weights["queries"], x[row][valid[row]], forward.weights)
        np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-3)
    assert (got[2] == 0).all()
    half = forward.compiled(as_bfloat16(forward.params), args[0].astype(jnp.bfloat16), args[1])
    assert half.dtype == jnp.bfloat16


@pytest.mark.slow
def test_causal_q_former(rng):
    size = Size(width=8, depth=1, heads=2, hidden=2)
    block = latents.CausalQFormer(size, 3, frames=4, window=2, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = rng.normal(size=(2, 12, 8)), np.ones((2, 12), bool)
    valid[1, 5:] = False
    args = hidden(x, valid), jnp.asarray(valid)
    got = np.asarray(forward(*args))
    assert got.shape == (2, 2, 3, 8)
    p = forward.weights
    for row in range(2):
        there = x[row][valid[row]]
        frame = (np.arange(12) // 3)[valid[row]]
        seen = [reference.block(there[frame == f], there[frame <= f], p["causal"][0], 2) for f in np.unique(frame)]
        heard = np.concatenate(seen)
        for window in range(2):
            tokens = heard[frame // 2 == window]
            want = former(p["former"]["queries"], tokens, p["former"]) if len(tokens) else np.zeros((3, 8))
            np.testing.assert_allclose(got[row, window], want, rtol=1e-3, atol=1e-3)
    forward.assert_finite(*args)
    # What comes after a window changes nothing in it.
    later = forward(hidden(np.where(np.arange(12)[:, None] < 6, x, 7.0), valid), args[1])
    np.testing.assert_array_equal(got[:, 0], later[:, 0])
    assert (got[0, 1] != np.asarray(later[0, 1])).any()


def test_block_causal_order_is_lower_triangular():
    mask = latents.block_causal_mask(jnp.ones((1, 6), bool), 3)
    table = np.zeros((6, 6), bool)
    for pair in pairs(mask):
        for begin, end in pair.keys:
            table[slice(*pair.queries), begin:end] = True
    np.testing.assert_array_equal(table, np.kron(np.tri(3), np.ones((2, 2))).astype(bool))


def test_frames_that_do_not_fit_are_refused(rng):
    with pytest.raises(ValueError, match="not a multiple of a window of 3"):
        latents.CausalQFormer(SIZE, 2, frames=4, window=3, rngs=nnx.Rngs(0))
    block = latents.CausalQFormer(SIZE, 2, frames=4, window=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no equal parts of 4 frames"):
        block(jnp.ones((1, 6, 8)), jnp.ones((1, 6), bool))
