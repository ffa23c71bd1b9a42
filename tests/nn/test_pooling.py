"""Means over what is there, against loops; the classifier."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.pooling import (
    Classifier,
    average_logits,
    l2_normalise,
    last_pool,
    max_pool,
    mean_of_present,
    mean_pool,
)

SEEDS = st.integers(0, 2**32 - 1)


@hypothesis.given(SEEDS, st.integers(1, 4), st.integers(1, 6))
@hypothesis.settings(max_examples=10)
def test_mean_pool(seed, rows, tokens):
    rng = np.random.default_rng(seed)
    values, valid = rng.normal(size=(rows, tokens, 3)).astype(np.float32), rng.random((rows, tokens)) < 0.5
    expected = [v[there].mean(0) if there.any() else np.zeros(3) for v, there in zip(values, valid, strict=True)]
    np.testing.assert_allclose(mean_pool(jnp.asarray(values), jnp.asarray(valid)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("pool", "of"), [(mean_pool, lambda v: v.mean(0)), (max_pool, lambda v: v.max(0)), (last_pool, lambda v: v[-1])]
)
def test_pools_of_what_is_valid(rng, pool, of):
    values, valid = rng.normal(size=(6, 5, 3)).astype(np.float32) - 3, rng.random((6, 5)) < 0.5
    valid[0], valid[1] = False, True
    dirty = jnp.asarray(np.where(valid[..., None], values, np.nan))
    expected = [of(v[there]) if there.any() else np.zeros(3) for v, there in zip(values, valid, strict=True)]
    np.testing.assert_allclose(pool(dirty, jnp.asarray(valid)), expected, rtol=1e-5, atol=1e-6)
    slope = np.asarray(jax.grad(lambda x: jnp.sin(pool(x, jnp.asarray(valid))).sum())(dirty))
    assert np.isfinite(slope).all()
    assert (slope[~valid] == 0).all()


def test_l2_normalise(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    x[0] = 0
    want = x / np.maximum(np.linalg.norm(x.astype(float), axis=1, keepdims=True), 1e-30)
    np.testing.assert_allclose(l2_normalise(jnp.asarray(x)), want, rtol=1e-5, atol=1e-7)
    assert np.isfinite(np.asarray(jax.grad(lambda x: l2_normalise(x).sum())(jnp.asarray(x)))).all()


@hypothesis.given(SEEDS, st.integers(1, 4), st.sampled_from([(2,), (2, 3)]))
@hypothesis.settings(max_examples=10)
def test_mean_of_present(seed, count, shape):
    rng = np.random.default_rng(seed)
    values = {str(m): rng.normal(size=(5, *shape)).astype(np.float32) for m in range(count)}
    present = {m: rng.random(5) < 0.5 for m in values}
    expected = [
        np.mean([values[m][row] for m in values if present[m][row]] or [np.zeros(shape)], axis=0) for row in range(5)
    ]
    found = mean_of_present(
        {m: jnp.asarray(v) for m, v in values.items()}, {m: jnp.asarray(p) for m, p in present.items()}
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_average_logits(rng):
    logits = {m: {h: jnp.asarray(rng.normal(size=(2, 3)), jnp.float32) for h in ("a", "b")} for m in ("audio", "video")}
    there = {"audio": jnp.asarray([True, True]), "video": jnp.asarray([True, False])}
    found = average_logits(logits, there)
    assert set(found) == {"a", "b", "a/audio", "a/video", "b/audio", "b/video"}
    np.testing.assert_array_equal(found["b/video"], logits["video"]["b"])
    np.testing.assert_allclose(found["a"][0], (logits["audio"]["a"][0] + logits["video"]["a"][0]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(found["a"][1], logits["audio"]["a"][1])


def test_classifier_starts_at_zero_and_answers_in_float32(rng):
    classifier = Classifier(4, {"a": 3, "b": 2}, rngs=nnx.Rngs(0))
    out = classifier(jnp.asarray(rng.normal(size=(5, 4)), jnp.bfloat16))
    assert {head: (x.shape, x.dtype.name) for head, x in out.items()} == {
        "a": ((5, 3), "float32"),
        "b": ((5, 2), "float32"),
    }
    assert all((np.asarray(x) == 0).all() for x in out.values())
