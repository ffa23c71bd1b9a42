"""Gates against NumPy in float64, written from their equations; what is not valid has no say."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from flax import nnx

from avjax.nn import gates
from avjax.streams import Stream
from tests.nn.randomised import Randomised, as_bfloat16, assert_named

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def some(rng, *shape):
    """A mask with at least one True in row 0, and nothing in the last row."""
    valid = rng.random(shape) < 0.6
    valid.reshape(shape[0], -1)[0, 0] = True
    valid[-1] = False
    return valid


def hidden(x, valid):
    """NaN and infinity where it is not valid."""
    bad = np.where(np.arange(x.size).reshape(x.shape) % 2, np.nan, np.inf).astype(np.float32)
    return jnp.asarray(np.where(valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim)), x, bad))


@hypothesis.given(st.integers(0, 2**32 - 1))
def test_softmax_over_valid(seed):
    rng = np.random.default_rng(seed)
    scores, valid = normal(rng, 3, 5) * 50, some(rng, 3, 5)
    got = np.asarray(gates.softmax_over_valid(hidden(scores, valid), jnp.asarray(valid)))
    for row in range(3):
        raised = np.exp(scores[row].astype(float) - scores[row].max()) * valid[row]
        if raised.sum() > 1e-30:
            np.testing.assert_allclose(got[row], raised / raised.sum(), **TOLERANCE)
        elif not valid[row].any():
            assert (got[row] == 0).all()
    there = valid.any(1)
    np.testing.assert_allclose(got.sum(1), there, atol=1e-5)
    slope = jax.grad(lambda s: jnp.square(gates.softmax_over_valid(s, jnp.asarray(valid))).sum())
    assert np.isfinite(np.asarray(slope(hidden(scores, valid)))).all()


def test_the_gradient_of_the_softmax(rng):
    valid = jnp.asarray(some(rng, 3, 5))
    # check_grads calls with NumPy arrays.
    jax.test_util.check_grads(lambda s: gates.softmax_over_valid(jnp.asarray(s), valid), (normal(rng, 3, 5),), 1, "rev")


@pytest.mark.parametrize("maximum", [False, True])
def test_channel_attention(rng, maximum):
    block = gates.ChannelAttention(6, reduction=2, maximum=maximum, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = normal(rng, 3, 4, 5, 6), some(rng, 3, 4, 5)
    w = forward.weights

    def branch(pooled):
        return np.maximum(pooled @ w["down"]["kernel"], 0) @ w["up"]["kernel"]

    want = np.zeros(x.shape)
    for row in range(2):
        there = x[row].astype(float)[valid[row]]
        score = branch(there.mean(0)) + (branch(there.max(0)) if maximum else 0)
        want[row] = np.where(valid[row][..., None], x[row] * sigmoid(score), 0)
    args = hidden(x, valid), jnp.asarray(valid)
    np.testing.assert_allclose(forward(*args), want, **TOLERANCE)
    forward.assert_finite(*args)


def test_spatial_attention(rng):
    block = gates.SpatialAttention(size=3, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = normal(rng, 2, 3, 4, 5, 6), rng.random((2, 3, 4, 5)) < 0.7
    clean = np.where(valid[..., None], x, 0).astype(float)
    kernel = forward.weights["conv"]["kernel"]
    squeezed = np.pad(np.stack([clean.mean(-1), clean.max(-1)], -1), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    want = np.zeros(x.shape)
    for i in range(4):
        for j in range(5):
            seen = squeezed[:, :, i : i + 3, j : j + 3]
            want[:, :, i, j] = clean[:, :, i, j] * sigmoid(np.einsum("btijc,ijco->bto", seen, kernel))
    args = hidden(x, valid), jnp.asarray(valid)
    np.testing.assert_allclose(forward(*args), want, **TOLERANCE)
    forward.assert_finite(*args)


def attention_weights(x, p, function):
    scores = function(x @ p["hidden"]["kernel"] + p["hidden"]["bias"]) @ p["score"]["kernel"]
    raised = np.exp(scores[:, 0] - scores.max())
    return raised / raised.sum()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_attention_pool(rng, activation):
    function = np.tanh if activation == "tanh" else lambda x: np.maximum(x, 0)
    block = gates.AttentionPool(4, 5, activation=activation, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    x, valid = normal(rng, 3, 6, 4), some(rng, 3, 6)
    want = np.zeros((3, 4))
    for row in range(2):
        there = x[row].astype(float)[valid[row]]
        want[row] = attention_weights(there, forward.weights, function) @ there if len(there) else 0
    args = hidden(x, valid), jnp.asarray(valid)
    np.testing.assert_allclose(forward(*args), want, **TOLERANCE)
    forward.assert_finite(*args)


def test_one_softmax_over_all_modalities(rng):
    block = gates.ModalityAttentionPool(("video", "audio"), 4, 5, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    values = {"audio": normal(rng, 3, 6, 4), "video": normal(rng, 3, 3, 4)}
    valid = {"audio": some(rng, 3, 6), "video": some(rng, 3, 3)}
    valid["video"][1] = False
    valid["audio"][1, 2] = True
    want = {m: np.zeros((3, 4)) for m in values}
    for row in range(2):
        there = {m: values[m][row].astype(float)[valid[m][row]] for m in ("video", "audio")}
        weights = attention_weights(
            np.concatenate(list(there.values())), forward.weights["pool"], lambda x: np.maximum(x, 0)
        )
        split = np.split(weights, [len(there["video"])])
        for m, share in zip(there, split, strict=True):
            want[m][row] = share @ there[m]
    tokens = {m: Stream(hidden(values[m], valid[m]), jnp.asarray(valid[m]), jnp.zeros(3), 1.0) for m in values}
    got = forward(tokens)
    for m in values:
        np.testing.assert_allclose(got[m], want[m], **TOLERANCE)
    forward.assert_finite(tokens)
    shares = Randomised(block, rng, lambda block, tokens: block.weights(tokens))(tokens)
    np.testing.assert_allclose(sum(np.asarray(w).sum(1) for w in shares.values()), [1, 1, 0], atol=1e-5)


def test_signed_gate(rng):
    block = gates.SignedGate(4, 5, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    scores, joint, w = normal(rng, 6, 2, 3), normal(rng, 6, 4), forward.weights
    present = np.array([True] * 5 + [False])
    raised = np.maximum(joint @ w["hidden"]["kernel"] + w["hidden"]["bias"], 0)
    label = np.tanh(raised @ w["label"]["kernel"] + w["label"]["bias"])[:, 0]
    args = hidden(scores, present), hidden(joint, present), jnp.asarray(present)
    got, found = forward(*args)
    np.testing.assert_allclose(found, label * present, **TOLERANCE)
    np.testing.assert_allclose(got, np.where(present, np.sign(label), 0)[:, None, None] * scores, **TOLERANCE)
    forward.assert_finite(*args)


def test_a_sign_of_nothing_lets_everything_through():
    block = gates.SignedGate(4, 5, rngs=nnx.Rngs(0))
    scores, label = block(jnp.ones((2, 3)), jnp.zeros((2, 4)))
    assert (np.asarray(scores) == 1).all()
    assert (np.asarray(label) == 0).all()


def test_dynamic_gate(rng):
    block = gates.DynamicGate(4, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    first, second, w = normal(rng, 4, 4), normal(rng, 4, 4), forward.weights["gate"]
    there = np.array([True, True, False, False]), np.array([True, False, True, False])
    gate = sigmoid(np.concatenate([first, second], 1) @ w["kernel"] + w["bias"])[0]
    want = np.stack([gate * first[0] + (1 - gate) * second[0], first[1], second[2], np.zeros(4)])
    args = hidden(first, there[0]), hidden(second, there[1]), *map(jnp.asarray, there)
    np.testing.assert_allclose(forward(*args), want, **TOLERANCE)
    forward.assert_finite(*args)


def test_modality_mix(rng):
    block = gates.ModalityMix(4, reduction=2, rngs=nnx.Rngs(0))
    assert_named(block)
    forward = Randomised(block, rng)
    maps, valid = [normal(rng, 3, 2, 5, 4) for _ in range(3)], some(rng, 3, 2, 5)
    want = np.zeros(maps[0].shape)
    for row in range(2):
        there = valid[row]
        if not there.any():
            continue
        x, *parts = (part[row].astype(float)[there] for part in maps)
        left, added = 1, 0
        for name, part in zip(("refined", "private"), parts, strict=True):
            w = forward.weights[name]
            share = sum(
                sigmoid(np.maximum(squeezed @ w["down"]["kernel"], 0) @ w["up"]["kernel"])
                for squeezed in (part.mean(0), part.max(0))
            )
            left, added = left - share, added + share * (part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5)
        want[row][there] = x * left + added
    args = *(hidden(part, valid) for part in maps), jnp.asarray(valid)
    np.testing.assert_allclose(forward(*args), want, rtol=1e-4, atol=1e-4)
    forward.assert_finite(*args)


def test_bfloat16_stays(rng):
    x, valid = as_bfloat16(jnp.asarray(normal(rng, 2, 3, 4, 8))), jnp.ones((2, 3, 4), bool)
    tokens = x.reshape(2, 12, 8)
    blocks = [
        (gates.ChannelAttention(8, maximum=True, rngs=nnx.Rngs(0)), (x, valid)),
        (gates.SpatialAttention(rngs=nnx.Rngs(0)), (x, valid)),
        (gates.AttentionPool(8, 4, rngs=nnx.Rngs(0)), (tokens, valid.reshape(2, 12))),
        (gates.DynamicGate(8, rngs=nnx.Rngs(0)), (x, x)),
        (gates.ModalityMix(8, rngs=nnx.Rngs(0)), (x, x, x, valid)),
    ]
    for block, args in blocks:
        forward = Randomised(block, rng)
        assert forward.compiled(as_bfloat16(forward.params), *args).dtype == jnp.bfloat16, type(block)
