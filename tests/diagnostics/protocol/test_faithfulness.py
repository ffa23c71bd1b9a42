"""Explanations of planted models: exact where the model adds up, undefined where it says nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from avjax.diagnostics.faithfulness import curves
from avjax.diagnostics.imputation import imputed
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.faithfulness import (
    GRADIENT,
    JOINT,
    Effort,
    Explanation,
    by_gradient,
    erased,
    faithfulness,
    form,
    prediction,
    shares_and_drops,
    steadiness,
    without_outline,
)
from avjax.diagnostics.protocol.removal import Removal
from avjax.diagnostics.protocol.study import Study
from tests.diagnostics.protocol.planted_probe import study_of

EFFORT = Effort(fractions=(0.0, 0.5, 1.0), orders=2, sets=10, disturbances=3)


def values(lines, id):
    return [line.value for line in lines if line.id == f"faithfulness/{id}"]


@pytest.fixture(scope="module")
def additive() -> Study:
    """One for all tests: what it compiles serves them all."""
    return study_of("T2 additive", np.random.default_rng(2), 30)


def test_the_model_is_asked_once_and_answers_as_it_does_alone(additive, rng):
    asked = []

    def function(clips):
        asked.append(len(clips))
        return additive.probe.logits(clips)

    plain = FunctionProbe(additive.probe.modalities, additive.probe.head, additive.probe.classes, 16, function)
    study = Study(plain, additive.clips, additive.tier, resamples=10)
    part = study.part(3)
    removal, players = Removal(study, part), study.raw_players
    masks = rng.random((5, len(players))) < 0.5
    masks[3] = masks[0]
    asked.clear()
    found = removal.answered(lambda row: removal.logit(row)(masks)[:, 0] + removal.logit(row)(masks[:2])[:, 0].sum())
    # Four masks that differ, of three clips.
    assert sum(asked) == 4 * 3
    for row, own in enumerate(found):
        alone = plain.coalitions(part.clips.take([row]), masks, players, study.means)[:, 0, part.clean.predicted[row]]
        np.testing.assert_allclose(own, alone + alone[:2].sum(), rtol=1e-5, atol=1e-6)
    # What was not asked before is asked now.
    every = np.ones((1, len(players)), bool)
    chosen = part.clean.probability[np.arange(3), part.clean.predicted]
    np.testing.assert_allclose([removal.probability(row)(every)[0, 0] for row in range(3)], chosen, rtol=1e-5)


def test_a_model_that_adds_up_is_told_exactly_by_its_gradient(additive):
    """KA: infidelity 0, sensitivity-n 1, deletion along the steps to the mean as brute force has it."""
    part = additive.part(4)
    one, removal = by_gradient(additive, part), Removal(additive, part)
    lines = prediction(additive, removal, one, EFFORT)
    assert values(lines, "infidelity")[0] == pytest.approx(0, abs=1e-8)
    assert values(lines, "sensitivity_n") == pytest.approx([1, 1], abs=1e-5)
    # Twice the attribution predicts twice the change: as far off as the changes are large.
    double = dataclasses.replace(one, signed=2 * one.signed)
    again = prediction(additive, removal, double, EFFORT)
    assert values(again, "infidelity")[0] > 1e-6
    assert values(again, "sensitivity_n") == pytest.approx([1, 1], abs=1e-5)
    # The signed attributions are all of the difference to the means: logits are half of the planted number.
    players, target = additive.raw_players, (np.arange(4), part.clean.predicted)
    none = additive.probe.coalitions(part.clips, np.zeros((1, len(players)), bool), players, additive.means)[0]
    change = part.clean.logits[target] - none[target]
    np.testing.assert_allclose(one.signed.sum(axis=1), change, rtol=1e-4, atol=1e-5)


def test_curves_are_those_of_brute_force(additive):
    part = additive.part(2)
    one, removal, players = by_gradient(additive, part), Removal(additive, part), additive.raw_players
    found = erased(additive, removal, one, EFFORT, np.ones(len(players), bool))
    order = np.argsort(-one.ranked, axis=1, kind="stable")
    for row, own in enumerate(found):
        kept = np.ones((3, len(players)), bool)
        kept[1, order[row, : len(players) // 2]] = kept[2] = False
        logits = additive.probe.coalitions(part.clips.take([row]), kept, players, additive.means)[:, 0]
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        curve = chances[:, part.clean.predicted[row]]
        np.testing.assert_allclose(own.curves["deletion"], curve / curve[0], rtol=1e-4)
        assert own.numbers["deletion"] == pytest.approx(np.trapezoid(curve / curve[0], [0, 0.5, 1]), rel=1e-4)


def test_a_modality_goes_as_its_players_do(rng):
    """Shares are of players at the mean: so are the drops that they are held against."""
    study = study_of("T2 additive", rng, 30)
    # Away from 0, where the mean is another fill than any.
    moved = {m: stream.replace(values=stream.values + 0.1) for m, stream in study.clips.streams.items()}
    study = dataclasses.replace(study, clips=study.clips.replace(moved))
    part, players = study.part(None), study.raw_players
    share = rng.random((30, 2))
    chosen = np.arange(30), part.clean.predicted
    for place, line in enumerate(shares_and_drops(study, part, share)):
        modality = study.modalities[place]
        assert (line.group, line.fill) == (modality, "mean")
        said = study.probe.coalitions(part.clips, ~players.of(modality)[None], players, study.means)[0]
        chance = np.exp(said) / np.exp(said).sum(axis=1, keepdims=True)
        # float32 leaves no two clips' drops equal; 1e-2 is a few swaps of 30 ranks that rounding may make.
        expected = spearmanr(share[:, place], part.clean.probability[chosen] - chance[chosen]).statistic
        assert line.value == pytest.approx(expected, abs=1e-2)


def test_steadiness_is_that_of_the_draws(additive):
    """Of a linear model the attribution moves by the disturbance times the slope, and so within the radius."""
    part = additive.part(3)
    one = by_gradient(additive, part)
    lines = steadiness(additive, part, EFFORT)
    (most,), (mean,), (lipschitz,) = (
        values(lines, id) for id in ("max_sensitivity", "avg_sensitivity", "local_lipschitz")
    )
    assert 0 < mean <= most
    # |phi(x + d) - phi(x)| = slope |d| with d on the channel of the cue alone: no more than the slope, which is 2.
    assert 0 < lipschitz <= 2 * (1 + 1e-4)
    still = [line.value for line in form(additive, part, one) if line.id == "faithfulness/gini"]
    assert 0 <= still[0] <= 1 - 1 / len(additive.raw_players)


def test_cells_that_count_are_those_above_a_share_of_the_greatest(additive):
    """KA: of 100, 2, 1 and 0 two are above one in a hundred; on whatever scale."""
    part, players = additive.part(2), additive.raw_players
    signed = np.zeros((2, len(players)))
    signed[0, :3], signed[1, :2] = (100, -2, 1), (3e-9, -3e-9)
    lines = form(additive, part, Explanation("drawn", np.abs(signed), signed))
    (line,) = [line for line in lines if line.id == "faithfulness/effective_complexity"]
    assert (line.value, line.unit) == (2, "cells")
    assert line.estimator == f"drawn, above 1 % of the greatest, {len(players)} raw players"


def test_a_constant_model_has_reasons_in_place_of_numbers(rng):
    study = study_of("T9 constant", rng, 20)
    part = study.part(3)
    one = by_gradient(study, part)
    lines = prediction(study, Removal(study, part), one, EFFORT)
    # It is told exactly: nothing changes, and nothing is said to.
    assert values(lines, "infidelity") == [0]
    lines = [*lines, *steadiness(study, part, EFFORT), *form(study, part, one)]
    without = {line.id.split("/")[1]: line.reason for line in lines if line.value is None}
    assert {"sensitivity_n", "max_sensitivity", "complexity", "gini", "effective_complexity"} <= set(without)
    assert all(reason.startswith("none of 3 clips has a value") for reason in without.values())


def test_the_order_of_chance_is_one_for_all_explanations(additive, rng):
    part = additive.part(2)
    removal, every = Removal(additive, part), np.ones(len(additive.raw_players), bool)
    one = by_gradient(additive, part)
    other = Explanation("drawn", rng.random(one.ranked.shape), one.signed)
    curves = [erased(additive, removal, which, EFFORT, every)[0].curves for which in (one, other)]
    np.testing.assert_array_equal(curves[0]["deletion_random"], curves[1]["deletion_random"])


def test_what_is_made_up_is_asked_of_the_model(additive, rng):
    """ROAD: the deletion gap of clips whose removed parts follow from their neighbours."""
    part, players = additive.part(3), additive.raw_players
    one = by_gradient(additive, part)
    found = {line.id: line for line in without_outline(additive, part, one)}
    gap = found["faithfulness/deletion_gap"]
    assert (gap.fill, gap.n) == ("imputed", 3)
    deviation = {m: float(np.mean(moments.deviation)) for m, moments in additive.moments.items()}
    areas = []
    for row in range(3):
        clip, target = part.clips.take([row]), part.clean.predicted[row]

        def value(kept, clip=clip, target=target):
            logits = [additive.probe.logits(imputed(clip, mask[None], players, additive.means, deviation, rows=1))[0]
                      for mask in kept]  # fmt: skip
            return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[:, target, None]

        order = np.argsort(-one.ranked[row], kind="stable")
        areas.append(curves.deletion(value, order, len(players), fractions=[k / 5 for k in range(6)], draws=1))
    assert gap.value == pytest.approx(np.mean([area.gap[0] for area in areas]), rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_the_stage(rng):
    """Both explanations of a model that adds up say what it does; whatever was planted, all lines have values."""
    study = study_of("T2 additive", rng, 60)
    found = faithfulness(study)
    for name in ("Shapley values", GRADIENT):
        own = [line for line in found.lines if line.estimator.startswith(name)]
        assert values(own, "infidelity")[0] == pytest.approx(0, abs=1e-6)
        assert min(values(own, "sensitivity_n")) > 0.999
        gaps = [x for x in own if x.id == "faithfulness/deletion_gap" and x.group is None]
        assert {x.fill for x in gaps} == {"mean", "imputed"}
        joint, of_label = [x for x in gaps if x.fill == "mean"]
        assert (joint.target, of_label.target) == ("predicted", "label")
        assert joint.estimator.startswith(f"{name}, {JOINT} ranking")
        assert of_label.estimator == joint.estimator
    # What is ranked by what it really gives goes at least as fast as anything else.
    signed = [line for line in found.lines if line.id == "faithfulness/deletion_gap" and "Shapley" in line.estimator]
    assert all(line.value >= 0 for line in signed)
    assert {"curve/joint/deletion", "curve/audio/insertion_random"} <= set(found.arrays)


@pytest.mark.slow
def test_labels_that_were_shuffled_leave_the_prediction_explained(rng):
    """T8: what is explained is the prediction, whose reasons the maps do tell; shares rank as drops do."""
    found = faithfulness(study_of("T8 shuffled labels", rng, 60))
    gaps = [x.value for x in found.lines if x.id == "faithfulness/deletion_gap" and x.estimator.startswith("Shapley")]
    assert min(gaps) >= 0
    assert max(gaps) > 0.05


@pytest.mark.slow
def test_an_exclusive_or_is_not_told_by_slopes(rng):
    """T3 about means of 0: both cues gone take s = 2 a v with them; the slopes add up to a df/da + v df/dv = 2 s."""
    study = study_of("T3 exclusive or", rng, 30)
    part = study.part(4)
    one, removal = by_gradient(study, part), Removal(study, part)
    every = np.ones((1, len(study.raw_players)), bool)
    change = [float((removal.logit(row)(every) - removal.logit(row)(~every))[0, 0]) for row in range(4)]
    np.testing.assert_allclose(one.signed.sum(axis=1), 2 * np.array(change), rtol=1e-4)
