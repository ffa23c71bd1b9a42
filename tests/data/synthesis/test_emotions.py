"""Labels, cues and ceilings, against formulas and integrals worked out apart."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from avjax.data.synthesis import emotions
from avjax.data.synthesis.emotions import EMOTIONS, PAIRS, Knobs


def test_every_level_is_shared_by_two_and_every_pair_by_one() -> None:
    assert set(PAIRS) == set(EMOTIONS)
    heard, seen = zip(*PAIRS.values(), strict=True)
    assert sorted(heard) == sorted([*range(4)] * 2)
    assert all(seen.count(name) == 2 for name in emotions.SEEN)
    assert len(set(PAIRS.values())) == 8
    alike = [PAIRS[name] for name in emotions.REDUNDANT]
    assert len({h for h, _ in alike}) == len({s for _, s in alike}) == 4


@pytest.mark.parametrize(("heard", "seen"), [(1.0, 1.0), (0.6, 1.0), (0.7, 0.3), (0.0, 0.0)])
def test_ceilings_follow_informativeness(heard: float, seen: float) -> None:
    knobs = Knobs(heard_informativeness=heard, seen_informativeness=seen, heard_jitter=0.0, seen_jitter=0.0)
    found = emotions.ceilings(knobs)
    # Without jitter: enumerate performed levels, and take the likeliest emotion of each.
    chance = {k: np.full((4, 4), (1 - i) / 4) + i * np.eye(4) for k, i in (("audio", heard), ("video", seen))}
    joint = np.zeros((8, 4, 4))
    for k, name in enumerate(EMOTIONS):
        level, expression = PAIRS[name][0], emotions.SEEN.index(PAIRS[name][1])
        joint[k] = np.outer(chance["audio"][level], chance["video"][expression]) / 8
    expected = {"audio": joint.sum(2).max(0).sum(), "video": joint.sum(1).max(0).sum(), "both": joint.max(0).sum()}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.012), name


def test_ceiling_of_a_jittered_sound_is_the_integral() -> None:
    knobs = Knobs(heard_jitter=0.45)
    grid = np.linspace(-4, 7, 20_001)
    likelihood = np.zeros((4, len(grid)))
    for level, strength in itertools.product(range(4), (0.9, 1.1)):
        likelihood[level] += 0.5 * stats.norm.pdf(grid, 1.5 + (level - 1.5) * strength, 0.45)
    expected = np.trapezoid(likelihood.max(0), grid) / 8  # two emotions a level, each of probability 1/8
    assert emotions.ceilings(knobs)["audio"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("redundancy", [0.0, 0.4, 1.0])
def test_redundancy_lets_either_modality_tell(redundancy: float) -> None:
    found = emotions.ceilings(Knobs(redundancy=redundancy, heard_jitter=0.0, seen_jitter=0.0))
    assert found["audio"] == pytest.approx((1 + redundancy) / 2, abs=0.012)
    assert found["video"] == pytest.approx((1 + redundancy) / 2, abs=0.012)
    assert found["both"] == pytest.approx(1.0, abs=1e-6)


def test_a_missing_modality_costs_its_share() -> None:
    found = emotions.ceilings(Knobs(missing_rate=0.4, heard_jitter=0.0, seen_jitter=0.0))
    assert found["audio"] == pytest.approx(0.8 * 0.5 + 0.2 / 8, abs=1e-6)
    assert found["both"] == pytest.approx(0.6 + 0.4 * 0.5, abs=1e-6)


@pytest.mark.parametrize("interaction", ["congruence", "order"])
def test_with_interaction_neither_alone_tells(interaction: str, rng: np.random.Generator) -> None:
    knobs = Knobs(interaction=interaction)
    found = emotions.ceilings(knobs)
    assert found["audio"] == pytest.approx(0.5, abs=1e-6)
    assert found["video"] == pytest.approx(0.5, abs=1e-6)
    assert found["both"] > 0.99
    labels = emotions.draw_labels(knobs, 20_000, rng)
    cues = emotions.draw_cues(knobs, labels, rng)
    for levels in (cues.heard_level, cues.seen_level):
        for level in range(4):
            own = labels[levels == level]
            assert abs(own.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(own))
    if interaction == "congruence":
        np.testing.assert_array_equal(cues.heard_level == cues.seen_level, labels == 1)


def test_the_observer_does_as_well_as_promised(rng: np.random.Generator) -> None:
    knobs = Knobs(heard_informativeness=0.8, heard_jitter=0.3, seen_jitter=0.7, missing_rate=0.3, redundancy=0.3)
    labels = emotions.draw_labels(knobs, 4000, rng)
    cues = emotions.draw_cues(knobs, labels, rng)
    missing = np.where(rng.random(4000) < 0.3, rng.integers(1, 3, 4000), 0)
    recorded = [
        {"arousal": arousal, **dict(zip(emotions.EXPRESSION, expression, strict=True)), "delay": 0.0}
        for arousal, expression in zip(cues.arousal, cues.expression, strict=True)
    ]
    for clip, lost in zip(recorded, missing, strict=True):
        clip |= {"has_audio": float(lost != 1), "has_video": float(lost != 2)}
    reached, promised = emotions.attained(knobs, labels, recorded), emotions.ceilings(knobs)
    for name, value in promised.items():
        assert abs(reached[name] - value) < 5 * 0.5 / np.sqrt(4000), name


def test_posteriors_are_calibrated(rng: np.random.Generator) -> None:
    knobs = Knobs(heard_jitter=0.5, seen_jitter=0.9)
    labels = emotions.draw_labels(knobs, 8000, rng)
    cues = emotions.draw_cues(knobs, labels, rng)
    for name, found in emotions.posteriors(knobs, cues.arousal, cues.expression).items():
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
        # Of all (clip, class) pairs given about 0.3, about 0.3 are right.
        for low in (0.05, 0.2, 0.4, 0.7):
            inside = (found > low) & (found <= low + 0.2)
            right = inside[np.arange(len(labels)), labels].sum()
            expected = found[inside].sum()
            assert abs(right - expected) < 5 * np.sqrt(expected) + 5, (name, low)


def test_labels_are_even(rng: np.random.Generator) -> None:
    knobs = Knobs()
    labels = np.concatenate([emotions.draw_labels(knobs, 15, rng, first=15 * k) for k in range(16)])
    assert np.bincount(labels).tolist() == [30] * 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"redundancy": 1.2}, "from 0 to 1"),
        ({"heard_jitter": -0.1}, "0 or more"),
        ({"actors": 25}, "RAVDESS's layout has 24"),
        ({"pixels": 65}, "even number"),
        ({"interaction": "order", "misalignment": 0.1}, "leave misalignment 0"),
        ({"interaction": "congruence", "redundancy": 0.5}, "leave it 0"),
        ({"clips_per_actor": 0}, "choose 1 to 1000"),
    ],
)
def test_impossible_knobs_are_explained(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(Knobs(), **change)
