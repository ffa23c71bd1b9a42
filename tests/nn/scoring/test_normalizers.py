"""Normalisers against their definitions in float64, their gradients, and what is hidden."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.nn.scoring import entmax, focal, identity, relu_l1, softmax, sparsemax, tanh, tvmax
from tests.models import tiny

SUM_TO_ONE = {
    "softmax": softmax,
    "sparsemax": sparsemax,
    "entmax": entmax,
    "entmax 1.2": functools.partial(entmax, alpha=1.2),
    "tvmax": functools.partial(tvmax, weight=0.2, iterations=100),
    "tvmax of an image": functools.partial(tvmax, weight=0.2, shape=(2, 4), iterations=100),
    "focal": focal,
    "focal by probability": functools.partial(focal, relevance="probability"),
}
ALL = SUM_TO_ONE | {"relu_l1": relu_l1, "relu_l1 over": functools.partial(relu_l1, threshold=0.1), "tanh": tanh}
ALL |= {"identity": identity}
QUERIES, KEYS = 3, 8


def simplex_projection(z: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex, by trying every set of positions that may have weight."""
    best, distance = None, np.inf
    for size in range(1, len(z) + 1):
        for chosen in map(list, itertools.combinations(range(len(z)), size)):
            p = np.zeros(len(z))
            p[chosen] = z[chosen] - (z[chosen].sum() - 1) / size
            if (p >= 0).all() and ((p - z) ** 2).sum() < distance:
                best, distance = p, ((p - z) ** 2).sum()
    return best


def entmax_15(z: np.ndarray) -> np.ndarray:
    """The exact solution for alpha = 1.5 (Peters et al. 2019, algorithm 2)."""
    z = z / 2
    ordered = np.sort(z)[::-1]
    for size in range(len(z), 0, -1):
        top = ordered[:size]
        spread = size * top.var()
        if spread > 1:
            continue
        threshold = top.mean() - np.sqrt((1 - spread) / size)
        if threshold <= ordered[size - 1]:
            return np.maximum(z - threshold, 0) ** 2
    raise AssertionError("one position alone always solves it")


def test_sparsemax_is_the_nearest_point_of_the_simplex(rng):
    for scale in (0.1, 1, 10):
        z = scale * rng.normal(size=(6, 7))
        want = np.stack([simplex_projection(row) for row in z])
        np.testing.assert_allclose(sparsemax(jnp.asarray(z, jnp.float32)), want, atol=1e-6 * max(1, scale))


