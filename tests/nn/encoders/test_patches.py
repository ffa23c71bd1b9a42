"""Patches against explicit loops, positions, class tokens, what is valid and what is hidden."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.encoders import PatchEmbedding, Patches, append_class_token, hide
from avjax.streams import Stream
from tests.models import reference


@st.composite
def shapes(draw):
    """(shape, patch): one to four axes, the first ones cut."""
    grid = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    patch = draw(st.lists(st.integers(1, 3), min_size=1, max_size=len(grid)))
    shape = [g * p for g, p in zip(grid, patch, strict=False)] + grid[len(patch) :]
    return tuple(shape), tuple(patch)


@hypothesis.given(shapes(), st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=10)
def test_cut_equals_a_loop(shape_and_patch, seed):
    shape, patch = shape_and_patch
    patches, rng = Patches("any", shape, patch), np.random.default_rng(seed)
    values = rng.normal(size=(2, *shape)).astype(np.float32)
    expected = np.stack([reference.cut(row, patch) for row in values])
    assert expected.shape == (2, patches.tokens, patches.width)
    np.testing.assert_array_equal(patches.cut(jnp.asarray(values)), expected)

    valid = rng.random((2, shape[0])) < 0.5
    # A patch counts if any of its time steps does: mark the steps in the values, and look into each patch.
    marked = np.broadcast_to(valid.reshape(2, -1, *[1] * (len(shape) - 1)), (2, *shape))
    there = np.stack([reference.cut(row, patch).any(1) for row in marked])
    np.testing.assert_array_equal(patches.valid(jnp.asarray(valid)), there)


def test_misfit_patches_are_refused():
    with pytest.raises(ValueError, match=r"audio: axis 1 of shape \(100, 128\) is not a multiple of its patch"):
        Patches("audio", (100, 128), (10, 24))
    with pytest.raises(ValueError, match="more axes than shape"):
        Patches("audio", (100,), (10, 3))
    patches = Patches("audio", (100, 128), (10, 16))
    with pytest.raises(
        ValueError, match=r"audio: the model was built for features of shape \(100, 128\) and was given"
    ):
        patches.cut(jnp.zeros((2, 100, 64)))


def stream(rng, patches, rows=3):
    values = jnp.asarray(rng.normal(size=(rows, *patches.shape)), jnp.float32)
    return Stream(values, jnp.ones((rows, patches.shape[0]), bool), jnp.arange(rows, dtype=jnp.float32), 10.0)


def test_embedding(rng):
    patches = Patches("video", (4, 4, 2, 3), (2, 2, 2))
    embedding = PatchEmbedding(patches, 8, rngs=nnx.Rngs(0))
    raw = stream(rng, patches)
    raw = raw.replace(valid=raw.valid.at[1, :2].set(False).at[2].set(False))
    keep = jnp.asarray(rng.random((3, patches.tokens)) < 0.5)
    tokens = embedding(raw, keep)
    kernel, bias = np.asarray(embedding.embed.kernel[...]), np.asarray(embedding.embed.bias[...])
    for row in range(3):
        expected = reference.cut(np.asarray(raw.values[row]), patches.patch) @ kernel + bias
        expected = expected + np.asarray(embedding.positions[...])
        np.testing.assert_allclose(tokens.values[row], expected, rtol=1e-4, atol=1e-5)
    # Two time steps of two patches each.
    there = np.array([[True] * 4, [False, False, True, True], [False] * 4])
    np.testing.assert_array_equal(embedding(raw).valid, there)
    np.testing.assert_array_equal(tokens.valid, there & keep)
    # 10 Hz over 4 steps is 0.4 s; 4 tokens in 0.4 s.
    assert tokens.rate == 10.0
    np.testing.assert_array_equal(tokens.start, raw.start)


def test_tubelets_start_from_their_central_frame(rng):
    patches = Patches("video", (6, 4, 4, 2), (3, 2, 2), central_frame=True)
    embedding = PatchEmbedding(patches, 8, rngs=nnx.Rngs(0))
    kernel = np.asarray(embedding.embed.kernel[...]).reshape(3, 8, 8)
    assert (kernel[[0, 2]] == 0).all()
    assert 0 < np.abs(kernel[1]).max() <= np.sqrt(6 / (8 + 8))
    # So the other frames do not matter at first.
    raw = stream(rng, patches)
    other = raw.replace(values=raw.values.at[:, jnp.asarray([0, 2, 3, 5])].add(1.0))
    np.testing.assert_array_equal(embedding(raw).values, embedding(other).values)
    plain = PatchEmbedding(Patches("video", (6, 4, 4, 2), (3, 2, 2)), 8, rngs=nnx.Rngs(0))
    assert (np.abs(np.asarray(plain.embed.kernel[...])).reshape(3, -1).max(1) > 0).all()


def test_class_token_of_a_missing_modality_is_missing(rng):
    values = jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32)
    valid = jnp.asarray([[True] * 4, [False, True, False, False], [False] * 4])
    token = jnp.asarray([[5.0, 6.0]])
    joined = append_class_token(Stream(values, valid, jnp.zeros(3), 1.0), token)
    np.testing.assert_array_equal(joined.values[:, :4], values)
    np.testing.assert_array_equal(joined.values[:, 4], [[5.0, 6.0]] * 3)
    np.testing.assert_array_equal(joined.valid[:, 4], [True, True, False])

    keep = jnp.asarray([[True, False, True, True], [True, False, True, True], [True] * 4])
    hidden = hide(joined, keep)
    np.testing.assert_array_equal(
        hidden.valid,
        [[True, False, True, True, True], [False] * 5, [False] * 5],
    )
    assert hide(joined, None) is joined
    assert jax.tree.leaves(hidden.values)[0] is joined.values
