"""What a report says of a condition is what the definitions say of its rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import agreement, calibration
from avjax.diagnostics.contribution import interaction
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.ablation import ablation, intershap
from avjax.diagnostics.protocol.answers import aurc, changes
from avjax.diagnostics.protocol.study import Said, Study
from avjax.diagnostics.protocol.tiers import SMOKE
from tests.diagnostics.protocol.planted_probe import study_of


def always(study: Study, told: int) -> Study:
    """The same clips, by a model that says one class of everything."""
    probe, sure = study.probe, np.eye(2, dtype=np.float32)[told]
    plain = FunctionProbe(probe.modalities, probe.head, probe.classes, 16, lambda clips: np.tile(sure, (len(clips), 1)))
    return dataclasses.replace(study, probe=plain, resamples=200)


def test_the_commonest_class_is_one_class_in_every_draw(rng):
    """KA: of as many clips of each class its interval holds its value, and who says that class is worth nothing more.

    The greatest count of each draw lies above: by then the interval is above the value, and those of all that is
    measured from it below theirs.
    """
    study = study_of("T2 additive", rng, 400)
    rows = np.concatenate([np.flatnonzero(study.clips.label == k)[:40] for k in range(2)])
    study = always(dataclasses.replace(study, clips=study.clips.take(rows)), 0)
    found = ablation(study)
    (guess,) = (line for line in found.lines if line.id == "contribution/majority_accuracy")
    assert guess.value == 0.5
    assert guess.ci_lo < 0.46 < 0.54 < guess.ci_hi
    for id in ("shape", "sufficiency", "cooperation"):
        lines = [line for line in found.lines if line.id == f"contribution/{id}" and line.value is not None]
        assert lines
        assert {(line.value, line.ci_lo, line.ci_hi) for line in lines} == {(0.0, 0.0, 0.0)}


def test_changes(rng):
    label = rng.integers(0, 3, 50)
    one, other = (Said(rng.normal(size=(50, 3)) + np.eye(3)[label], label) for _ in range(2))
    clips = Clips({}, label, tuple(f"video {row // 2}" for row in range(50)), np.arange(50))
    study = Study(FunctionProbe((), "class", ("a", "b", "c"), 50, lambda clips: one.logits), clips, SMOKE, resamples=50)
    found = {line.id.removeprefix("consistency/"): line for line in changes(study, clips, one, other)}
    predicted, right = (one.predicted, other.predicted), (one.right, other.right)
    expected = {
        "agreement": agreement.agreement(*predicted),
        "kappa": agreement.kappa(*predicted),
        "soft_agreement": agreement.soft_agreement(one.probability, other.probability).mean(),
        "negative_flips": agreement.negative_flips(*right),
        "positive_flips": agreement.positive_flips(*right),
        "ece_change": calibration.expected_calibration_error(other.confidence, other.right)
        - calibration.expected_calibration_error(one.confidence, one.right),
        "overconfidence": calibration.overconfidence(other.confidence, other.right),
        "brier": calibration.brier(other.probability, label).mean(),
        "aurc": calibration.area_under_risk_coverage(other.confidence, other.right),
    }
    assert {name: line.value for name, line in found.items()} == pytest.approx(expected, abs=1e-12)
    assert all(line.ci_lo <= line.ci_hi for line in found.values())


def test_risk_over_coverage_of_any_rows_is_that_of_the_definition(rng):
    label = rng.integers(0, 3, 40)
    # Few levels of confidence, so that there are ties.
    said = Said(np.round(rng.normal(size=(40, 3))), label)
    of = aurc(said)
    for rows in (np.arange(40), rng.integers(0, 40, 40), rng.integers(0, 40, 7)):
        expected = calibration.area_under_risk_coverage(said.confidence[rows], said.right[rows])
        assert of(rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("local", [False, True])
def test_intershap_of_any_rows_is_that_of_the_definition(local, rng):
    values = rng.normal(size=(8, 40))
    of = intershap(values, local=local)
    for rows in (np.arange(40), rng.integers(0, 40, 40), rng.integers(0, 40, 7)):
        assert of(rows) == pytest.approx(interaction.intershap(values[:, rows], local=local), abs=1e-12)
    with pytest.raises(Undefined, match="no effects to share"):
        intershap(np.ones((8, 40)), local=local)(np.arange(40))


def test_consistency_follows_from_the_arrays(rng):
    """Whoever has samples.npz alone comes to the lines of the clean clips and of each missing modality."""
    study = study_of("T2 additive", rng, 60)
    study = dataclasses.replace(study, tier=dataclasses.replace(study.tier, fills=("mean", "drop")))
    found = ablation(study)
    arrays = found.arrays
    label, clean = arrays["clips/label"], arrays["logits/clean"]
    lines = {(line.id.removeprefix("consistency/"), line.fill, line.group): line.value for line in found.lines}
    conditions = {name.removeprefix("logits/") for name in arrays if name.startswith("logits/")}
    assert conditions == {"clean", "without audio (mean)", "without video (mean)"}
    for modality in study.modalities:
        logits = arrays[f"logits/without {modality} (mean)"]
        probability = calibration.probabilities(logits)
        right, confidence = logits.argmax(axis=1) == label, probability.max(axis=1)
        np.testing.assert_array_equal(arrays[f"right/without {modality} (mean)"], right)
        np.testing.assert_allclose(arrays[f"confidence/without {modality} (mean)"], confidence)
        expected = {
            "agreement": agreement.agreement(clean.argmax(axis=1), logits.argmax(axis=1)),
            "soft_agreement": agreement.soft_agreement(calibration.probabilities(clean), probability).mean(),
            "brier": calibration.brier(probability, label).mean(),
            "aurc": calibration.area_under_risk_coverage(confidence, right),
        }
        for name, value in expected.items():
            assert lines[name, "mean", modality] == pytest.approx(value, abs=1e-12)