def test_known_answers():
    np.testing.assert_allclose(sparsemax(jnp.array([0.5, 0.5])), [0.5, 0.5])
    np.testing.assert_allclose(sparsemax(jnp.array([3.0, 0.0, 0.0])), [1, 0, 0])
    np.testing.assert_allclose(sparsemax(jnp.array([1.0, 0.5, -1.0])), [0.75, 0.25, 0], atol=1e-7)
    np.testing.assert_allclose(relu_l1(jnp.array([3.0, -5.0, 1.0])), [0.75, 0, 0.25])
    np.testing.assert_allclose(relu_l1(jnp.array([8.0, 1.0, 1.0, -4.0]), threshold=0.15), [1, 0, 0, 0])
    np.testing.assert_allclose(relu_l1(jnp.array([6.0, 3.0, 1.0]), threshold=0.15), [2 / 3, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_array_equal(relu_l1(jnp.array([-1.0, -2.0])), [0, 0])
    np.testing.assert_allclose(tanh(jnp.array([0.5, -2.0])), np.tanh([0.5, -2.0]), rtol=1e-6)


def test_entmax_is_the_exact_solution(rng):
    z = 2 * rng.normal(size=(20, 9))
    want = np.stack([entmax_15(row) for row in z])
    np.testing.assert_allclose(entmax(jnp.asarray(z, jnp.float32)), want, atol=2e-6)


def test_entmax_lies_between_softmax_and_sparsemax(rng):
    with jax.enable_x64(True):
        z = jnp.asarray(rng.normal(size=(5, 6)))
        np.testing.assert_allclose(entmax(z, alpha=2.0), sparsemax(z), atol=1e-12)
        # The difference from softmax is of first order in alpha - 1.
        errors = [np.abs(entmax(z, alpha=1 + d) - softmax(z)).max() for d in (1e-3, 1e-4)]
        np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.02)
        assert errors[1] < 1e-3
    with pytest.raises(ValueError, match="use softmax for alpha = 1"):
        entmax(jnp.zeros(3), alpha=1.0)


@pytest.mark.parametrize("relevance", ["equal", "probability"])
def test_focal_by_hand(relevance, rng):
    z = rng.normal(size=(4, 5))
    s = np.where(z > 0, z, 0.1 * z)
    s = s / np.sqrt((s**2).sum(0))
    a = np.exp(3 * s) / np.exp(3 * s).sum(1, keepdims=True)
    want = np.zeros_like(a)
    for i in range(4):
        for j in range(5):
            f = sum((a[i, j] - a[i, k]) * (1 if relevance == "equal" else np.sqrt(a[i, k])) for k in range(5))
            want[i, j] = a[i, j] if f > 0 else 0
    want /= want.sum(1, keepdims=True)
    np.testing.assert_allclose(focal(jnp.asarray(z, jnp.float32), scale=3.0, relevance=relevance), want, atol=1e-6)


def test_focal_keeps_a_single_key():
    np.testing.assert_allclose(focal(jnp.array([[2.0, jnp.nan]]), jnp.array([[True, False]])), [[1, 0]])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_gradients_are_those_of_finite_differences(name, rng):
    with jax.enable_x64(True):
        z = jnp.asarray(rng.normal(size=(QUERIES, KEYS)))
        valid = jnp.asarray(rng.random((QUERIES, KEYS)) < 0.7).at[:, 0].set(True)
        along, onto = (jnp.asarray(rng.normal(size=z.shape)) for _ in range(2))

        def loss(z):
            return (onto * ALL[name](z, valid)).sum()

        # The gradient, and forward mode along one direction.
        gradient, forward = tiny.jit(lambda z: (jax.grad(loss)(z), jax.jvp(loss, (z,), (along,))[1]))(z)
        step, call = 1e-6, tiny.jit(loss)
        want = (call(z + step * along) - call(z - step * along)) / (2 * step)
        np.testing.assert_allclose((gradient * along).sum(), want, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(forward, want, rtol=1e-6, atol=1e-8)
        assert (np.asarray(gradient)[~np.asarray(valid)] == 0).all()


@functools.cache
def compiled(name: str):
    """Weights, and the gradient of a sum of their squares."""
    normalize = ALL[name]
    return tiny.jit(lambda z, valid: (normalize(z, valid), jax.grad(lambda z: (normalize(z, valid) ** 2).sum())(z)))


@pytest.mark.parametrize("name", ALL)
@given(
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    share=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    junk=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_hidden_counts_nowhere(name, scale, share, junk, seed):
    draw = np.random.default_rng(seed)
    valid = draw.random((2, QUERIES, KEYS)) < share
    valid[0, 0] = False
    z = (scale * draw.normal(size=valid.shape)).astype(np.float32)
    clean, _ = compiled(name)(jnp.asarray(np.where(valid, z, 0.5)), jnp.asarray(valid))
    weights, gradient = compiled(name)(jnp.asarray(np.where(valid, z, junk)), jnp.asarray(valid))
    np.testing.assert_array_equal(weights, clean)
    weights, gradient = np.asarray(weights), np.asarray(gradient)
    assert np.isfinite(gradient).all()
    assert (weights[~valid] == 0).all()
    assert (gradient[~valid] == 0).all()
    if name in SUM_TO_ONE:
        assert (weights >= 0).all()
        # Rounding of scores of this scale, and of a sum.
        np.testing.assert_allclose(weights.sum(-1), valid.any(-1), atol=2e-6 * max(1, scale))


@pytest.mark.parametrize("name", ALL)
def test_narrow_scores_are_summed_wide(name, rng):
    z = jnp.asarray(rng.normal(size=(QUERIES, KEYS)), jnp.bfloat16)
    weights, wide = tiny.jit(lambda z: (ALL[name](z), ALL[name](z.astype(jnp.float32))))(z)
    assert weights.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights, wide.astype(jnp.bfloat16))
