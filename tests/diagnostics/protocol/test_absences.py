"""The share of clips that lack a modality, from none to all: accuracy, what becomes of the answers, the worst set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.ablation import ablation
from avjax.diagnostics.protocol.alignment import absences
from avjax.diagnostics.protocol.study import Found
from avjax.nn.missing import WithMissingTokens
from avjax.objectives.groups import WithGroups
from tests.diagnostics.protocol.planted_probe import probe_for, study_of
from tests.models import tiny

RATES = (0.25, 0.5, 1.0)


def along(found: Found, id: str, group: str) -> dict[float, float | None]:
    own = [line for line in found.lines if line.id == id and line.group == group and line.condition]
    assert {line.fill for line in own} == {"drop"}
    return {line.condition.severity: line.value for line in own if line.condition.corruption == "missing"}


@pytest.fixture
def found(rng) -> Found:
    study = study_of("T1 audio only", rng, 80)
    return absences(dataclasses.replace(study, tier=dataclasses.replace(study.tier, rates=RATES), resamples=2))


def test_what_is_not_listened_to_may_be_missing(found):
    """T1: without its pictures nothing changes at any rate; without its sound the answer is always no."""
    assert along(found, "stress/missing_accuracy", "video") == {0: 1, 0.25: 1, 0.5: 1, 1: 1}
    assert along(found, "consistency/agreement", "video") == {0.25: 1, 0.5: 1, 1: 1}
    assert along(found, "consistency/negative_flips", "video") == {0.25: 0, 0.5: 0, 1: 0}
    heard = along(found, "stress/missing_accuracy", "audio")
    lost = along(found, "consistency/negative_flips", "audio")
    assert list(heard) == [0, *RATES]
    # Half of the clips are yes: those that lack their sound are lost.
    assert heard[0] == 1
    assert heard[1] == 0.5
    for rate in RATES:
        assert heard[rate] == pytest.approx(1 - lost[rate])
        assert along(found, "consistency/agreement", "audio")[rate] == pytest.approx(1 - lost[rate])
    assert heard[0.25] >= heard[0.5] >= heard[1]


def test_in_turn_each_is_missing_in_half(found):
    """All clips lack one of the two; those that keep their sound are right."""
    both = along(found, "stress/missing_accuracy", "audio+video")
    assert 0.5 <= both[1.0] <= 1
    (area,) = [line for line in found.lines if line.id == "stress/missing_area" and line.group == "audio+video"]
    curve = [both[rate] for rate in (0, *RATES)]
    assert area.value == pytest.approx(np.trapezoid(curve, (0, *RATES)))


def test_every_fill_of_the_tier_has_its_curves(rng):
    """T1: at the mean all answers are one, and half of the clips are that; what is not listened to may be anything."""
    study = study_of("T1 audio only", rng, 40)
    tier = dataclasses.replace(study.tier, rate_fills=("drop", "mean"), rates=(1.0,))
    lines = absences(dataclasses.replace(study, tier=tier, resamples=2)).lines
    for fill in tier.rate_fills:
        own = [line for line in lines if line.fill == fill]
        at = {(line.group, line.condition.severity): line.value for line in own if line.id == "stress/missing_accuracy"}
        assert {at["audio", 1], at["video", 1]} == {0.5, 1}
        assert at["video", 0] == at["audio", 0] == 1
        steps = [line.value for line in own if line.id == "stress/frame_missing_accuracy" and line.group == "video"]
        assert steps == [1] * 6


def test_learned_tokens_give_their_name(rng):
    """Of a model that has tokens for what is missing, a clip without a modality is no clip with hidden ones."""
    config = tiny.config()
    assert probe_for(config.build(nnx.Rngs(0))).absence == "drop"
    for build in (WithMissingTokens(config), WithGroups(WithMissingTokens(config))):
        assert probe_for(build.build(nnx.Rngs(0))).absence == "learned"

    class Learned(ModelProbe):
        absence = "learned"

    study = dataclasses.replace(study_of("T1 audio only", rng, 40), resamples=2)
    own = {field.name: getattr(study.probe, field.name) for field in dataclasses.fields(study.probe)}
    study = dataclasses.replace(study, probe=Learned(**own))
    assert study.fills == ("learned",)
    for found in (ablation(study), absences(study)):
        named = {line.fill for line in found.lines if line.id != "stress/frame_missing_accuracy"}
        assert "learned" in named
        assert "drop" not in named


def test_the_worst_set_is_that_without_what_counts(rng):
    study = dataclasses.replace(study_of("T1 audio only", rng, 40), resamples=2)
    lines = {line.id: line for line in ablation(study).lines if line.id.startswith("stress/subset")}
    assert lines["stress/subset_worst"].value == 0.5
    assert lines["stress/subset_average"].value == 0.75
    assert {line.fill for line in lines.values()} == {"drop"}
