"""Interactions against enumeration, closed forms, and early and late fusion of a planted XOR in many dimensions."""

from __future__ import annotations

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.contribution.interaction import additive, emap, emap_gap, interactions, intershap
from avjax.diagnostics.contribution.shapley import shapley
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("local", [False, True])
def test_intershap_of_known_models(local):
    """KA of 1.7: pure interaction 1, additive 0, f = a + v + av at (1, 1) 1/3."""
    for values, expected in (((0, 0, 0, 1), 1), ((0.1, 0.4, 0.5, 0.8), 0), ((0, 1, 1, 3), 1 / 3)):
        assert intershap(np.array(values, float)[:, None], local=local) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(interactions(np.array([0.0, 1, 1, 3])), [[1, 0.5], [0.5, 1]], atol=1e-15)


@hypothesis.given(seeds, st.integers(2, 5))
def test_interactions_are_the_definition(seed, players):
    values = np.random.default_rng(seed).normal(size=(2**players, 3))
    phi = interactions(values)
    for i, j in itertools.permutations(range(players), 2):
        expected, rest = 0, [k for k in range(players) if k not in (i, j)]
        for size in range(players - 1):
            weight = math.factorial(size) * math.factorial(players - size - 2) / (2 * math.factorial(players - 1))
            for chosen in itertools.combinations(rest, size):
                s = sum(1 << k for k in chosen)
                expected += weight * (values[s | 1 << i | 1 << j] - values[s | 1 << i] - values[s | 1 << j] + values[s])
        np.testing.assert_allclose(phi[:, i, j], expected, atol=1e-12)
    np.testing.assert_allclose(phi.sum(axis=2), shapley(values), atol=1e-12)
    np.testing.assert_allclose(phi.sum(axis=(1, 2)), values[-1] - values[0], atol=1e-12)
    for local in (False, True):
        assert 0 <= intershap(values, local=local) <= 1


def test_a_single_player_is_its_own_effect():
    np.testing.assert_allclose(interactions(np.array([1.0, 4.0])), [[3]])


def test_local_sees_effects_that_change_sign():
    """f = av on {+-1}^2 less a constant effect of audio: globally all audio, locally half interaction."""
    product = np.array([1.0, -1, -1, 1])
    values = np.stack([np.zeros(4), np.ones(4), np.zeros(4), 1 + product])
    assert intershap(values, local=False) == pytest.approx(0, abs=1e-12)
    # phi_av = 1/2 av twice; diagonals 1 and 0 less nothing: shapley (1 + av/2, av/2) minus av/2.
    assert intershap(values, local=True) == pytest.approx(1 / 2, abs=1e-12)


def test_a_constant_model_has_no_interaction_share(rng):
    for values in (np.full((4, 5), 0.3), 0.3 + rng.normal(scale=1e-9, size=(4, 5))):
        with pytest.raises(Undefined, match="no coalition"):
            intershap(values, local=True)


@pytest.mark.parametrize(
    ("values", "fitted"),
    [
        ([[1, -1], [-1, 1]], [[0, 0], [0, 0]]),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ([[0, 1], [1, 4]], [[-0.5, 1.5], [1.5, 3.5]]),
    ],
)
def test_emap_of_known_tables(values, fitted):
    """KA of 1.8."""
    np.testing.assert_allclose(additive(np.array(values)), fitted, atol=1e-15)
    np.testing.assert_allclose(emap(np.array(values)[..., None])[:, 0], np.diag(fitted), atol=1e-15)


def test_the_residual_of_the_third_table():
    values = np.array([[0, 1], [1, 4]])
    np.testing.assert_allclose(values - additive(values), [[0.5, -0.5], [-0.5, 0.5]], atol=1e-15)


@hypothesis.given(seeds, st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
def test_the_projection_is_the_nearest_sum(seed, audios, videos, classes):
    """Against least squares over indicators of every audio and every video."""
    values = np.random.default_rng(seed).normal(size=(audios, videos, classes))
    design = np.array([np.append(np.eye(audios)[i], np.eye(videos)[j]) for i in range(audios) for j in range(videos)])
    flat = values.reshape(-1, classes)
    nearest = design @ np.linalg.lstsq(design, flat, rcond=None)[0]
    fitted = additive(values)
    np.testing.assert_allclose(fitted.reshape(-1, classes), nearest, atol=1e-10)
    np.testing.assert_allclose(additive(fitted), fitted, atol=1e-12)
    for axis in (0, 1):
        np.testing.assert_allclose((values - fitted).mean(axis=axis), 0, atol=1e-12)


@hypothesis.given(seeds, st.integers(2, 7))
def test_emap_and_intershap_take_the_same_interaction(seed, count):
    """With the fill that averages over all samples, 2 phi_av of a sample is f - fhat there."""
    f = np.random.default_rng(seed).normal(size=(count, count))
    own = np.arange(count)
    values = np.stack([np.full(count, f.mean()), f.mean(axis=1), f.mean(axis=0), f[own, own]])
    np.testing.assert_allclose(2 * interactions(values)[:, 0, 1], f[own, own] - emap(f[..., None])[:, 0], atol=1e-12)


def planted(rng, count=200, width=50):
    """Two streams in many dimensions and a label that is the XOR of one hyperplane's side in each.

    Every pair of clips is there with all four signs, so that each stream alone says exactly nothing.
    """
    one, two = rng.normal(size=(2, count // 4, width))
    audio, video = np.concatenate([one, one, -one, -one]), np.concatenate([two, -two, two, -two])
    plane, other = rng.normal(size=(2, width)) / np.sqrt(width)
    return audio, video, plane, other, ((audio @ plane > 0) ^ (video @ other > 0)).astype(int)


def measured_both(logits, probability, true):
    """InterSHAP of the predicted class's probability under the marginal fill, and EMAP's gap of accuracy."""
    own = np.arange(len(true))
    said = logits[own, own].argmax(axis=1)
    of_said = probability[..., said]
    values = np.stack(
        [
            of_said.mean(axis=(0, 1)),
            of_said.mean(axis=1)[own, own],
            of_said.mean(axis=0)[own, own],
            of_said[own, own, own],
        ]
    )

    def accuracy(rows):
        """A tie, to rounding, is right half of the time."""
        margin = rows[own, true] - rows[own, 1 - true]
        return float(np.where(np.abs(margin) < 1e-12, 0.5, margin > 0).mean())

    gap = emap_gap(logits, accuracy)
    return [intershap(values, local=local) for local in (False, True)], gap


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_late_fusion_of_xor_in_many_dimensions_scores_zero(rng):
    """KA of 1.7 and 1.8: late fusion 0 on both, early fusion of the same data 1 and 0.5, to rounding."""
    audio, video, plane, other, true = planted(rng)
    # Each tower has features that say its side, and others that are of no use.
    towers = [np.tanh(x @ np.c_[side, rng.normal(size=(50, 6)) / 7]) @ rng.normal(size=(7, 2)) for x, side in
              ((audio, plane), (video, other))]  # fmt: skip
    late = towers[0][:, None] + towers[1][None]
    of_towers = (softmax(towers[0])[:, None] + softmax(towers[1])[None]) / 2
    shares, gap = measured_both(late, of_towers, true)
    np.testing.assert_allclose(shares, 0, atol=1e-12)
    assert gap == 0

    product = np.tanh(20 * audio @ plane)[:, None] * np.tanh(20 * video @ other)[None]
    early = np.stack([5 * product, -5 * product], axis=-1)
    shares, gap = measured_both(early, softmax(early), true)
    np.testing.assert_allclose(shares, 1, atol=1e-12)
    assert gap == 0.5
