"""The stage of information on planted models: what is synergy and what redundancy, of label and of prediction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.information import information, principal, symbols_for
from avjax.diagnostics.protocol.study import Found, Study
from tests.diagnostics.protocol.planted_probe import study_of
from tests.models.planted import CASES

ROWS = 400
PARTS = ("redundancy", "unique", "synergy")


def few(name: str, rng: np.random.Generator) -> Study:
    """Of few resamples: what is known is of the values."""
    return dataclasses.replace(study_of(name, rng, ROWS), resamples=2)


def parts(found: Found, words: str, target: str = "label") -> dict[str, float]:
    """Bits by part, and by part above the null."""
    own = [line for line in found.lines if words in line.estimator and line.target == target]
    named = {}
    for line in own:
        name = line.id.rpartition("/")[2].removeprefix("pid_")
        named[f"{name} {line.group}" if name in ("unique", "above_null") else name] = line.value
    return named


def test_an_exclusive_or_is_synergy_that_no_prediction_alone_shows(rng):
    """KA: R = U1 = U2 = 0, S = 1 bit. The cues are in the tokens; each alone predicts one class."""
    found = information(few("T3 exclusive or", rng))
    low, high = CASES["T3 exclusive or"].expected["pid.synergy"]
    for target in ("label", "predicted"):
        bits = parts(found, "tokens", target)
        assert low <= bits["synergy"] <= high
        # Of as many signs on either side they are independent but for the draw: at most its information.
        assert max(bits["redundancy"], bits["unique audio"], bits["unique video"]) < 0.05
        # Permuted labels of this many rows have a hundredth of a bit.
        assert bits["above_null synergy"] > 0.9
    assert parts(found, "prediction of each")["synergy"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_copies_are_redundant(rng):
    """KA: R = 1 bit up to the draw of the label, and nothing else."""
    study = few("T4 redundant copies", rng)
    found = information(study)
    share = study.clips.label.mean()
    whole = float(-share * np.log2(share) - (1 - share) * np.log2(1 - share))
    for words in ("tokens", "prediction of each"):
        bits = parts(found, words)
        assert bits["redundancy"] == pytest.approx(whole, abs=1e-6)
        assert max(bits[name] for name in ("unique audio", "unique video", "synergy")) < 1e-6
        assert bits["above_null redundancy"] > 0.9


@pytest.mark.slow
def test_what_only_one_modality_says_is_unique(rng):
    """KA: y = x1 has U1 = 1 bit: the sound's sign is the label, and the pictures say nothing of it."""
    bits = parts(information(few("T1 audio only", rng)), "tokens")
    # The pictures' signs and the sound's are as balanced as can be, but meet by chance.
    assert bits["unique audio"] == pytest.approx(1, abs=0.05)
    assert max(bits[name] for name in ("unique video", "redundancy", "synergy")) < 0.05


@pytest.mark.slow
def test_a_plain_function_has_predictions_alone(rng):
    study = study_of("T4 redundant copies", rng, 40)
    plain = FunctionProbe(study.probe.modalities, study.probe.head, study.probe.classes, 16, study.probe.logits)
    found = information(Study(plain, study.clips, study.tier, resamples=20))
    assert {line.estimator for line in found.lines} == {"prediction of each modality alone"}
    assert {line.id.rpartition("_")[2] for line in found.lines} == {*PARTS, "null"}
    above = [line for line in found.lines if line.id == "contribution/pid_above_null"]
    assert len(above) == 8
    assert all(line.ci_lo is not None for line in above)


def test_clips_of_one_video_have_no_interval(rng):
    study = study_of("T4 redundant copies", rng, 20)
    one = dataclasses.replace(study, clips=dataclasses.replace(study.clips, source=("one",) * 20))
    assert all(line.ci_lo is None and line.value is not None for line in information(one).lines)


def test_symbols_are_few_where_clips_are():
    assert [symbols_for(clips, 8) for clips in (10, 64, 1000, 10**6)] == [2, 2, 11, 20]


def test_principal_coordinates_keep_distances(rng):
    """Rows in a plane of many dimensions: two coordinates have every distance; few dimensions stay as they are."""
    plane = rng.normal(size=(30, 2)) @ np.linalg.qr(rng.normal(size=(40, 2)))[0].T + 5
    found = principal(plane, 2)

    def apart(rows):
        return np.linalg.norm(rows[:, None] - rows[None], axis=-1)

    np.testing.assert_allclose(apart(found), apart(plane), atol=1e-10)
    np.testing.assert_array_equal(principal(plane[:, :3], 3), plane[:, :3])
