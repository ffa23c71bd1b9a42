"""What is left of a modality that is mixed with another clip's, and noise in one class, of models written down."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.fills import others
from avjax.diagnostics.protocol.alignment import mixtures
from avjax.diagnostics.protocol.study import Found
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, TIER, clips_of, study_of

ROWS, WEIGHTS = 40, (0.3, 1.0)


def some(heard: np.ndarray, seen: np.ndarray, label: np.ndarray):
    sound = np.broadcast_to(heard[:, None], (ROWS, SAMPLES))
    frames = np.broadcast_to(seen[:, None, None, None, None], (ROWS, FRAMES, SIDE, SIDE, 1))
    return clips_of(sound, frames, label.astype(int))


def mean(stream) -> jnp.ndarray:
    return stream.values.reshape(len(stream.values), -1).mean(axis=1)


def values(found: Found, id: str) -> dict[tuple[str, float], float]:
    """By modality and weight."""
    own = [line for line in found.lines if line.id == id]
    assert {(line.condition.corruption, line.fill) for line in own} <= {("dilution", "drop"), ("dilution", None)}
    return {(line.group, line.condition.severity): line.value for line in own}


def test_what_is_left_follows_from_the_mixed_numbers(rng):
    """f = 8 (h + v), a modality that is absent says 0; of weight w it says (1 - w) h + w h of the other clip."""
    told = {m: rng.uniform(-0.5, 0.5, ROWS) for m in ("audio", "video")}
    label = told["audio"] + told["video"] > 0
    clips = some(*told.values(), label)
    tier = dataclasses.replace(TIER, rates=WEIGHTS, stressed=None)
    study = study_of(lambda tokens: 8 * (mean(tokens["audio"]) + mean(tokens["video"])), clips, tier)
    found = mixtures(study)

    def right(number: np.ndarray) -> float:
        return float(((number > 0) == label).mean())

    def true(number: np.ndarray) -> float:
        return float((1 / (1 + np.exp(-8 * np.where(label, 1, -1) * number))).mean())

    for modality, other in (("audio", "video"), ("video", "audio")):
        order = others(clips, modality, seed=study.seed)
        for weight in WEIGHTS:
            key = modality, weight
            mixed = (1 - weight) * told[modality] + weight * told[modality][order]
            assert values(found, "stress/dilution_accuracy")[key] == pytest.approx(right(mixed + told[other]))
            necessity = right(mixed + told[other]) - right(told[other])
            assert values(found, "contribution/necessity")[key] == pytest.approx(necessity)
            sufficiency = right(mixed) - max(label.mean(), 1 - label.mean())
            assert values(found, "contribution/sufficiency")[key] == pytest.approx(sufficiency)
            ratio = math.log10(true(mixed) / true(told[other]))
            assert values(found, "contribution/imbalance_ratio")[key] == pytest.approx(ratio, abs=1e-5)


def test_noise_in_the_class_that_is_told_worst(rng):
    """The sound tells, and the answer turns where the pictures are not flat: of yes, of which three sound like no."""
    side = rng.permutation(np.resize([-1.0, 1.0], ROWS))
    label = side > 0
    label[np.flatnonzero(side < 0)[:3]] = True

    tier = dataclasses.replace(TIER, stressed=None)

    def decide(tokens):
        return 8 * mean(tokens["audio"]) * jnp.where(tokens["video"].values.std(axis=(1, 2, 3, 4)) > 0.01, -1, 1)

    study = study_of(decide, some(side * rng.uniform(0.3, 0.5, ROWS), np.full(ROWS, 0.5), label), tier)
    lines = [line for line in mixtures(study).lines if line.id == "stress/class_noise_accuracy"]
    found = {(line.group, line.estimator): line.value for line in lines}
    clean, worst = (side > 0) == label, label
    turned = {"noise in yes, told worst": worst, "noise in all but yes": ~worst}
    for words, rows in turned.items():
        assert found["video", f"{words}; the clips with noise"] == pytest.approx((~clean[rows]).mean())
        assert found["video", f"{words}; all clips"] == pytest.approx(np.where(rows, ~clean, clean).mean())
        # At 20 dB the mean of the sound keeps its sign.
        assert found["audio", f"{words}; the clips with noise"] == pytest.approx(clean[rows].mean())
    assert len(found) == 8
    (condition,) = {line.condition.corruption for line in lines if line.group == "video"}
    assert condition == "video/gaussian_noise"
