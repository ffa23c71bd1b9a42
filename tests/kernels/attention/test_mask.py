"""Masks: what the static half becomes, and what is refused. What is hidden stays hidden: that is in the contract."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import Layout, Mask
from kernels.attention.mask import pairs
from kernels.attention.specs import TABLE
from tests.kernels.attention import dense


def test_layout_ranges():
    layout = Layout.of(audio=5, bottleneck=0, video=3)
    assert layout == Layout(("audio", "bottleneck", "video"), (5, 0, 3))
    assert hash(layout) == hash(Layout(("audio", "bottleneck", "video"), (5, 0, 3)))
    assert layout.length == 8
    assert layout.ranges == ((0, 5), (5, 5), (5, 8))


def test_bottleneck_fusion_is_two_pairs():
    first, second = pairs(TABLE["mbt_audioset"].mask())
    assert (first.queries, first.keys) == ((0, 405), ((0, 405),))
    assert (second.queries, second.keys) == ((405, 1978), ((405, 1978),))
    assert first.groups == ((0, 401), (401, 405), (0, 0), (0, 0))
    assert second.groups == ((0, 0), (0, 0), (0, 4), (4, 1573))
    assert first.band is None
    assert not first.gaps


def test_everyone_to_everyone_is_one_pair():
    layout = Layout.of(audio=5, video=3)
    (pair,) = pairs(Mask(layout, layout))
    assert (pair.queries, pair.keys, pair.groups) == ((0, 8), ((0, 8),), ((0, 5), (5, 8)))


def test_separate_keys_stay_separate_ranges():
    layout = Layout.of(a=2, b=3, c=4)
    first, second = pairs(Mask(layout, layout, sees=[("a", "a"), ("a", "c"), ("c", "b")]))
    assert (first.queries, first.keys, first.groups) == ((0, 2), ((0, 2), (5, 9)), ((0, 2), (0, 0), (2, 6)))
    np.testing.assert_array_equal(first.columns, [0, 1, 5, 6, 7, 8])
    assert (second.queries, second.keys) == ((5, 9), ((2, 5),))


def test_position_trims_keys_and_finds_gaps():
    queries, keys = Layout.of(a=4, b=4), Layout.of(c=6, d=10)
    (pair,) = pairs(Mask(queries, keys, causal=True))
    assert (pair.keys, pair.band, pair.gaps) == (((0, 8),), (None, 0), False)
    (pair,) = pairs(Mask(queries, keys, sees=[("b", "d")], causal=True))
    assert (pair.queries, pair.keys, pair.gaps) == ((4, 8), ((6, 8),), True)
    assert pairs(Mask(queries, keys, sees=[("a", "d")], causal=True)) == ()
    (pair,) = pairs(Mask(queries, keys, window=(2, 20)))
    assert (pair.keys, pair.band, pair.gaps) == (((0, 16),), (2, 20), False)
    (pair,) = pairs(Mask(queries, keys, window=20))
    assert pair.band is None


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    seen=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4))),
    causal=st.booleans(),
    window=st.none() | st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
)
def test_pairs_cover_exactly_what_is_seen(lengths, seen, causal, window):
    layout = Layout(tuple("abcde"[: len(lengths)]), tuple(lengths))
    sees = tuple(("abcde"[q], "abcde"[k]) for q, k in seen if max(q, k) < len(lengths))
    mask = Mask(layout, layout, sees=sees, causal=causal, window=window)
    expected = dense.visible(mask, 1)[0]
    covered = np.zeros_like(expected)
    reached = 0
    for pair in pairs(mask):
        rows = slice(*pair.queries)
        assert reached <= pair.queries[0] < pair.queries[1]
        reached = pair.queries[1]
        assert not covered[rows].any()
        covered[rows, pair.columns] = True
        inside = expected[rows][:, pair.columns]
        assert inside.any()
        assert pair.band is not None or inside.all()
        assert pair.gaps == (not inside.any(-1).all())
        # The groups partition the columns.
        for (begin, end), (first, last) in zip(pair.groups, layout.ranges, strict=True):
            here = pair.columns[begin:end]
            assert np.all((first <= here) & (here < last))
        assert sum(end - begin for begin, end in pair.groups) == len(pair.columns)
    assert np.all(covered >= expected)


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    queries=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    keys=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    seen=st.none() | st.sets(st.tuples(st.sampled_from("abcd"), st.sampled_from("cdef"))),
    whole=st.sets(st.sampled_from("abcdef")),
    given=st.sets(st.sampled_from(["presence", "query_valid", "key_valid"])),
    seed=st.integers(0, 1000),
)
def test_groups_in_parts_see_what_they_saw(queries, keys, seen, whole, given, seed):
    rng = np.random.default_rng(seed)
    shapes = {"presence": 4, "query_valid": sum(queries), "key_valid": sum(keys)}
    dynamic = {name: jnp.asarray(rng.random((3, shapes[name])) < 0.6) for name in sorted(given)}
    mask = Mask(Layout(tuple("abcd"), tuple(queries)), Layout(tuple("cdef"), tuple(keys)), sees=seen, **dynamic)
    # Of the length that a name has among the keys, if it is there: groups of queries of another stay whole.
    lengths = dict(zip("abcdcdef", (*queries, *keys), strict=True))
    parts = {name: Layout((name, f"last_{name}"), (n - 1, 1)) for name, n in lengths.items() if name not in whole}
    divided = mask.divided(parts)
    divided.check(3, sum(queries), sum(keys))
    np.testing.assert_array_equal(dense.visible(divided, 3), dense.visible(mask, 3))
    for before, after in ((mask.queries, divided.queries), (mask.keys, divided.keys)):
        names = [(name, f"last_{name}") if name in parts and parts[name].length == n else (name,)
                 for name, n in zip(before.names, before.lengths, strict=True)]  # fmt: skip
        assert after.names == tuple(itertools.chain(*names))
        assert after.length == before.length


def test_a_part_cannot_have_the_name_of_another_group():
    with pytest.raises(ValueError, match="must differ"):
        Mask(LAYOUT, LAYOUT).divided({"audio": Layout.of(audio=1, video=1)})


def test_mask_is_a_pytree_with_a_static_half():
    layout = Layout.of(audio=2, video=2)
    mask = Mask(layout, layout, sees=[("audio", "video"), ("audio", "audio")], key_valid=jnp.ones((1, 4), bool))
    assert [leaf.shape for leaf in jax.tree.leaves(mask)] == [(1, 4)]
    traces = []

    @jax.jit
    def count(mask):
        traces.append(mask.sees)
        return mask.key_valid.sum()

    # The order in which pairs are named makes no new function; another visibility does.
    same = mask.replace(sees=(("audio", "audio"), ("audio", "video")), key_valid=jnp.zeros((1, 4), bool))
    assert (int(count(mask)), int(count(same)), len(traces)) == (4, 0, 1)
    count(mask.replace(sees=None))
    assert len(traces) == 2


LAYOUT = Layout.of(audio=2, video=3)
FLAGS, NUMBERS = np.ones((2, 5), bool), np.ones((2, 5), int)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout(("a", "b"), (1,)), "2 names .* for 1 lengths"),
        (lambda: Layout((), ()), "0 names"),
        (lambda: Layout(("a", "a"), (1, 2)), "must differ"),
        (lambda: Layout.of(a=-1), "0 or more tokens"),
        (lambda: Mask(LAYOUT, LAYOUT, sees=[("audio", "text")]), r"no pair \('audio', 'text'\).*key groups are"),
        (lambda: Mask(LAYOUT, LAYOUT, window=(1, 2, 3)), "Mask.window"),
        (lambda: Mask(LAYOUT, LAYOUT, window=-1), "Mask.window"),
        (lambda: Mask(LAYOUT, LAYOUT).check(2, 6, 5), r"Mask.queries: .* make 5 tokens, but the arrays have 6"),
        (lambda: Mask(LAYOUT, LAYOUT, key_valid=FLAGS[:, :4]).check(2, 5, 5), r"key_valid: needs bool \[2, 5\]"),
        (lambda: Mask(LAYOUT, LAYOUT, query_valid=np.ones((2, 5))).check(2, 5, 5), r"got float64 \[2, 5\]"),
        (lambda: Mask(LAYOUT, LAYOUT, presence=FLAGS).check(2, 5, 5), r"presence: needs bool \[2, 2\]"),
        (lambda: Mask(LAYOUT, LAYOUT, segments=NUMBERS).check(2, 5, 5), "needs a tuple"),
        (lambda: Mask(LAYOUT, LAYOUT, segments=(NUMBERS, NUMBERS)).check(3, 5, 5), r"segments of queries.*\[3, 5\]"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
