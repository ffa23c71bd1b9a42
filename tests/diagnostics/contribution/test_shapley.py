"""Shapley values: axioms, closed forms, all permutations, and what sampling adds."""

from __future__ import annotations

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.contribution.shapley import coalitions, exact, marginals, players_of, sampled, shapley
from avjax.diagnostics.contribution.shares import group_sums, magnitude_share
from avjax.diagnostics.measured import Undefined

seeds, sizes = st.integers(0, 2**32 - 1), st.integers(1, 6)
NAMES = ("audio", "video")


def game(table):
    """The value function of a table of all coalitions."""
    bits = 1 << np.arange(players_of(table))
    return lambda kept: table[kept @ bits]


def linear(weights):
    """One sample, whose value is the sum of the weights present."""
    return lambda kept: (kept @ np.asarray(weights, np.float64))[:, None]


def test_signed_players():
    """KA: f = 2 a1 - a2 + 3 v1: phi = (2, -1, 3), A-SHAP = 0.5."""
    groups = ("audio", "audio", "video")
    phi = exact(linear([2, -1, 3]), 3)
    np.testing.assert_allclose(phi, [[2, -1, 3]], atol=1e-14)
    np.testing.assert_allclose(magnitude_share(phi, groups, NAMES), [[0.5, 0.5]], atol=1e-14)
    found = sampled(linear([2, -1, 3]), groups, NAMES, seed=0)
    np.testing.assert_allclose(found.values, phi, atol=1e-14)
    np.testing.assert_allclose(found.share, [[0.5, 0.5]], atol=1e-14)
    assert found.converged
    assert found.permutations == 32


def test_players_that_cancel():
    """KA: f = 2 a1 - 2 a2 + 4 v1: share 0.5, though the net effect of audio is 0."""
    found = sampled(linear([2, -2, 4]), ("audio", "audio", "video"), NAMES, seed=1)
    np.testing.assert_allclose(found.share, [[0.5, 0.5]], atol=1e-14)
    np.testing.assert_allclose(found.net, [[0, 4]], atol=1e-14)
    np.testing.assert_allclose(found.error, 0, atol=1e-14)
    np.testing.assert_allclose(found.share_error, 0, atol=1e-14)


@hypothesis.given(seeds, sizes)
def test_the_definition_by_permutations(seed, players):
    """KA: efficiency; and phi is the mean marginal over all n! orders."""
    table = np.random.default_rng(seed).normal(size=(2**players, 3))
    phi = exact(game(table), players)
    np.testing.assert_allclose(phi.sum(axis=1), table[-1] - table[0], atol=1e-12)
    if players <= 5:
        expected = np.zeros((3, players))
        orders = list(itertools.permutations(range(players)))
        for order in orders:
            before = 0
            for j in order:
                expected[:, j] += (table[before | 1 << j] - table[before]) / len(orders)
                before |= 1 << j
        np.testing.assert_allclose(phi, expected, atol=1e-12)


