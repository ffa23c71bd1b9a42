"""Attention on a mesh: every device attends for its own rows, heads and queries, with the numbers of one device."""

from __future__ import annotations

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.attention import Parts, attend, cross_mask, self_mask, towers_mask
from avjax.nn.placement import Placement, constrain, current, placed_on
from avjax.training.sharding import MeshShape, Rules
from kernels.attention import Layout, Mask, attention

SHAPES = [shape for shape in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(shape) == 8]
QUICK = [(2, 1, 2, 2), (1, 1, 1, 8)]
ROWS, HEADS, WIDTH = 8, 4, 4
LENGTHS = (5, 3)


def masks(rng) -> dict[str, tuple[int, int, Mask | None]]:
    """Name -> queries, keys, mask; one row sees nothing in most of them."""
    valid = rng.random((ROWS, 8)) < 0.6
    valid[3] = False
    audio, video = valid[:, :5], valid[:, 5:]
    layout = Layout.of(audio=5, video=3)
    return {
        "none": (6, 7, None),
        "self": (8, 8, self_mask(jnp.asarray(valid))),
        "cross": (6, 8, cross_mask(Layout.of(queries=6), Layout.of(keys=8), jnp.asarray(valid))),
        "towers": (8, 8, towers_mask(
            [Layout.of(audio=5), Layout.of(video=3)], [jnp.asarray(audio), jnp.asarray(video)]
        )),
        "everything": (8, 8, Mask(
            layout, layout, sees=(("audio", "video"), ("video", "audio"), ("video", "video")),
            query_valid=jnp.asarray(rng.random((ROWS, 8)) < 0.8), key_valid=jnp.asarray(valid),
            presence=jnp.asarray(rng.random((ROWS, 2)) < 0.8),
            segments=(jnp.asarray(rng.integers(0, 2, (ROWS, 8))), jnp.asarray(rng.integers(0, 2, (ROWS, 8)))),
        )),
    }  # fmt: skip


def call(placement, kind, arrays, mask):
    """Output, and gradients of a random sum of it."""
    query, key, value, weights = arrays

    def loss(query, key, value):
        with placed_on(placement):
            output = attend(query, key, value, mask)
        return (output * weights).sum(), output

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(query, key, value)
    return output, *gradients


KINDS = ["none", "self", "cross", "towers", "everything"]
SHORT = ("none", "towers", "everything")
CASES = [
    pytest.param(shape, kind, id=f"{shape} {kind}", marks=() if kind in SHORT else pytest.mark.long)
    for shape in QUICK
    for kind in KINDS
]
CASES += [pytest.param(s, "everything", id=f"{s} everything", marks=pytest.mark.long) for s in SHAPES if s not in QUICK]


@pytest.mark.parametrize(("shape", "kind"), CASES)
@pytest.mark.slow
def test_on_a_mesh_as_on_one_device(shape, kind, rng):
    queries, keys, mask = masks(rng)[kind]
    draw = lambda count: jnp.asarray(rng.normal(size=(ROWS, count, HEADS, WIDTH)), jnp.float32)  # noqa: E731
    arrays = draw(queries), draw(keys), draw(keys), draw(queries)
    expected = call(None, kind, arrays, mask)
    found = call(Placement(MeshShape(*shape).build(), Rules()), kind, arrays, mask)
    for name, one, other in zip(("output", "query", "key", "value"), found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)


