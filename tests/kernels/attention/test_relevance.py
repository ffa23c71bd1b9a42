"""Products with P that never make P, against matrices in float64."""

from __future__ import annotations

import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import Layout, Mask
from kernels.attention import cut as cuts
from kernels.attention.relevance import Layer, chefer, relevance, rollout, rollout_shares
from tests.kernels.attention import dense
from tests.kernels.attention.contract import normal

EVERY = pytest.mark.parametrize("implementation", ["blockwise", "reference"])


def weights_of(query, key, seen, scale=None, bias=0.0) -> np.ndarray:
    """P [B, H, Nq, Nk] in float64; rows that see nothing are 0."""
    query, key = (np.asarray(array, np.float64) for array in (query, key))
    key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
    scores = np.einsum("bihd,bjhd->bhij", query, key) * (scale or 1 / math.sqrt(query.shape[-1])) + bias
    scores = np.where(seen[:, None], scores, -np.inf)
    highest = np.max(scores, -1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total > 0, total, 1)


@EVERY
@pytest.mark.parametrize("most", [2**21, 4 * 3 * 11])
def test_relevance_is_its_definition(implementation, most, rng, monkeypatch):
    monkeypatch.setitem(cuts.BLOCK_BYTES, jax.default_backend(), cuts.Most(most, most))
    layout = Layout.of(audio=5, video=6)
    mask = Mask(
        layout, layout, sees=[("audio", "audio"), ("audio", "video"), ("video", "video")],
        key_valid=rng.random((2, 11)) < 0.7, presence=np.array([[True, True], [True, False]]),
    )  # fmt: skip
    query, gradient = normal(rng, 2, 11, 4, 8), normal(rng, 2, 11, 4, 3)
    key, value = normal(rng, 2, 11, 2, 8), normal(rng, 2, 11, 2, 3)
    columns, bias = normal(rng, 2, 11, 2), normal(rng, 1, 4, 11, 11)
    found = relevance(query, key, value, gradient, columns, bias=bias, mask=mask, implementation=implementation)
    through = np.einsum("bihd,bjhd->bhij", gradient.astype(float), np.repeat(value, 2, axis=2).astype(float))
    weights = weights_of(query, key, dense.visible(mask, 2), bias=bias)
    expected = np.einsum("bhij,bir->bhjr", np.maximum(weights * through, 0), columns.astype(float))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_another_implementation_is_refused_by_name(rng):
    arrays = [normal(rng, 1, 4, 1, 4) for _ in range(4)]
    with pytest.raises(ValueError, match="no 'fast' of relevance; there are blockwise, reference"):
        relevance(*arrays, normal(rng, 1, 4, 1), implementation="fast")
    arrays[3] = normal(rng, 1, 4, 1, 3)
    with pytest.raises(ValueError, match=r"gradient: needs the shape of the output, \[1, 4, 1, 4\]"):
        # Without the annotations, which are checked in tests alone.
        inspect.unwrap(relevance)(*arrays, normal(rng, 1, 4, 1))


def layers_of(rng, count: int, tokens: int, heads: int, width: int) -> list[Layer]:
    valid = np.ones((1, tokens), bool)
    valid[:, -tokens // 8 :] = False
    layout = Layout.of(audio=tokens // 4, video=tokens - tokens // 4)
    mask = Mask(layout, layout, key_valid=valid)
    return [Layer(*(normal(rng, 1, tokens, heads, width) for _ in range(4)), mask=mask) for _ in range(count)]


@pytest.mark.slow
@EVERY
def test_recursions_are_products_of_matrices(implementation, rng):
    """256 tokens, 12 layers, to 1e-5 of the largest."""
    tokens, heads = 256, 2
    layers = layers_of(rng, 12, tokens, heads, 16)
    start = np.zeros((1, tokens, 2), np.float32)
    start[0, 0, 0], start[0, :, 1] = 1, rng.random(tokens)
    modality = np.eye(2, dtype=np.float32)[None, np.repeat([0, 1], layers[0].mask.keys.lengths)]
    seen = dense.visible(layers[0].mask, 1)
    rolled = relevant = np.eye(tokens)
    for layer in layers:
        weights = weights_of(layer.query, layer.key, seen)
        through = np.einsum("bihd,bjhd->bhij", layer.gradient.astype(float), layer.value.astype(float))
        rolled = (weights.mean(1)[0] + np.eye(tokens)) / 2 @ rolled
        relevant = relevant + np.maximum(weights * through, 0).mean(1)[0] @ relevant
    results = {
        "rollout": (jax.jit(rollout, static_argnums=2)(layers, start, implementation), rolled.T @ start[0]),
        "shares": (jax.jit(rollout_shares, static_argnums=2)(layers, modality, implementation), rolled @ modality[0]),
        "chefer": (jax.jit(chefer, static_argnums=2)(layers, start, implementation), relevant.T @ start[0]),
    }
    for name, (found, expected) in results.items():
        np.testing.assert_allclose(found[0], expected, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    np.testing.assert_allclose(results["shares"][0].sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("recursion", [rollout, rollout_shares, chefer])
def test_no_matrix_of_all_tokens_is_made(recursion):
    """4,096 tokens, 12 layers: no array of the compiled program is larger than a block, an eighth of N x N or so."""
    tokens, rng = 4096, np.random.default_rng(0)
    layers = layers_of(rng, 12, tokens, 1, 16)
    start = np.zeros((1, tokens, 2), np.float32)
    compiled = jax.jit(recursion, static_argnums=2).lower(layers, start, "blockwise").compile()
    shapes = re.findall(r"(?:f32|bf16|pred|s32|u32)\[([\d,]+)\]", compiled.as_text())
    sizes = {shape: math.prod(map(int, shape.split(","))) for shape in shapes}
    assert len(sizes) > 10
    assert max(sizes.values()) <= cuts.most_bytes(alone=True) / 4 < tokens * tokens / 6, max(sizes, key=sizes.get)
    found = compiled(layers, jnp.asarray(start).at[0, 0, 0].set(1))
    assert np.isfinite(found).all()