@hypothesis.given(seeds, st.integers(2, 6))
def test_axioms(seed, players):
    rng = np.random.default_rng(seed)
    table, other = rng.normal(size=(2, 2**players, 2))
    kept = coalitions(players)
    np.testing.assert_allclose(shapley(2 * table - other), 2 * shapley(table) - shapley(other), atol=1e-12)
    # Dummy (KA: exactly 0): the last player changes nothing.
    dummy = np.concatenate([table[: len(table) // 2]] * 2)
    assert (shapley(dummy)[:, -1] == 0).all()
    np.testing.assert_allclose(shapley(dummy)[:, :-1], shapley(dummy[: len(table) // 2]), atol=1e-12)
    # Symmetry: the value depends on how many of players 0 and 1 are there, and on the others.
    number = kept[:, 0].astype(int) + kept[:, 1]
    rest = np.where(kept[:, 2:], 1 << np.arange(players - 2), 0).sum(axis=1)
    alike = table[3 * rest + number] if players > 2 else table[number]
    phi = shapley(alike[: 2**players])
    np.testing.assert_allclose(phi[:, 0], phi[:, 1], atol=1e-12)
    # Renaming the players renames the values.
    order = rng.permutation(players)
    renamed = table[kept[:, order] @ (1 << np.arange(players))]
    np.testing.assert_allclose(shapley(renamed)[:, order], shapley(table), atol=1e-12)


@pytest.mark.parametrize("players", [3, 6])
def test_sampling_is_unbiased(rng, players):
    """Random games against exact values: a pair's mean over all orders, and the mean of many seeds."""
    table = rng.normal(size=(2**players, 2))
    value, expected = game(table), shapley(table)
    orders = np.array(list(itertools.permutations(range(players))))
    each, largest = marginals(value, orders, players)
    np.testing.assert_allclose(each.mean(axis=0), expected, atol=1e-12)
    np.testing.assert_allclose(each.sum(axis=2), np.tile(table[-1] - table[0], (len(orders), 1)), atol=1e-12)
    assert largest == np.abs(table).max()
    groups, draws = ("audio",) * players, 200
    found = np.stack([sampled(value, groups, NAMES, seed=s, permutations=4).values for s in range(draws)])
    np.testing.assert_allclose(found.sum(axis=2), np.tile(table[-1] - table[0], (draws, 1)), atol=1e-12)
    # Six standard errors: less than one run in ten million, for twelve numbers.
    error = found.std(axis=0, ddof=1) / np.sqrt(draws)
    assert (np.abs(found.mean(axis=0) - expected) <= 6 * error + 1e-12).all()


def test_pairs_are_antithetic(rng):
    """Where effects are of single players and of pairs of players, a permutation and its reverse are exact together."""
    players, single, pairs = 7, rng.normal(size=7), rng.normal(size=(7, 7))

    def value(kept):
        x = kept.astype(float)
        return (x @ single + ((x @ pairs) * x).sum(axis=1))[:, None]

    found = sampled(value, ("audio",) * 4 + ("video",) * 3, NAMES, seed=5, permutations=4)
    np.testing.assert_allclose(found.values, exact(value, players), atol=1e-12)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)


def test_split_halves_measure_the_error(rng):
    """Over many seeds the mean square of the split-half error is that of the estimate."""
    table = rng.normal(size=(2**6, 1))
    groups = ("audio",) * 3 + ("video",) * 3
    runs = [sampled(game(table), groups, NAMES, seed=s, permutations=8, most=8) for s in range(400)]
    claimed = np.mean([run.error**2 for run in runs], axis=0)
    real = np.mean([(run.values - shapley(table)) ** 2 for run in runs], axis=0)
    # Each mean square of 400 nearly normal errors has a relative deviation of about sqrt(2 / 400) = 0.07.
    np.testing.assert_allclose(claimed.sum(), real.sum(), rtol=6 * 0.07 * np.sqrt(2))
    assert all(run.permutations == 8 for run in runs)
    np.testing.assert_allclose(runs[0].noise, group_sums(runs[0].error, groups, NAMES) / 3)


def test_permutations_double_until_shares_stand_still(rng):
    table = rng.normal(size=(2**6, 4))
    groups = ("audio",) * 3 + ("video",) * 3
    loose = sampled(game(table), groups, NAMES, seed=2, tolerance=2.0)
    assert loose.converged
    assert loose.permutations == 32
    never = sampled(game(table), groups, NAMES, seed=2, tolerance=0.0, most=128)
    assert not never.converged
    assert never.permutations == 128
    # The halves are of permutations that were drawn in turn: all of them once.
    again = sampled(game(table), groups, NAMES, seed=2, tolerance=0.0, most=64)
    np.testing.assert_allclose(never.first, (again.first + again.second) / 2)
    whole, half = (magnitude_share(x, groups, NAMES).mean(axis=0) for x in (never.values, never.first))
    assert never.change == pytest.approx(np.abs(whole - half).max(), abs=1e-12)


def test_coalitions_cost_what_is_said():
    asked = []

    def value(kept):
        asked.append(len(kept))
        return kept[:, :1].astype(float)

    sampled(value, ("audio",) * 5, NAMES, seed=0, permutations=8)
    assert sum(asked) == 8 * 4 + 2 * 2


def test_dummies_show_what_a_drawing_fill_adds(rng):
    """0 for a value that is the same for the same coalition; the size of the noise for one that draws."""
    groups = ("audio",) * 6 + ("video",) * 2
    weights = np.array([0, 0, 0, 0, 0, 0, 2.0, 2.0])

    def noisy(kept):
        return linear(weights)(kept) + rng.normal(scale=0.5, size=(len(kept), 60))

    still = sampled(linear(weights), groups, NAMES, seed=3, dummies=4)
    np.testing.assert_array_equal(still.floor, [[0, 0]])
    np.testing.assert_allclose(still.corrected_share, still.share)
    np.testing.assert_allclose(still.values, [weights], atol=1e-14)
    found = sampled(noisy, groups, NAMES, seed=3, dummies=4, most=32)
    # Audio has no effect: what it has is noise of many players, most of which the floor takes away.
    assert found.share[:, 0].mean() > 0.08
    assert found.corrected_share[:, 0].mean() < 0.6 * found.share[:, 0].mean()
    audio = np.abs(found.values[:, :6]).mean()
    # Over runs the ratios are within 3 % of 1 and deviate by 0.063 and 0.054: six deviations and what is off.
    assert found.floor[:, 0].mean() == pytest.approx(audio, rel=0.42)
    assert found.noise.mean() == pytest.approx(audio, rel=0.42)
    for each in (found.share, found.corrected_share):
        np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-12)


def test_without_dummies_the_floor_is_the_noise_of_permutations(rng):
    """Players of sound matter in company alone, and have a Shapley value of 0: what they are given is noise."""
    groups = ("audio",) * 6 + ("video",) * 2
    table = rng.normal(size=(2**8, 60))
    wanted = np.array([0.0] * 6 + [2.0] * 2)
    table += coalitions(8) @ (wanted - shapley(table)).T
    np.testing.assert_allclose(shapley(table), np.tile(wanted, (60, 1)), atol=1e-12)
    found = sampled(game(table), groups, NAMES, seed=3, permutations=32, most=32)
    assert found.share[:, 0].mean() > 0.08
    assert found.corrected_share[:, 0].mean() < 0.6 * found.share[:, 0].mean()
    above = np.maximum(np.abs(found.values) - np.repeat(found.noise, (6, 2), axis=1), 0)
    np.testing.assert_allclose(found.corrected, np.stack([above[:, :6].sum(1), above[:, 6:].sum(1)], 1), atol=1e-12)
    # Where permutations have no noise there is nothing to take off.
    exactly = sampled(linear(wanted), groups, NAMES, seed=3)
    np.testing.assert_allclose(exactly.corrected_share, exactly.share)


def test_a_constant_model_has_values_and_no_share():
    """Also where its values differ by what float32 rounds."""
    for wobble in (0, 1e-7):
        found = sampled(
            lambda kept, wobble=wobble: 3 + wobble * kept[:, :1] * np.ones((1, 2)), ("audio", "video"), NAMES, seed=0
        )
        assert found.converged
        np.testing.assert_allclose(found.values, 0, atol=1e-6)
        with pytest.raises(Undefined, match="2 of 2 rows"):
            _ = found.share


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="multiple of 4"):
        sampled(linear([1, 2]), NAMES, NAMES, seed=0, permutations=6)
    with pytest.raises(ValueError, match="not all among"):
        sampled(linear([1, 2]), ("audio", "text"), NAMES, seed=0)
    with pytest.raises(ValueError, match="not those of all"):
        shapley(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="sample above"):
        coalitions(21)
    assert coalitions(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
