"""Written-out attention against NumPy, hidden keys and queries, and the residual of the scores through the kernel."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.nn.attention import attend, cross_mask
from avjax.nn.scoring import attend_dense, attend_residual, residual_scores, scaled_dot, sparsemax, tvmax
from kernels.attention import Layout
from tests.models import tiny

B, NQ, NK, H, D = 2, 3, 5, 2, 4


def random(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_it_is_the_kernels_softmax(rng):
    q, k, v = random(rng, B, NQ, H, D), random(rng, B, NK, H, D), random(rng, B, NK, H, D)
    valid = jnp.asarray(rng.random((B, NK)) < 0.6).at[0, 0].set(True).at[1].set(False)
    output, weights = attend_dense(q, k, v, valid=valid)
    mask = cross_mask(Layout.of(queries=NQ), Layout.of(keys=NK), valid)
    np.testing.assert_allclose(output, attend(q, k, v, mask), atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1)[0], 1, rtol=1e-6)
    assert (np.asarray(weights[1]) == 0).all()


def test_values_are_weighted_and_biases_added(rng):
    q, k, v = random(rng, B, NQ, H, D), random(rng, B, NK, H, D), random(rng, B, NK, H, 7)
    bias = random(rng, 1, H, NQ, NK)
    output, weights = attend_dense(q, k, v, normalize=sparsemax, bias=bias)
    np.testing.assert_allclose(weights, sparsemax(scaled_dot(q, k) + bias), atol=1e-6)
    want = np.einsum("bhqk,bkhd->bqhd", np.asarray(weights, np.float64), np.asarray(v, np.float64))
    np.testing.assert_allclose(output, want, atol=1e-5)


@functools.cache
def compiled(normalize, queries_too: bool):
    def loss(q, k, v, valid):
        output, weights = attend_dense(q, k, v, normalize=normalize, valid=valid)
        return (output**2).sum() + (weights**2).sum(), (output, weights)

    return tiny.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


FLAT = functools.partial(tvmax, iterations=50)


@pytest.mark.parametrize("normalize", [sparsemax, FLAT])
@pytest.mark.parametrize("queries_too", [False, True])
@given(junk=st.sampled_from([np.nan, np.inf, -np.inf]), seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 1.0))
def test_what_is_hidden_leaks_nowhere(normalize, queries_too, junk, seed, share):
    draw = np.random.default_rng(seed)
    keys, queries = draw.random((B, NK)) < share, draw.random((B, NQ)) < share
    q, k, v = (np.asarray(random(draw, B, n, H, D)) for n in (NQ, NK, NK))
    valid = (queries[:, None, :, None] & keys[:, None, None]) if queries_too else keys
    if not queries_too:
        queries = np.ones_like(queries)

    def call(filling: float):
        def fill(x, there):
            return jnp.asarray(np.where(there[..., None, None], x, filling).astype(np.float32))

        return compiled(normalize, queries_too)(fill(q, queries), fill(k, keys), fill(v, keys), jnp.asarray(valid))

    (_, found), gradients = call(junk)
    (_, clean), _ = call(0.25)
    for got, want in zip(found, clean, strict=True):
        np.testing.assert_array_equal(got, want)
    for gradient, there in zip(gradients, (queries, keys, keys), strict=True):
        assert np.isfinite(np.asarray(gradient)).all()
        assert (np.asarray(gradient)[~there] == 0).all()
    assert (np.asarray(found[0])[~queries] == 0).all()
    assert (np.asarray(found[0])[~keys.any(1)] == 0).all()


def test_narrow_values_are_summed_wide(rng):
    q, k, v = (random(rng, B, n, H, D).astype(jnp.bfloat16) for n in (NQ, NK, NK))
    output, weights = attend_dense(q, k, v)
    wide, _ = attend_dense(*(x.astype(jnp.float32) for x in (q, k, v)))
    assert weights.dtype == jnp.float32
    np.testing.assert_array_equal(output, wide.astype(jnp.bfloat16))


@pytest.mark.parametrize("more", [4, 3])
def test_a_residual_of_the_scores_is_one_call_of_the_kernel(more, rng):
    q, k, v = random(rng, B, NQ, H, D), random(rng, B, NK, H, D), random(rng, B, NK, H, D)
    r_q, r_k = random(rng, B, NQ, H, more), random(rng, B, NK, H, more)
    residual = jnp.einsum("bqhd,bkhd->bhqk", r_q, r_k, precision="highest") / np.sqrt(more)
    want, _ = attend_dense(q, k, v, bias=residual)
    np.testing.assert_allclose(scaled_dot(*residual_scores(q, k, r_q, r_k)), scaled_dot(q, k) + residual, atol=1e-5)
    np.testing.assert_allclose(attend_residual(q, k, v, r_q, r_k), want, atol=1e-5)
    valid = jnp.asarray(rng.random((B, NK)) < 0.5).at[0, 0].set(True)
    want, _ = attend_dense(q, k, v, bias=residual, valid=valid)
    mask = cross_mask(Layout.of(queries=NQ), Layout.of(keys=NK), valid)
    np.testing.assert_allclose(attend_residual(q, k, v, r_q, r_k, mask), want, atol=1e-5)
