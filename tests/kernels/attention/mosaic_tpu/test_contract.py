"""The TPU kernels under the shared contract, interpreted: in blocks of 128, so that every case has what it may have."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kernels.attention import STATISTICS, Layout, Mask, attention
from kernels.attention.mosaic_tpu import target
from kernels.attention.mosaic_tpu.tile import Sizes
from tests.kernels.attention import cases
from tests.kernels.attention.cases import recipes
from tests.kernels.attention.contract import LONG, QUICK, SLOW, UNSHRUNK, AttentionContract, normal
from tests.levels import in_part, in_short


@pytest.mark.slow
class TestMosaicTPU(AttentionContract):
    implementation = "mosaic_tpu"
    # Below, from more: longer calls, in several blocks, and more than one choice of statistics.
    test_any_call_often = None

    @pytest.fixture(autouse=True)
    def _interpreted(self, request):
        cases.compiled.cache_clear()
        # A step takes a millisecond here, and in blocks of 128 long shapes have a quarter of a million.
        long = request.node.name.startswith("test_shape_long")
        with target.interpreted(Sizes(2048, 2048, 1024, 512) if long else None):
            yield
        cases.compiled.cache_clear()

    # Minutes each: interpreted, a block takes as long as a thousand of another implementation's.
    @pytest.mark.long
    @pytest.mark.parametrize("name", SLOW)
    def test_shape_slow(self, name, rng):
        super().test_shape_slow(name, rng)

    @pytest.mark.long
    @pytest.mark.parametrize("name", LONG)
    def test_shape_long(self, name, rng):
        super().test_shape_long(name, rng)

    @pytest.mark.parametrize("name", in_short(QUICK, ("odd_7", "gqa")))
    def test_shape(self, name, rng):
        super().test_shape(name, rng)

    @pytest.mark.long
    def test_sharded_equals_unsharded(self, rng):
        super().test_sharded_equals_unsharded(rng)

    @pytest.mark.long
    def test_transformations(self, rng):
        super().test_transformations(rng)


@pytest.mark.slow
def test_everything_at_once(rng):
    """The test of the contract that has every feature, and of the quick ones the only one."""
    with target.interpreted():
        TestMosaicTPU().test_everything_at_once(rng)


# What decides how the kernels go about it: nothing, sums by group, what adds up over queries, an output a group.
ASKED = [(), ("lse", "mass", "entropy"), ("group_entropy", "received"), STATISTICS]
# Several chunks in a block, blocks that differ.
SIZES = [Sizes(256, 128, 128, 128), Sizes(256, 256, 256, 128), Sizes(384, 256, 128, 256)]


@pytest.mark.slow
@pytest.mark.long
@hypothesis.settings(max_examples=6, phases=UNSHRUNK)
@hypothesis.given(
    recipe=recipes(longest=400), seed=st.integers(0, 2**32 - 1), asked=st.sampled_from(ASKED),
    dtype=st.sampled_from([np.float32, ml_dtypes.bfloat16]),
)  # fmt: skip
def test_any_call_in_several_blocks_whatever_is_asked(recipe, seed, asked, dtype):
    with target.interpreted():
        cases.check(recipe.build(), "mosaic_tpu", dtype, np.random.default_rng(seed), quick=True, statistics=asked)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "asked"), in_part(SIZES, ASKED[:3], one_of=3))
def test_sizes_of_blocks_and_chunks_change_nothing(sizes, asked, rng):
    """Several chunks in a block, blocks that differ, groups that share blocks, and tokens past the last one."""
    layout = Layout.of(audio=150, bottleneck=9, video=241)
    case = cases.Case(
        {
            "query": normal(rng, 1, 400, 4, 16), "key": normal(rng, 1, 400, 2, 16), "value": normal(rng, 1, 400, 2, 8),
            "bias": normal(rng, 1, 1, 400, 400), "received_weights": normal(rng, 1, 400, 2),
        },
        Mask(layout, layout, sees=[(a, b) for a in layout.names for b in ("bottleneck", a)]),
        dropout=(0.2, 3),
    )  # fmt: skip
    cases.compiled.cache_clear()
    with target.interpreted(sizes):
        cases.check(case, "mosaic_tpu", np.float32, rng, quick=True, statistics=asked)
    cases.compiled.cache_clear()


UNSERVED = {
    "float64": ({"dtype": jnp.float64}, {}, "float32 and bfloat16, not float64"),
    "wide heads": ({"width": 264}, {}, "heads are 264 wide, and it serves up to 256"),
    "many groups": ({"groups": 32}, {}, "32 groups of keys, and it serves up to 31"),
    "a precision": ({}, {"precision": "bfloat16_3x"}, "DEFAULT and HIGHEST"),
}


@pytest.mark.parametrize("what", UNSERVED)
def test_what_is_not_served_is_refused_by_name(what):
    shape, options, message = UNSERVED[what]
    tokens, width = shape.get("groups", 8), shape.get("width", 32)
    layout = Layout(tuple(f"g{n}" for n in range(tokens)), (1,) * tokens)
    mask = Mask(layout, layout) if "groups" in shape else None
    array = np.zeros((1, tokens, 2, width), shape.get("dtype", jnp.float32))
    with target.interpreted(), jax.enable_x64(True), pytest.raises(ValueError, match=message):
        attention(array, array, array, mask=mask, implementation="mosaic_tpu", **options)


def test_without_a_tpu_it_says_how_it_could_run():
    array = np.zeros((1, 8, 2, 32), np.float32)
    with pytest.raises(ValueError, match=r"for TPU and the backend is cpu .*interpreted\(\)"):
        attention(array, array, array, implementation="mosaic_tpu")


def test_small_calls_are_left_to_the_dense_computation(caplog):
    array = np.zeros((1, 8, 2, 32), np.float32)
    with target.interpreted(), caplog.at_level("DEBUG", "kernels.attention"):
        attention(array, array, array)
    assert "not mosaic_tpu: up to 128 tokens are one block" in caplog.text
