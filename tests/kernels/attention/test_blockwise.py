"""The blockwise implementation: the shared contract, in one block and in many, and what only it promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import STATISTICS, Layout, Mask, attention
from kernels.attention import cut as cuts
from kernels.attention.cut import Cut
from tests.kernels.attention import cases
from tests.kernels.attention.contract import AttentionContract, normal


class TestBlockwise(AttentionContract):
    implementation = "blockwise"


@pytest.mark.slow
class TestManyBlocks(AttentionContract):
    """Few rows a block, so that every case has several, the last one filled up."""

    implementation = "blockwise"

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        cases.compiled.cache_clear()
        monkeypatch.setitem(cuts.BLOCK_BYTES, jax.default_backend(), cuts.Most(4 * 64, 4 * 64))
        yield
        cases.compiled.cache_clear()

    # One block or many is nothing to these.
    test_shape_slow = test_shape_long = test_any_long_call = None
    test_uniform_attention = test_sharp_attention = test_decoy_group = None
    test_only_what_is_named = test_shape_bfloat16 = test_shape = None

    @pytest.mark.long
    def test_transformations(self, rng):
        super().test_transformations(rng)

    @pytest.mark.long
    def test_sharded_equals_unsharded(self, rng):
        super().test_sharded_equals_unsharded(rng)


@pytest.mark.parametrize(
    ("heads", "shared", "queries", "keys", "most", "together", "blocks", "rows"),
    [
        (12, 12, 16, 16, 4 * 16 * 16 * 12, 12, 1, 16),
        (12, 12, 16, 16, 4 * 16 * 16 * 5, 4, 1, 16),
        (12, 4, 16, 16, 4 * 16 * 16 * 6, 2, 1, 16),
        (2, 2, 17, 16, 4 * 16 * 4, 1, 5, 4),
        (2, 2, 7, 1000, 1, 1, 7, 1),
        (6, 2, 10, 8, 4 * 3 * 8 * 5, 1, 2, 5),
    ],
)
def test_blocks_are_as_large_as_they_may_be(heads, shared, queries, keys, most, together, blocks, rows):
    cut = Cut.of(2, heads, shared, queries, keys, most)
    assert (cut.together, cut.blocks, cut.rows) == (together, blocks, rows)
    array = np.arange(2 * heads * queries * 3).reshape(2, heads, queries, 3)
    split = cut.split_rows(jnp.asarray(array))
    assert split.shape == (cut.units, blocks, together, heads // shared * rows, 3)
    np.testing.assert_array_equal(cut.join_rows(split), array)


def loss_of(arrays, statistics, implementation="blockwise"):
    attended = attention(*arrays, statistics=statistics, implementation=implementation)
    return jnp.sum(jnp.sin(attended.output)) + sum(jnp.sum(jnp.cos(x)) for x in attended.statistics.values())


@pytest.mark.slow
def test_second_derivatives_backwards_are_those_of_the_reference(rng):
    """Reverse over reverse; forward mode is refused by JAX, and served by the reference."""
    arrays = [jnp.asarray(normal(rng, 1, 6, 2, 4)) for _ in range(3)]

    def norm(implementation):
        gradient = jax.grad(lambda arrays: loss_of(arrays, ("mass", "entropy", "peak"), implementation))
        return jax.grad(lambda arrays: sum(jnp.sum(x**2) for x in gradient(arrays)))(arrays)

    for found, expected in zip(norm("blockwise"), norm("reference"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda q: loss_of([q, *arrays[1:]], ()), arrays[:1], arrays[:1])


@pytest.mark.parametrize(
    "given", [("mass", "output_product"), ("received", "entropy"), pytest.param(STATISTICS, marks=pytest.mark.long)]
)
@pytest.mark.slow
def test_what_nobody_differentiates_costs_nothing(given, rng):
    """Statistics that are only looked at leave the backward pass as it is without them; differentiated they do not."""
    arrays = [jnp.asarray(normal(rng, 2, 40, 2, 8)) for _ in range(3)]

    def loss(arrays, statistics, differentiated):
        attended = attention(*arrays, statistics=statistics, implementation="blockwise")
        result = jnp.sum(attended.output**2)
        if differentiated:
            result += sum(jnp.sum(x**2) for name, x in attended.statistics.items() if name != "nonempty")
        return result, attended.statistics

    def backward(statistics, differentiated=False):
        _, pull, _ = jax.vjp(lambda arrays: loss(arrays, statistics, differentiated), arrays, has_aux=True)
        return str(jax.make_jaxpr(pull)(1.0)).count(" = ")

    assert backward(given) == backward(())
    for name in given:
        assert backward((name,), differentiated=True) > backward(())


@pytest.mark.parametrize("most", [64, 2**21])
@pytest.mark.slow
def test_a_large_bias_and_losses_on_empty_rows_stay_numbers(most, rng, monkeypatch):
    """Rows that fill up the last block have no score of their own; lse of an empty row is -inf, with no slope."""
    monkeypatch.setitem(cuts.BLOCK_BYTES, jax.default_backend(), cuts.Most(most, most))
    query, key, value = (jnp.asarray(normal(rng, 1, n, 1, 4)) for n in (7, 8, 8))
    mask = Mask(Layout.of(a=7), Layout.of(b=8), query_valid=jnp.arange(7)[None] != 2)

    def loss(query, key, value, bias, implementation):
        attended = attention(
            query, key, value, bias=bias, mask=mask, statistics=("lse",), implementation=implementation
        )  # fmt: skip
        square = jnp.where(attended.statistics["nonempty"], attended.statistics["lse"] ** 2, 0)
        return jnp.sum(attended.output**2) + 1e-3 * jnp.sum(square)

    arrays = (query, key, value, jnp.full((1, 1, 1, 8), 100.0))
    found, expected = (
        jax.grad(loss, argnums=(0, 1, 2, 3))(*arrays, name) for name in ("blockwise", "reference")
    )  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_with_the_square():
    """Forward and backward, all statistics, at 8,192 tokens: a tenth of the dense memory and less than one matrix."""
    tokens = 8192
    arrays = [jax.ShapeDtypeStruct((1, tokens, 2, 32), jnp.float32)] * 3

    def memory(implementation):
        function = jax.jit(jax.grad(lambda arrays: loss_of(arrays, STATISTICS, implementation)))
        return function.lower(arrays).compile().memory_analysis().temp_size_in_bytes

    assert memory("blockwise") < min(memory("reference") / 10, 2 * 4 * tokens * tokens)


def test_an_absent_modality_is_the_same_as_none(rng):
    """A sample without video gets what a call without the video's tokens gives."""
    layout = Layout.of(audio=6, video=9)
    arrays = [jnp.asarray(normal(rng, 2, 15, 2, 8)) for _ in range(3)]
    presence = jnp.array([[True, False], [True, True]])
    attended = attention(*arrays, mask=Mask(layout, layout, presence=presence), implementation="blockwise")
    alone = attention(*(x[:1, :6] for x in arrays), implementation="blockwise")
    np.testing.assert_allclose(attended.output[0, :6], alone.output[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(attended.output[0, 6:], 0)
