"""Imbalance over a training: ratios against loops, the moving average, the share of the steps, lines of real runs."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.contribution.imbalance import ALARM, MOST, imbalanced, log_ratios, scores, smoothed
from avjax.diagnostics.measured import Undefined


def test_ratios_step_by_step(rng):
    told = {name: rng.uniform(0.05, 1, 30) for name in ("audio", "video", "text")}
    found = log_ratios(told)
    for name, values in told.items():
        for step in range(30):
            others = [float(told[other][step]) for other in told if other != name]
            # The rule's own function computes in float32.
            assert found[name][step] == pytest.approx(np.log10(values[step] / np.mean(others)), abs=2e-6)


def test_equal_modalities_are_in_balance(rng):
    same = rng.uniform(0.1, 1, 5)
    for ratio in log_ratios({"audio": same, "video": same}).values():
        np.testing.assert_allclose(ratio, 0, atol=1e-7)
    two = log_ratios({"audio": np.full(3, 0.6), "video": np.full(3, 0.3)})
    np.testing.assert_allclose(two["audio"], np.log10(2), atol=2e-7)
    np.testing.assert_allclose(two["video"], -np.log10(2), atol=2e-7)
    with pytest.raises(Undefined, match="audio has a score"):
        log_ratios({"audio": np.array([0.5, 0.0]), "video": np.ones(2)})


def test_the_average_is_of_what_was_seen(rng):
    np.testing.assert_allclose(smoothed(np.full(50, 0.3)), 0.3, rtol=1e-13)
    values = rng.normal(size=20)
    for place, found in enumerate(smoothed(values, momentum=0.8)):
        weight = 0.8 ** np.arange(place + 1)[::-1]
        assert found == pytest.approx((weight @ values[: place + 1]) / weight.sum(), rel=1e-11, abs=1e-12)
    np.testing.assert_array_equal(smoothed(values, momentum=0.0), values)


def test_steps_count_by_how_many_they_stand_for():
    steps = np.array([10, 20, 50, 100])
    assert imbalanced(np.zeros(4), steps) == 0
    assert imbalanced(np.array([0, 1, -1, 0.0]), steps) == 0.4
    assert imbalanced(np.full(4, -0.5), steps) == 1
    assert imbalanced(np.array([MOST, -MOST, 0, 0]), steps) == 0
    assert imbalanced(np.array([1.0, 0, 0, 0]), steps) >= ALARM
    with pytest.raises(Undefined, match="no step"):
        imbalanced(np.zeros(0), np.zeros(0, int))
    with pytest.raises(ValueError, match="rise"):
        imbalanced(np.zeros(2), np.array([5, 5]))


def test_lines_of_a_run():
    lines = [
        {"step": 5, "train/loss": 1.0, "train/loss/emotion": 1.0, "train/loss/emotion/audio": 0.5,
         "train/loss/emotion/video": 2.0},
        {"step": 5, "validation/loss/emotion/audio": 0.1},
        {"step": 9, "train/loss/emotion/audio": 0.0, "train/loss/emotion/video": 1.0},
        {"step": 12, "train/loss/emotion/audio": 0.0, "train/loss/emotion/video": None},
    ]  # fmt: skip
    found = scores(lines, "emotion")
    assert found.estimator == "loss"
    assert found.steps.tolist() == [5, 9]
    np.testing.assert_allclose(found.values["audio"], np.exp([-0.5, 0.0]), rtol=1e-15)
    np.testing.assert_allclose(found.values["video"], np.exp([-2.0, -1.0]), rtol=1e-15)
    ruled = [{**line, "train/rule/confidence/audio": 0.4, "train/rule/confidence/video": 0.2} for line in lines]
    found = scores(ruled, "emotion")
    assert (found.estimator, found.values["audio"].tolist()) == ("confidence", [0.4] * 4)
    with pytest.raises(Undefined, match="alone while it trains"):
        scores(lines, "age")
