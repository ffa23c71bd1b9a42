"""SHAPE, ablations, the perceptual score and valuation: known tables, planted models, permutations counted."""

from __future__ import annotations

import collections
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.consistency.agreement import any_confusion, modality_confusion
from avjax.diagnostics.contribution.performance import (
    across_classes,
    cooperation,
    denominator,
    derangement,
    majority,
    necessity,
    perceptual_differences,
    perceptual_score,
    shape,
    subsets,
    sufficiency,
    utilisation_gap,
    valuation,
    within_class,
)
from avjax.diagnostics.measured import Undefined
from avjax.training.metrics import macro_f1

seeds = st.integers(0, 2**32 - 1)
BOTH = ("audio", "video")


def table(*values, modalities=BOTH):
    return dict(zip(subsets(modalities), values, strict=True))


@pytest.mark.parametrize(
    ("values", "phi", "c"),
    [
        ((0.5, 0.5, 0.5, 1.0), (0.25, 0.25), 0.5),
        ((0.1, 0.8, 0.1, 0.8), (0.7, 0.0), 0.0),
        ((0.1, 0.8, 0.8, 0.8), (0.35, 0.35), -0.7),
        ((0.1, 0.4, 0.5, 0.8), (0.3, 0.4), 0.0),
    ],
    ids=["XOR", "audio only", "redundant", "additive"],
)
def test_shape_of_known_tables(values, phi, c):
    """KA of 1.6."""
    found = shape(table(*values), BOTH)
    assert list(found.values()) == pytest.approx(phi, abs=1e-12)
    assert sum(found.values()) == pytest.approx(values[3] - values[0], abs=1e-12)
    assert cooperation(table(*values), BOTH) == pytest.approx(c, abs=1e-12)


@hypothesis.given(seeds)
def test_shape_of_two_and_three(seed):
    rng = np.random.default_rng(seed)
    v = table(*rng.random(4))
    none, a, b, both = v.values()
    assert shape(v, BOTH)["audio"] == pytest.approx(((a - none) + (both - b)) / 2, abs=1e-12)
    # The caller's order of modalities changes nothing but the order.
    swapped = shape(v, BOTH[::-1])
    assert tuple(swapped) == BOTH[::-1]
    assert swapped == pytest.approx(shape(v, BOTH), abs=1e-12)
    three = ("audio", "video", "text")
    v = table(*rng.random(8), modalities=three)
    orders = list(itertools.permutations(three))
    for name, value in shape(v, three).items():
        gains = [
            v[frozenset(order[: order.index(name) + 1])] - v[frozenset(order[: order.index(name)])] for order in orders
        ]
        assert value == pytest.approx(np.mean(gains), abs=1e-12)
    gain = v[frozenset(three)] - v[frozenset()]
    assert cooperation(v, three) == pytest.approx(gain - sum(sufficiency(v, three).values()), abs=1e-12)
    assert necessity(v, three)["text"] == v[frozenset(three)] - v[frozenset(BOTH)]


def test_what_shape_is_divided_by():
    v = table(0.1, 0.8, 0.1, 0.8)
    assert [denominator(v, BOTH, norm) for norm in ("none", "range", "acc")] == pytest.approx([1, 0.7, 0.8])
    with pytest.raises(Undefined, match="performance to share"):
        denominator(table(0.5, 0.5, 0.5, 0.505), BOTH, "range")


def test_majority():
    true = np.array([0, 2, 2, 2, 1])
    assert majority(true, 4) == pytest.approx(0.6)
    assert majority(true, 4, macro_f1) == pytest.approx(2 * 0.6 / 1.6 / 3)
    with pytest.raises(Undefined):
        majority(np.zeros(0, int), 2)


def test_confusion_of_modalities(rng):
    """KA of 1.10: mu = 0 of a perfect model; of one that is its audio model mu_A = 0, mu_V = 100 P(v right, a not)."""
    audio, video = rng.random((2, 300)) < 0.5
    single = {"audio": audio, "video": video}
    assert modality_confusion(single, np.ones(300, bool)) == {"audio": 0, "video": 0}
    found = modality_confusion(single, audio)
    assert found == {"audio": 0, "video": pytest.approx(100 * np.mean(video & ~audio))}
    assert any_confusion(single, audio) == found["video"]


def test_under_used_modalities():
    gaps = utilisation_gap({"audio": 0.7, "video": 0.5}, {"audio": 0.7, "video": 0.2})
    assert gaps == pytest.approx({"audio": 0.0, "video": 0.3})


def test_derangements_are_uniform(rng):
    """Of four rows there are nine; each is as frequent as any other."""
    draws = 4500
    counts = collections.Counter(tuple(derangement(4, rng)) for _ in range(draws))
    assert len(counts) == 9
    assert all(order[i] != i for order in counts for i in range(4))
    # Six binomial standard deviations: less than one run in ten million, for nine numbers.
    assert np.abs(np.array(list(counts.values())) - draws / 9).max() < 6 * np.sqrt(draws / 9 * 8 / 9)
    with pytest.raises(Undefined, match="single row"):
        derangement(1, rng)


