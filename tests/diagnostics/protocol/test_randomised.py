"""Weights made random: explanations that are of them change by as much as the weights do, and others stay."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.protocol.randomised import (
    another_class,
    another_zero,
    gradient_maps,
    levels,
    randomised,
    shuffled,
)
from avjax.diagnostics.protocol.study import Study
from avjax.models import mbt
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_for, study_of
from tests.models.planted import MODALITIES, STEPS, Planted, batch_of
from tests.models.tiny import config


class Weighted(Planted):
    """The sum of all steps, each times a weight; of sound the weights are there and do nothing."""

    def __init__(self, rng):
        self.weight = nnx.Dict({m: nnx.Param(jnp.asarray(rng.gamma(1.0, size=STEPS), jnp.float32)) for m in MODALITIES})

    def decide(self, tokens):
        heard, seen = (tokens[m].values[..., 0] for m in MODALITIES)
        return heard.sum(axis=1) + 0 * self.weight["audio"].sum() + (seen * self.weight["video"]).sum(axis=1)


@pytest.fixture
def study(rng) -> Study:
    label = rng.random(12) < 0.5
    batch = batch_of(rng, dict.fromkeys(MODALITIES, np.zeros(12)), label)
    streams = {
        m: s.replace(values=rng.normal(size=s.values.shape).astype(np.float32)) for m, s in batch.streams.items()
    }
    clips = clips_of(batch.replace(streams=streams))
    return Study(probe_for(Weighted(rng)), clips, dataclasses.replace(TIER, randomised=None), resamples=10)


def ranks(found, name):
    return {
        line.group: line.value
        for line in found.lines
        if line.id == "faithfulness/rank_cascade" and line.estimator.startswith(name)
    }


def test_rank_agreement_is_that_of_the_weights_it_is_of(study):
    found = randomised(study)
    after = shuffled(study.probe.state, 0, seed=study.seed)
    x = np.asarray(study.clips.streams["video"].values)[..., 0].astype(np.float64)
    terms = [x * np.asarray(state.params["weight"]["video"][...], np.float64) for state in (study.probe.state, after)]
    slope = ranks(found, "gradient x input")
    assert slope["video"] == pytest.approx(np.mean(rank_correlation(*map(np.abs, terms))), abs=1e-6)
    # Weights that do nothing may be anything: the map stays, which is what the test is there to tell.
    assert slope["audio"] == pytest.approx(1)
    # Tokens left out one at a time, signed, of the same sums; what is nearly equal may change places by rounding.
    left = ranks(found, "tokens left out")
    assert left["video"] == pytest.approx(np.mean(rank_correlation(*terms)), abs=0.02)


def test_the_map_of_another_class(study):
    """Of two classes that are told by one number magnitudes agree fully."""
    part = study.part(None)
    lines = another_class(study, part, gradient_maps(study.probe, part.clips, part.clean.predicted))
    assert {line.group: line.value for line in lines} == pytest.approx({"audio": 1, "video": 1})


def test_the_map_from_another_zero(study):
    """Of a sum the gradient is the weights: with the input moved the map is of |(x + m) w|."""
    part = study.part(None)
    lines = another_zero(study, part, gradient_maps(study.probe, part.clips, part.clean.predicted))
    found = {line.group: line.value for line in lines}
    weight = np.asarray(study.probe.state.params["weight"]["video"][...], np.float64)
    whole = np.asarray(study.clips.streams["video"].values, np.float64)
    x = whole[..., 0]
    moved = x + whole.std(axis=(1, 2))[:, None]
    expected = rank_correlation(np.abs(x * weight), np.abs(moved * weight))
    assert found["video"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert {line.id for line in lines} == {"faithfulness/input_invariance"}
    # Where it is not moved, the logit of a class is half of the sum.
    same = gradient_maps(study.probe, part.clips, part.clean.predicted, shift=0.0)["video"]
    np.testing.assert_allclose(same[:, 0], np.abs(x * weight) / 2, rtol=1e-5)


def test_a_model_without_weights_is_told(rng):
    study = study_of("T1 audio only", rng, 8)
    (line,) = randomised(study).lines
    assert line.status == "skipped"
    assert "no weights" in line.reason


def test_layers_go_from_the_head_down():
    params = nnx.eval_shape(lambda: nnx.state(mbt.MBT(config(), rngs=nnx.Rngs(0)), nnx.Param))
    found = levels(nnx.as_pure(params))
    assert [level.name for level in found] == ["head", "fusion.0", "unimodal.0", "encoders"]
    assert [level.above for level in found] == [0, 1, 2, 3]


def test_a_shuffle_moves_weights_and_makes_none(study):
    state = study.probe.state
    after, before = (jax.tree.leaves(shuffled(state, above, seed=3).params) for above in (0, -1))
    for one, mixed, same in zip(jax.tree.leaves(state.params), after, before, strict=True):
        np.testing.assert_array_equal(np.sort(one), np.sort(mixed))
        # Above the head there is nothing.
        np.testing.assert_array_equal(one, same)