def test_rows_and_heads_that_do_not_divide_stay_whole(rng):
    """Six rows over data=2 x fsdp=4: two parts of three; three heads over tensor: whole."""
    draw = lambda: jnp.asarray(rng.normal(size=(6, 5, 3, WIDTH)), jnp.float32)  # noqa: E731
    arrays = draw(), draw(), draw(), draw()
    for shape in ((2, 4, 1, 1), (1, 4, 2, 1)):
        found = call(Placement(MeshShape(*shape).build(), Rules()), "none", arrays, None)
        for one, other in zip(found, call(None, "none", arrays, None), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "of_bias"), [(QUICK[0], (1, HEADS, 8, 8)), (QUICK[1], (ROWS, 1, 1, 8)), (QUICK[0], (ROWS, HEADS, 8, 1))]
)
def test_a_bias_and_values_of_another_width(shape, of_bias, rng):
    """Softmax in NumPy on one device, the same with the gradient of the bias on a mesh."""
    mask = masks(rng)["self"][2]
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    query, key, value = draw(ROWS, 8, HEADS, WIDTH), draw(ROWS, 8, HEADS, WIDTH), draw(ROWS, 8, HEADS, 6)
    bias, weights = draw(*of_bias), draw(ROWS, 8, HEADS, 6)
    results = []
    for placement in (None, Placement(MeshShape(*shape).build(), Rules())):

        def loss(bias, value, placement=placement):
            with placed_on(placement):
                output = attend(query, key, value, mask, bias=bias)
            return (output * weights).sum(), output

        (_, output), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(bias, value)
        results.append((output, *gradients))
    scores = np.einsum("bqhd,bkhd->bhqk", *(np.asarray(x, float) for x in (query, key))) / 2 + np.asarray(bias, float)
    weight = np.exp(scores) * np.asarray(mask.key_valid)[:, None, None]
    weight = weight / np.maximum(weight.sum(-1, keepdims=True), 1e-30)
    expected = np.einsum("bhqk,bkhd->bqhd", weight, np.asarray(value, float))
    np.testing.assert_allclose(results[0][0], expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_shared_key_heads(rng):
    query = jnp.asarray(rng.normal(size=(8, 5, 4, WIDTH)), jnp.float32)
    key, value = (jnp.asarray(rng.normal(size=(8, 5, 2, WIDTH)), jnp.float32) for _ in range(2))
    for tensor in (2, 4):
        placement = Placement(MeshShape(data=8 // tensor, tensor=tensor).build(), Rules())
        with placed_on(placement):
            found = jax.jit(lambda q, k, v: attend(q, k, v))(query, key, value)
        np.testing.assert_allclose(found, attention(query, key, value).output, rtol=1e-4, atol=1e-5)


def test_order_cannot_be_cut_along_the_sequence(rng):
    query = jnp.zeros((8, 4, 2, WIDTH))
    mask = Mask(Layout.of(tokens=4), Layout.of(tokens=4), causal=True)
    with placed_on(Placement(MeshShape(4, sequence=2).build(), Rules())), pytest.raises(ValueError, match="sequence 1"):
        attend(query, query, query, mask)
    with placed_on(Placement(MeshShape(8).build(), Rules())):
        found = jax.jit(lambda q: attend(q, q, q, mask))(query + jnp.arange(4.0)[None, :, None, None])
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)


@hypothesis.given(st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(1, 5))
@pytest.mark.slow
def test_parts_join_to_what_was_cut(lengths, count):
    values = np.arange(2 * sum(lengths) * 3, dtype=np.float32).reshape(2, -1, 3)
    parts = Parts(lengths, count)
    cut = parts.cut(jnp.asarray(values))
    assert cut.shape == (2, count, sum(parts.shares) if count > 1 else sum(lengths), 3)
    np.testing.assert_array_equal(parts.join(cut), values)


def test_no_placement_is_no_constraint():
    """Nor is a mesh of one device, nor what lies outside the block."""
    x = jnp.ones((8, 4))
    assert constrain(x, "batch", None) is x
    with placed_on(Placement(MeshShape().build(jax.devices()[:1]), Rules())):
        assert current() is None
        assert constrain(x, "batch", None) is x
    with placed_on(Placement(MeshShape().build(), Rules())):
        found = jax.jit(lambda x: constrain(x, "batch", None))(x)
        assert {shard.data.shape for shard in found.addressable_shards} == {(1, 4)}
    assert current() is None
