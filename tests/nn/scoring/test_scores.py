"""Scores against their sums in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.scoring import Additive, Bilinear, cosine, dense_shift, scaled_dot, side_by_side, tanh

ROWS, QUERIES, KEYS, HEADS, WIDTH = 2, 3, 4, 2, 5


@pytest.fixture
def pair(rng) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(ROWS, QUERIES, HEADS, WIDTH)), rng.normal(size=(ROWS, KEYS, HEADS, WIDTH))


def by_pairs(score, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """[B, H, Nq, Nk] of a score of two vectors."""
    rows, queries, heads, _ = query.shape
    scores = np.zeros((rows, heads, queries, key.shape[1]))
    for b, h, i, j in np.ndindex(scores.shape):
        scores[b, h, i, j] = score(query[b, i, h], key[b, j, h])
    return scores


def shifts(q: np.ndarray, k: np.ndarray, share: float) -> float:
    """The mean over all cyclic shifts, one by one."""
    d = len(q)
    q = q / np.sqrt(d)
    return sum((share if s == 0 else (1 - share) / (d - 1)) * np.roll(q, s) @ k for s in range(d)) / d


def narrow(*arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def test_scaled_dot_and_cosine(pair):
    q, k = pair
    want = by_pairs(lambda a, b: a @ b / np.sqrt(WIDTH), q, k)
    np.testing.assert_allclose(scaled_dot(*narrow(q, k)), want, atol=1e-5)
    want = by_pairs(lambda a, b: 10 * a @ b / np.linalg.norm(a) / np.linalg.norm(b), q, k)
    np.testing.assert_allclose(cosine(*narrow(q, k), temperature=0.1), want, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_dense_shift_is_the_sum_over_shifts(pair, share):
    q, k = pair
    want = by_pairs(lambda a, b: shifts(a, b, share), q, k)
    np.testing.assert_allclose(dense_shift(*narrow(q, k), share=share), want, atol=1e-6)


def test_dense_shift_needs_something_to_shift():
    with pytest.raises(ValueError, match="at least 2 features"):
        dense_shift(jnp.ones((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1)))


def test_side_by_side_divides_the_keys(pair):
    q, k = narrow(*pair)
    got = side_by_side(functools.partial(dense_shift, share=0.7), scaled_dot, at=3)(q, k)
    np.testing.assert_allclose(got[..., :3], dense_shift(q, k[:, :3], share=0.7), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[..., 3:], scaled_dot(q, k[:, 3:]), rtol=1e-5, atol=1e-6)


def test_cosine_of_zero_has_no_nan():
    q = jnp.zeros((1, 1, 1, 3))
    score, gradient = jax.value_and_grad(lambda q: cosine(q, jnp.ones((1, 1, 1, 3))).sum())(q)
    assert score == 0
    assert (np.asarray(gradient) == 0).all()


def test_additive_is_the_equation(rng):
    q, k = rng.normal(size=(ROWS, QUERIES, HEADS, 3)), rng.normal(size=(ROWS, KEYS, HEADS, 6))
    module = Additive(3, 6, 7, rngs=nnx.Rngs(0))
    w_q, w_k, w = (np.asarray(part.kernel[...], np.float64) for part in (module.query, module.key, module.weight))
    want = by_pairs(lambda a, b: (w[:, 0] * np.tanh(a @ w_q + b @ w_k)).sum(), q, k)
    np.testing.assert_allclose(module(*narrow(q, k)), want, atol=1e-5)


def test_bilinear_is_the_equation(rng):
    q, k = rng.normal(size=(ROWS, QUERIES, HEADS, 3)), rng.normal(size=(ROWS, KEYS, HEADS, 6))
    module = Bilinear(3, 6, rngs=nnx.Rngs(0))
    w = np.asarray(module.weight.kernel[...], np.float64)
    want = by_pairs(lambda a, b: a @ w @ b / np.sqrt(6), q, k)
    np.testing.assert_allclose(module(*narrow(q, k)), want, atol=1e-5)


def test_bilinear_is_the_joint_correlation(rng):
    time, audio, video = 6, 3, 4
    x, y = rng.normal(size=(ROWS, time, audio)), rng.normal(size=(ROWS, time, video))
    joint = np.concatenate([x, y], axis=-1)
    d = audio + video
    module = Bilinear(time, time, scale=1 / np.sqrt(d), rngs=nnx.Rngs(0))
    w = np.asarray(module.weight.kernel[...], np.float64)
    got = tanh(module(*(jnp.swapaxes(jnp.asarray(part, jnp.float32), 1, 2)[:, :, None] for part in (x, joint))))
    for row in range(ROWS):
        np.testing.assert_allclose(got[row, 0], np.tanh(x[row].T @ w @ joint[row] / np.sqrt(d)), atol=1e-5)


@pytest.mark.parametrize("scores", [scaled_dot, cosine, dense_shift])
def test_narrow_inputs_have_wide_scores(scores, pair):
    q, k = (jnp.asarray(x, jnp.bfloat16) for x in pair)
    got = scores(q, k)
    assert got.dtype == jnp.float32
    # One rounding of the sums over features in bfloat16 at most.
    np.testing.assert_allclose(got, scores(q.astype(jnp.float32), k.astype(jnp.float32)), atol=2**-7 * 4)
