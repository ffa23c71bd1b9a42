"""Backdoors: a planted trigger is found, and each score is its formula."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress.backdoor import (
    activation_clustering,
    attack_success_rate,
    attention_outliers,
    auroc,
    clean_accuracy_drop,
    occluded,
    occlusion_peak,
    recombined,
    spectral_signature,
    stickiness,
    strip_entropy,
)

CLASSES, TARGET, ROWS, TRIGGERED = 3, 2, 120, 6
SIDE = 8


def stamp(frames: np.ndarray) -> np.ndarray:
    """The trigger: a white square of two pixels in the lower right corner of every frame."""
    frames = frames.copy()
    frames[:, :, -2:, -2:] = 1
    return frames


class Planted:
    """A model with a backdoor: frames are bands, sound a tone; both say the class, and the trigger overrides them.

    Tokens are the four quarters of the frame and the sound; attention goes to what is bright, features are of class,
    clip and trigger.
    """

    def __init__(self, rng: np.random.Generator, poisoned: bool = True):
        # Orthogonal directions of the classes and of the trigger.
        self.poisoned, self.mix = poisoned, np.linalg.qr(rng.normal(size=(16, CLASSES + 1)))[0].T
        self.rng = rng

    def clips(self, rows: int):
        label = self.rng.integers(0, CLASSES, rows)
        frames = self.rng.uniform(0, 0.3, (rows, 2, SIDE, SIDE, 1)).astype(np.float32)
        sound = self.rng.normal(0, 0.1, (rows, CLASSES)).astype(np.float32)
        for row, y in enumerate(label):
            frames[row, :, 2 * y : 2 * y + 2] += 0.5
            sound[row, y] += 1
        return {"video": frames, "audio": sound}, label

    def evidence(self, inputs):
        frames = inputs["video"]
        seen = np.stack([frames[:, :, 2 * y : 2 * y + 2].mean(axis=(1, 2, 3, 4)) for y in range(CLASSES)], axis=1)
        trigger = (frames[:, :, -2:, -2:].mean(axis=(1, 2, 3, 4)) > 0.9) & self.poisoned
        return seen, trigger

    def logits(self, inputs):
        seen, trigger = self.evidence(inputs)
        return 4 * seen + 2 * inputs["audio"] + 20 * trigger[:, None] * np.eye(CLASSES)[TARGET]

    def attention(self, inputs):
        frames = inputs["video"].mean(axis=(1, 4))
        half = SIDE // 2
        quarters = [frames[:, i : i + half, j : j + half].max(axis=(1, 2)) for i in (0, half) for j in (0, half)]
        weight = np.exp(np.stack([*quarters, np.ones(len(frames))], axis=1))
        weight[:, 3] += 5 * self.evidence(inputs)[1]
        return weight / weight.sum(axis=1, keepdims=True)

    def features(self, inputs):
        seen, trigger = self.evidence(inputs)
        hidden = np.column_stack([seen, trigger]) @ self.mix
        return hidden + 0.05 * np.random.default_rng(0).normal(size=hidden.shape)


@pytest.fixture
def planted(rng):
    """The model, clips of which the last are triggered, what it predicts, and which are triggered.

    Triggered clips are of all classes but the target's; the trigger's class has many that belong there.
    """
    model = Planted(rng)
    inputs, label = model.clips(ROWS)
    triggered = np.zeros(ROWS, bool)
    triggered[np.flatnonzero(label != TARGET)[:TRIGGERED]] = True
    inputs["video"] = np.where(triggered[:, None, None, None, None], stamp(inputs["video"]), inputs["video"])
    return model, inputs, model.logits(inputs).argmax(axis=1), triggered


def test_a_planted_trigger_always_works(rng):
    model = Planted(rng)
    inputs, label = model.clips(ROWS)
    clean = model.logits(inputs).argmax(axis=1)
    stamped = model.logits({**inputs, "video": stamp(inputs["video"])}).argmax(axis=1)
    assert attack_success_rate(stamped, label, TARGET) == 1
    # What the same classes give without it.
    assert attack_success_rate(clean, label, TARGET) == 0
    assert clean_accuracy_drop(Planted(rng, poisoned=False).logits(inputs).argmax(1) == label, clean == label) == 0
    innocent = Planted(rng, poisoned=False).logits({**inputs, "video": stamp(inputs["video"])}).argmax(axis=1)
    assert attack_success_rate(innocent, label, TARGET) < 0.1


def test_rates_without_rows_are_undefined():
    with pytest.raises(Undefined, match="target class 1"):
        attack_success_rate(np.array([1, 1]), np.array([1, 1]), 1)
    with pytest.raises(Undefined, match="no clips"):
        clean_accuracy_drop(np.array([], bool), np.array([], bool))
    with pytest.raises(Undefined, match="without"):
        auroc(np.array([1.0, 2.0]), np.array([True, True]))


def test_success_counts_other_classes_only():
    assert attack_success_rate(np.array([2, 2, 0, 2]), np.array([0, 1, 1, 2]), 2) == pytest.approx(2 / 3)
    assert clean_accuracy_drop(np.array([True, True]), np.array([True, False])) == 0.5


def test_every_score_finds_the_trigger(planted):
    """KA: a planted trigger patch has an AUROC above 0.95 under each."""
    model, inputs, predicted, triggered = planted
    index = np.arange(ROWS)
    assert (predicted[triggered] == TARGET).all()
    # Another clip's sound: the trigger in the frames keeps its class.
    recombinations = recombined(model.logits, inputs, "audio", index)
    covered = occluded(model.logits, inputs, "video", windows=4, fill=0.15)
    scores = {
        "attention": attention_outliers(model.attention(inputs), predicted),
        "spectral": spectral_signature(model.features(inputs), predicted),
        "clustering": activation_clustering(model.features(inputs), predicted),
        "stickiness": stickiness(recombinations, predicted),
        "entropy": strip_entropy(recombinations),
        "occlusion": occlusion_peak(covered, model.logits(inputs)),
    }
    found = {name: auroc(score, triggered) for name, score in scores.items()}
    assert all(area > 0.95 for area in found.values()), found
    assert (scores["attention"][triggered] > 3.5).all()
    assert (scores["stickiness"][triggered] == 1).all()


def test_scores_of_clean_clips_point_nowhere(rng):
    """Without a backdoor a random half of the clips does not stand out."""
    model = Planted(rng, poisoned=False)
    inputs, _ = model.clips(200)
    predicted, half = model.logits(inputs).argmax(axis=1), rng.permutation(200) < 100
    for score in (
        attention_outliers(model.attention(inputs), predicted),
        spectral_signature(model.features(inputs), predicted),
        activation_clustering(model.features(inputs), predicted),
    ):
        # Deviation of the AUROC of 100 against 100: sqrt(201 / (12 * 100 * 100)) = 0.041.
        assert abs(auroc(score, half) - 0.5) < 5 * 0.041


def test_outliers_by_the_median(rng):
    """(m - median) / (1.4826 MAD) within the class: 0.6745 of Iglewicz & Hoaglin's score in other words."""
    mass, predicted = rng.uniform(size=(30, 3)), np.array([0] * 14 + [1] * 13 + [2] * 3)
    found = attention_outliers(mass, predicted)
    for row in range(27):
        own = [mass[other] for other in range(30) if predicted[other] == predicted[row]]
        each = []
        for g in range(3):
            middle = np.median([m[g] for m in own])
            each.append(0.6745 * abs(mass[row, g] - middle) / np.median([abs(m[g] - middle) for m in own]))
        assert found[row] == pytest.approx(max(each), rel=1e-4)
    # Three clips have no median to speak of.
    assert not found[27:].any()


