"""Fairness between groups: known answers, and definitions by loops."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.consistency.calibration import expected_calibration_error
from avjax.diagnostics.consistency.groups import (
    by_group,
    demographic_parity_difference,
    equalised_odds_difference,
    gap,
    rate_by_group,
    rows_by_group,
    worst_group,
)
from avjax.diagnostics.consistency.robustness import retention
from avjax.diagnostics.measured import Undefined, wilson


def test_two_groups_of_unequal_accuracy():
    """KA: accuracy 0.9 and 0.6 -> gap 0.3, worst 0.6."""
    groups = np.repeat(["A", "B"], 50)
    right = np.concatenate([np.arange(50) < 45, np.arange(50) < 30])
    accuracy = by_group(lambda rows: right[rows].mean(), groups)
    assert accuracy == {"A": 0.9, "B": 0.6}
    assert gap(accuracy) == pytest.approx(0.3, abs=1e-15)
    assert worst_group(accuracy) == ("B", 0.6)
    rates = rate_by_group(right, groups)
    assert (rates["B"].value, rates["B"].low, rates["B"].high) == (0.6, *wilson(30, 50))
    assert rates["A"].count == 50


@hypothesis.given(st.integers(2, 5), st.lists(st.integers(30, 45), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
def test_one_confusion_for_every_group(groups, cells, seed):
    """KA: the same confusion matrix in every group -> equalised odds 0, whatever else."""
    true, predicted = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], cells, axis=0).T.astype(bool)
    member = np.repeat([f"group {g}" for g in range(groups)], len(true))
    order = np.random.default_rng(seed).permutation(len(member))
    predicted, true = np.tile(predicted, groups)[order], np.tile(true, groups)[order]
    assert equalised_odds_difference(predicted, true, member[order]) == 0
    assert demographic_parity_difference(predicted, member[order]) == 0


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_odds_and_parity_by_loops(seed, count):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, count, 300)
    true, predicted = rng.random((2, 300)) < 0.5

    def largest(rate):
        return max(abs(rate(g) - rate(h)) for g in range(count) for h in range(count))

    parity = largest(lambda g: predicted[groups == g].mean())
    assert demographic_parity_difference(predicted, groups, smallest=1) == pytest.approx(parity)
    odds = max(largest(lambda g, y=y: predicted[(groups == g) & (true == y)].mean()) for y in (False, True))
    value = equalised_odds_difference(predicted, true, groups, smallest=1)
    assert value == pytest.approx(odds)
    # No meaning is in the names of groups, nor in which class is called positive.
    renamed = np.array(list("abcd"))[groups]
    assert equalised_odds_difference(~predicted, ~true, renamed, smallest=1) == pytest.approx(value)
    assert 0 <= value <= 1


def test_a_perfect_model_has_equal_odds_where_labels_differ():
    groups = np.repeat(["A", "B"], 100)
    true = np.concatenate([np.arange(100) < 60, np.arange(100) < 40])
    assert equalised_odds_difference(true, true, groups) == 0
    assert demographic_parity_difference(true, groups) == pytest.approx(0.2)


def test_small_groups_are_hidden():
    groups = np.repeat(["few", "enough", "many"], [29, 30, 31])
    assert list(rows_by_group(groups)) == ["enough", "many"]
    right = np.concatenate([np.zeros(29, bool), np.ones(61, bool)])
    assert worst_group(by_group(lambda rows: right[rows].mean(), groups)) == ("enough", 1.0)
    assert set(rate_by_group(right, groups)) == {"enough", "many"}
    assert set(rows_by_group(groups, smallest=29)) == {"few", "enough", "many"}
    with pytest.raises(Undefined, match="no group"):
        worst_group(by_group(lambda rows: 1.0, groups, smallest=99))
    with pytest.raises(Undefined, match="a gap needs two"):
        demographic_parity_difference(right, groups, smallest=31)
    # Of "enough", 15 rows have either label: too few for a rate of their own.
    true = np.arange(90) % 2 == 0
    with pytest.raises(Undefined, match=r"label is False: .* a gap needs two"):
        equalised_odds_difference(right, true, groups)


def test_any_number_goes_by_group(rng):
    """Calibration error, retention and contribution share; a group where the number is undefined is left out."""
    groups = np.repeat([3, 1, 2], 40)
    confidence, right = rng.random(120), rng.random(120) < 0.5
    errors = by_group(lambda rows: expected_calibration_error(confidence[rows], right[rows]), groups)
    assert list(errors) == ["1", "2", "3"]
    assert errors["3"] == expected_calibration_error(confidence[:40], right[:40])
    clean = np.concatenate([np.ones(40, bool), np.zeros(40, bool), np.arange(40) < 20])
    damaged = np.concatenate([np.arange(40) < 20, np.ones(40, bool), np.arange(40) < 15])
    kept = by_group(lambda rows: retention(float(clean[rows].mean()), float(damaged[rows].mean())), groups)
    assert kept == {"2": 0.75, "3": 0.5}
    assert gap(kept) == 0.25
    share = np.repeat([0.7, 0.5, 0.6], 40)
    assert gap(by_group(lambda rows: share[rows].mean(), groups)) == pytest.approx(0.2)