@hypothesis.given(seeds, st.lists(st.integers(2, 6), min_size=1, max_size=5))
def test_partners_within_and_across_classes(seed, counts):
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.repeat(np.arange(len(counts)) + 3, counts))
    order, rows = within_class(true, rng), np.arange(len(true))
    assert sorted(order) == rows.tolist()
    assert (order != rows).all()
    assert (true[order] == true).all()
    if 2 * max(counts) > len(true):
        with pytest.raises(Undefined, match="more than half"):
            across_classes(true, rng)
        return
    order = across_classes(true, rng)
    assert sorted(order) == rows.tolist()
    assert (true[order] != true).all()


def test_a_class_with_one_row_has_no_partner(rng):
    with pytest.raises(Undefined, match="class 1"):
        within_class(np.array([0, 0, 1]), rng)
    with pytest.raises(Undefined):
        across_classes(np.zeros(0, int), rng)


def test_an_ignored_modality_has_no_perceptual_score(rng):
    """KA: f ignores audio: P_a = 0."""
    true, video = rng.integers(0, 3, (2, 40))
    orders = [derangement(40, rng) for _ in range(5)]
    right = video == true
    assert perceptual_score(right, np.stack([right for _ in orders]), z=right.mean() + 0.1) == 0
    moved = np.stack([video[order] == true for order in orders])
    difference = perceptual_differences(right, moved)
    assert perceptual_score(right, moved, z=0.5) == pytest.approx(difference.mean() / 0.5)
    np.testing.assert_allclose(difference, right - np.mean(moved, axis=0))


@pytest.mark.parametrize("count", [8, 400])
def test_balanced_xor_has_half(count):
    """KA: a perfect model of balanced XOR: permuting either leaves accuracy 0.5, so P_a = P_v = 0.5 / Z.

    Exactly so over all permutations; over derangements, where a row never gets itself, (n / 2 - 1) / (n - 1).
    """
    audio, video = np.tile([0, 0, 1, 1], count // 4), np.tile([0, 1, 0, 1], count // 4)
    true, right = audio ^ video, np.ones(count, bool)
    # Every row gets every other row once among the shifts, as it does in equal shares among all permutations.
    shifts = [np.roll(np.arange(count), k) for k in range(count)]
    for moved in (
        np.stack([(audio[order] ^ video) == true for order in shifts]),
        np.stack([(audio ^ video[order]) == true for order in shifts]),
    ):
        assert perceptual_score(right, moved, z=1.0) == pytest.approx(0.5, abs=1e-12)
        assert perceptual_score(right, moved, z=1 - majority(true, 2)) == pytest.approx(1.0, abs=1e-12)
        deranged = perceptual_score(right, moved[1:], z=1.0)
        assert deranged == pytest.approx(1 - (count / 2 - 1) / (count - 1), abs=1e-12)


def test_a_modality_that_says_the_class_changes_nothing_within_it(rng):
    true = np.repeat([0, 1], 10)
    right = np.ones(20, bool)
    inside, outside = within_class(true, rng), across_classes(true, rng)
    assert perceptual_score(right, (true[inside] == true)[None], z=1.0) == 0
    assert perceptual_score(right, (true[outside] == true)[None], z=1.0) == 1
    with pytest.raises(Undefined, match="Z"):
        perceptual_score(right, right[None], z=0.0)
    with pytest.raises(Undefined, match="no rows"):
        perceptual_score(np.zeros(0, bool), np.zeros((2, 0), bool), z=1.0)


def test_valuation_of_all_cases():
    """KA of 1.13: (a right, v right, both right) -> (phi_a, phi_v)."""
    known = {
        (0, 0, 0): (0, 0), (0, 0, 1): (1, 1), (0, 1, 0): (-0.5, 0.5), (0, 1, 1): (0.5, 1.5),
        (1, 0, 0): (0.5, -0.5), (1, 0, 1): (1.5, 0.5), (1, 1, 0): (0, 0), (1, 1, 1): (1, 1),
    }  # fmt: skip
    rows = np.array(list(known), bool).T
    for none in (False, True):
        right = np.concatenate([np.full((1, 8), none), rows])
        np.testing.assert_allclose(valuation(right), list(known.values()), atol=1e-15)


@hypothesis.given(seeds, st.integers(1, 4), st.integers(1, 8))
def test_valuation_is_efficient(seed, modalities, count):
    right = np.random.default_rng(seed).random((2**modalities, count)) < 0.5
    np.testing.assert_allclose(valuation(right).sum(axis=1), modalities * right[-1], atol=1e-12)