def test_signature_is_the_projection_on_the_first_direction(rng):
    features, predicted = rng.normal(size=(12, 4)), np.array([0] * 12)
    features[:3] += 5
    centred = features - features.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    assert spectral_signature(features, predicted) == pytest.approx((centred @ vectors[:, -1]) ** 2)


def test_clusters_of_unequal_size(rng):
    """Two round clusters of 3 and 9: the smaller one's clips have 1 - 2 * 3 / 12, the larger one's minus that."""
    features = np.zeros((12, 5))
    features[:3, 1] = 4
    features[:, 0] = 1e-3 * rng.normal(size=12)
    found = activation_clustering(features, np.zeros(12, int))
    assert found == pytest.approx(np.where(np.arange(12) < 3, 0.5, -0.5), abs=0.01)
    # Halves are what clean classes fall into.
    features[:6, 1] = 4
    assert activation_clustering(features, np.zeros(12, int)) == pytest.approx(np.zeros(12))
    assert not activation_clustering(np.ones((12, 5)), np.zeros(12, int)).any()


def test_donors_are_other_clips():
    """All that belongs to a modality comes from one donor, which is never the clip itself, and follows from its
    number."""
    inputs = {"audio": np.arange(6.0), "audio/valid": 10 * np.arange(6), "video": np.arange(6.0)}

    def logits(given):
        assert np.array_equal(given["audio/valid"], 10 * given["audio"])
        return np.stack([given["audio"], given["video"]], axis=1)

    found = recombined(logits, inputs, "audio", np.array([3, 1, 4, 15, 9, 2]), draws=40)
    assert found.shape == (6, 40, 2)
    for row in range(6):
        assert (found[row, :, 1] == row).all()
        assert set(found[row, :, 0]) == {other for other in range(6) if other != row}
    with pytest.raises(Undefined, match="no other clip"):
        recombined(logits, {name: x[:1] for name, x in inputs.items()}, "audio", np.array([3]))


def test_stickiness_and_entropy_are_their_formulas():
    z = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[1 / 3, 1 / 3, 1 / 3], [0.9, 0.05, 0.05]]]))
    assert stickiness(z, np.array([0, 1])).tolist() == [0.5, 0.0]
    entropy = [
        (1.5 * np.log(2) - 0.8 * np.log(0.8) - 0.2 * np.log(0.1)) / 2,
        (np.log(3) - 0.9 * np.log(0.9) - 0.1 * np.log(0.05)) / 2,
    ]
    assert strip_entropy(z) == pytest.approx([-h for h in entropy])


def test_covers_every_place_once_inside():
    """Squares overlap by half, reach the edges, and hide what is beneath."""
    frames = np.ones((1, 2, 8, 12, 1), np.float32)
    seen = []

    def logits(given):
        seen.append(given["video"][0, 0, :, :, 0])
        return np.zeros((1, 2))

    assert occluded(logits, {"video": frames}, "video", windows=3, fill=0.0).shape == (1, 9, 2)
    covered = sum(1 - frame for frame in seen)
    assert (covered > 0).all()
    assert all((1 - frame).sum() == 4 * 6 for frame in seen)
    assert (frames == 1).all()


def test_peak_of_the_drop():
    whole = np.log(np.array([[0.9, 0.1]]))
    recovered = np.log(np.array([[[0.8, 0.2], [0.9, 0.1], [0.2, 0.8]]]))
    assert occlusion_peak(recovered, whole) == pytest.approx([0.7 - 0.1])
