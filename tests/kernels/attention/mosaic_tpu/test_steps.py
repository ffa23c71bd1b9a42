"""The walks over blocks: every score that is seen is in exactly one visited step, and whole steps hide nothing."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import Layout, Mask, attention
from kernels.attention.mosaic_tpu import steps, target
from kernels.attention.mosaic_tpu.steps import FIRST, LAST, MIXED, VISITED, WHOLE, Grid, Words
from kernels.attention.specs import TABLE
from tests.kernels.attention import dense
from tests.kernels.attention.cases import recipes

SIZES = (8, 16)


def walked(walk: steps.Walk) -> list[dict[str, int]]:
    """Every step of a walk, in order, as plain numbers."""
    at = {name: np.asarray(array) for name, array in walk.scalars.items()}
    places = np.ndindex(*walk.grid)
    return [{name: int(value) for name, value in walk.locate(place, at).items()} for place in places]


def check(walk: steps.Walk, grid: Grid, seen: np.ndarray, heads: int, *, over_queries: bool, kept: tuple) -> None:
    """Of every sample and head, what is seen is visited once; whole steps hide nothing; blocks begin and end once."""
    batch, queries, keys = seen.shape
    rows, columns = grid.rows, grid.columns
    visited = np.zeros((batch, heads, grid.row_blocks * rows, grid.column_blocks * columns), int)
    groups = np.repeat(np.arange(len(grid.key_ranges)), [end - begin for begin, end in grid.key_ranges])
    groups = np.pad(groups, (0, visited.shape[3] - keys), constant_values=-5)
    padded = np.zeros((batch, *visited.shape[2:]), bool)
    padded[:, :queries, :keys] = seen
    if not over_queries:
        padded[:, queries:] = padded[:, queries:] | (np.arange(visited.shape[3]) < keys)
    open_block, done = None, set()
    for at in walked(walk):
        names = zip(("sample", "head", "column", "row"), kept, strict=True)
        block = tuple(at[name if there is True else there] for name, there in names if there)
        if at["flags"] & FIRST:
            assert open_block is None
            assert block not in done
            open_block = block
        assert block == open_block
        if at["flags"] & LAST:
            done.add(block)
            open_block = None
        if not at["flags"] & VISITED:
            assert not at["flags"] & WHOLE
            continue
        here = (
            slice(at["row"] * rows, (at["row"] + 1) * rows),
            slice(at["column"] * columns, (at["column"] + 1) * columns),
        )
        member = np.ones(columns, bool)
        if grid.split:
            member = groups[here[1]] == at["group"]
        elif at["group"] != MIXED:
            assert set(groups[here[1]]) <= {at["group"], -5}
        visited[at["sample"], at["head"]][here] += member[None, :]
        if at["flags"] & WHOLE:
            real = (
                padded[at["sample"]][here]
                if over_queries
                else padded[at["sample"]][here][: max(0, queries - here[0].start)]
            )
            assert real.all()
    assert open_block is None
    assert (
        visited[:, :, :queries, :keys][np.broadcast_to(seen[:, None], visited[:, :, :queries, :keys].shape)] == 1
    ).all()
    assert visited.max(initial=0) <= 1


@pytest.mark.slow
@hypothesis.settings(max_examples=5)
@hypothesis.given(recipe=recipes(longest=60), split=st.booleans(), kept=st.tuples(*[st.booleans()] * 4))
def test_every_score_that_is_seen_is_visited_once(recipe, split, kept):
    case = recipe.build()
    batch, queries, heads, _ = case.arrays["query"].shape
    keys, shared = case.arrays["key"].shape[1:3]
    mask = case.mask or Mask(Layout.of(all=queries), Layout.of(all=keys))
    mask = jax.tree.map(jnp.asarray, mask)
    seen = dense.visible(mask, batch)
    grid = Grid.of(mask, *SIZES, split=split)
    sizes = (batch, heads, shared)
    rows = Words.of(grid, mask, over_queries=False)
    check(
        steps.by_rows(grid, rows, *sizes, mixed_is_whole=True), grid, seen, heads,
        over_queries=False, kept=(True, True, False, True),
    )  # fmt: skip
    both = Words.of(grid, mask, over_queries=True)
    check(
        steps.by_columns(grid, both, *sizes, mixed_is_whole=True, each_head=True), grid, seen, heads,
        over_queries=True, kept=(True, True, True, False),
    )  # fmt: skip
    # Heads that share keys come one after the other while a block of keys is kept.
    walk = steps.by_columns(grid, both, *sizes, mixed_is_whole=True)
    check(walk, grid, seen, heads, over_queries=True, kept=(True, "shared", True, False))
    check(
        steps.by_blocks(grid, both, *sizes, kept, mixed_is_whole=False), grid, seen, heads,
        over_queries=True, kept=kept,
    )  # fmt: skip


def test_an_absent_modality_is_passed_over_and_not_loaded():
    """Half of the samples have no video: steps over it are not visited, and name a block that is there already."""
    layout = Layout.of(audio=256, video=768)
    there = np.array([[True, True], [True, False]])
    mask = Mask(layout, layout, presence=jnp.asarray(there))
    grid = Grid.of(mask, 128, 128)
    walk = steps.by_rows(grid, Words.of(grid, mask, over_queries=False), 2, 1, 1, mixed_is_whole=True)
    first, second = (np.asarray(walk.scalars[name]).reshape(2, 8, 8) for name in ("flags", "column"))
    visited = (first & VISITED) != 0
    assert visited[0].all()
    assert visited[1].sum() == 2 * 2
    # Past the two blocks of audio the second sample stays at the last block that it loaded.
    np.testing.assert_array_equal(second[1, 0], [0, 1, 1, 1, 1, 1, 1, 1])


def test_modalities_that_do_not_see_each_other_are_no_steps():
    layout = Layout.of(audio=256, video=384)
    mask = Mask(layout, layout, sees=[("audio", "audio"), ("video", "video")])
    grid = Grid.of(mask, 128, 128)
    assert len(grid.steps) == 2 * 2 + 3 * 3
    assert len(grid.column_steps(3)) == 3 * 13


def launches(jaxpr) -> list[str]:
    """The kernels in a program, and what fills arrays up or puts them together beside them."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "pallas_call":
            found.append(name)
            continue
        if name in ("pad", "concatenate") and np.prod(equation.outvars[0].aval.shape) > 4096:
            found.append(name)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += launches(inner)
    return found


@pytest.mark.parametrize("statistics", [(), ("lse", "mass", "entropy")])
def test_a_bottleneck_layer_is_one_launch_and_no_copy_of_it_is_filled_up(statistics):
    spec = TABLE["mbt_audioset"]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in spec.shapes(2).values()]

    def call(*arrays):
        return attention(*arrays, mask=spec.mask(), statistics=statistics, implementation="mosaic_tpu")

    with target.interpreted():
        found = launches(jax.make_jaxpr(call)(*arrays).jaxpr)
    assert found == ["pallas_call"]
