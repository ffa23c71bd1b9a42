"""The grid of radii, synergy, the matched budget and the guards, of models whose answers are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress.attacks.adversary import Adversary, Attacked
from avjax.diagnostics.stress.attacks.frontier import (
    Frontier,
    Once,
    clean_guard,
    frontier,
    lines,
    masking_guard,
    matched,
    radius_guard,
    steps_guard,
    unbounded_guard,
)
from avjax.diagnostics.stress.attacks.gradient import fgsm
from tests.diagnostics.stress.attacks.linear import Linear

NONE = np.array([], int)


@dataclasses.dataclass(frozen=True)
class Result:
    right: np.ndarray


def withstands(needs):
    """Rows fall where needs(eps_a, eps_v) says so."""
    return lambda budget: Result(~needs(*(np.asarray(budget.get(name, 0)) for name in ("audio", "video"))))


ROWS = np.arange(10)
LEVELS = {"audio": [0.0, 4.0, 8.0], "video": [0.0, 4.0, 8.0]}


def test_either_is_enough():
    """Rows that fall to each alone: a joint attack adds nothing, synergy is minus what both break."""
    found = frontier(withstands(lambda a, v: (a > ROWS) | (v > ROWS)), LEVELS)
    assert found.modalities == ("audio", "video")
    assert found.accuracy() == pytest.approx(np.array([[1, 0.6, 0.2], [0.6, 0.6, 0.2], [0.2, 0.2, 0.2]]))
    expected = [[0, 0, 0], [0, -0.4, -0.4], [0, -0.4, -0.8]]
    assert found.synergy() == pytest.approx(np.array(expected))


def test_both_are_needed():
    """Rows that fall where both are attacked and to neither alone: all that a joint attack breaks is synergy."""
    found = frontier(withstands(lambda a, v: np.minimum(a, v) > ROWS), LEVELS)
    assert found.synergy() == pytest.approx(np.array([[0, 0, 0], [0, 0.4, 0.4], [0, 0.4, 0.8]]))
    assert found.synergy(np.array([0, 9]))[1, 1] == 0.5
    assert found.accuracy(np.array([0]))[1, 1] == 0
    with pytest.raises(Undefined, match="no rows"):
        found.accuracy(NONE)


def test_parts_that_add_up():
    """Disjoint rows fall to each: no synergy."""
    found = frontier(withstands(lambda a, v: ((a > 0) & (ROWS < 3)) | ((v > 0) & (ROWS >= 7))), LEVELS)
    assert found.synergy() == pytest.approx(np.zeros((3, 3)), abs=1e-12)


def test_linear_frontier(rng):
    """acc(eps_a, eps_v) = share with |margin| > eps_a ||w_a||_1 + eps_v ||w_v||_1: FGSM is exact with two classes."""
    linear = Linear.draw(rng, rows=30, classes=2)
    levels = {"audio": [0.0, 0.02, 0.05], "video": [0.0, 0.01, 0.04]}
    adversary = Adversary(linear.model, (fgsm(),), batch=16)
    calls = []

    def attempt(budget):
        calls.append(budget)
        return adversary(linear.clean, linear.label, budget, np.arange(30), {})

    found = frontier(attempt, levels)
    z = linear.logits()
    margin = np.abs(z[:, 0] - z[:, 1])
    norm = {name: np.abs(w[0] - w[1]).sum() for name, w in linear.weight.items()}
    need = [[a * norm["audio"] + v * norm["video"] for v in levels["video"]] for a in levels["audio"]]
    clear = np.abs(margin - np.array(need)[..., None]) > 1e-4
    assert (found.right == (margin > np.array(need)[..., None]))[clear].all()
    assert clean_guard(found, np.ones(30, bool)).holds
    assert radius_guard(found).holds

    pair = matched(attempt, {"audio": 0.04, "video": 0.02})
    assert calls[-1] == {"audio": 0.02, "video": 0.01}
    assert calls[-3:-1] == [{"audio": 0.04}, {"video": 0.02}]
    # Half of both lies between: the sum of the halves of two needs is at most the larger need.
    assert pair.halves.mean() >= min(pair.first.mean(), pair.second.mean())
    assert pair.advantage() <= 0


def test_levels_begin_with_no_change():
    with pytest.raises(ValueError, match="first level"):
        frontier(withstands(lambda a, v: a > ROWS), {"audio": [0.0, 1.0], "video": [1.0, 2.0]})


def test_guards_hold_and_break():
    right = np.ones((2, 2, 10), bool)
    right[1, 0, :4] = right[0, 1, :3] = right[1, 1, :6] = False
    found = Frontier(("audio", "video"), right)
    assert radius_guard(found).holds
    assert clean_guard(found, np.ones(10, bool)).holds
    assert not clean_guard(found, ROWS > 0).holds
    assert clean_guard(found, ROWS > 0).excess == 0.1
    right[1, 1] = ROWS > 1
    broken = radius_guard(found)
    assert not broken.holds
    assert broken.excess == pytest.approx(0.2)
    assert radius_guard(found, tolerance=0.25).holds

    fewer, more = ROWS > 4, ROWS > 2
    assert steps_guard([more, fewer, fewer]).holds
    assert steps_guard([fewer, more]).excess == pytest.approx(0.2)
    assert masking_guard(fewer, more).holds
    assert not masking_guard(more, fewer, name="transfer").holds
    assert "transfer" in masking_guard(more, fewer, name="transfer").name
    assert unbounded_guard(np.zeros(10, bool)).holds
    assert unbounded_guard(fewer[:0]).holds
    assert not unbounded_guard(ROWS == 3, tolerance=0.05).holds
    assert unbounded_guard(ROWS == 3).excess == 0.1


def test_lines_of_the_report():
    found = frontier(withstands(lambda a, v: np.minimum(a, v) > ROWS), {"audio": [0.0, 4.0], "video": [0.0, 4.0]})
    source = [f"clip{row}" for row in ROWS]
    made = lines(found, {"audio": ["0", "20 dB"], "video": ["0", "4/255"]}, source, attack="PGD-20", seed=3)
    assert [(one.id, one.condition.corruption, one.value) for one in made] == [
        ("stress/adversarial_accuracy", "video 4/255", 1.0),
        ("stress/adversarial_accuracy", "audio 20 dB", 1.0),
        ("stress/adversarial_accuracy", "audio 20 dB, video 4/255", 0.6),
        ("stress/attack_synergy", "audio 20 dB, video 4/255", pytest.approx(0.4)),
    ]
    assert all(one.estimator == "PGD-20" and one.condition.seed == 3 and one.ci_lo is not None for one in made)
    assert [one.group for one in made] == ["video", "audio", "audio+video", "audio+video"]


def test_no_budget_is_attacked_twice():
    calls = []

    def attempt(budget):
        calls.append(budget)
        return Attacked({}, np.ones(2, bool), np.ones(2), np.ones(2, int), ("", ""))

    once, radius = Once(attempt), np.array([0.5, 0.25])
    # No change of a modality is the same as no word of it.
    for budget in ({"audio": radius}, {"audio": radius.copy(), "video": 0.0}, {"video": 0.5, "audio": radius},
                   {"audio": radius, "video": 0.5}, {"audio": 2 * radius}, {"audio": 0.0}, {}):  # fmt: skip
        once(budget)
    assert [sorted(budget) for budget in calls] == [["audio"], ["audio", "video"], ["audio"], ["audio"]]
