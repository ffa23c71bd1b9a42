"""Drift over training: a model of two weights whose checkpoints are written down, and one that was trained."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.diagnosis import arrays
from avjax.diagnostics.probe import FunctionProbe, ModelProbe, reader_of
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.training_drift import kept_checkpoints, over_training
from avjax.experiment import load
from avjax.run import Run
from avjax.training.checkpoint import CheckpointError
from avjax.training.loop import train
from avjax.training.trained import Trained
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_for
from tests.fixtures.records import write_experiment, write_records
from tests.models.planted import MODALITIES, Planted, cue, task


class Weighing(Planted):
    """A sum of the cues, each with its weight."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(2))

    def decide(self, tokens):
        return sum(weight * seen for weight, seen in zip(self.weight[...], cue(tokens).values(), strict=True))


def study_of(rng, rows: int = 12, **weights: tuple[float, float]) -> Study:
    """With a checkpoint of these weights at each step; every clip has cues of the same size at moments of its own."""
    probe = probe_for(Weighing())
    batch = task(lambda rng, rows: dict.fromkeys(MODALITIES, np.ones(rows)), lambda cues, rng: cues["audio"] > 0)

    def at(pair):
        params = jax.tree.map(lambda old: jnp.asarray(pair, old.dtype), probe.state.params)
        return lambda: dataclasses.replace(probe.state, params=params)

    restore = {int(step.removeprefix("at_")): at(pair) for step, pair in weights.items()}
    return Study(probe, clips_of(batch(rng, rows)), TIER, resamples=20, checkpoints=restore)


def values(found: Found) -> dict:
    return {(line.id.removeprefix("drift/"), line.group): line.value for line in found.lines}


def test_weights_that_leave_the_pictures_at_step_8(rng):
    """[.5, .5] to [1, 0], whose answer is printed, at one of three steps; where each cue is, they do not differ."""
    found = over_training(study_of(rng, at_1=(1, 1), at_2=(1, 1), at_8=(1, 0), at_16=(1, 0)))
    of, once = values(found), 0.31128
    assert of["cmsd_train_raw", None] == pytest.approx(once / 3, abs=1e-5)
    assert of["cmsd_train_allocation", None] == pytest.approx(once / 3, abs=1e-5)
    for name in MODALITIES:
        assert of["cmsd_train_localisation", name] == pytest.approx(0, abs=1e-9)
    # From step 2 to 8 the steps double twice.
    ceiling = of["cmsd_train_ceiling", None]
    assert of["cmsd_train", None] == pytest.approx(min(once / ceiling, 1) / 2 / 3, abs=1e-5)
    final = {line.estimator: line.value for line in found.lines if line.id == "drift/to_final"}
    assert [pytest.approx(value, abs=1e-5) for value in final.values()] == [once, once, 0]
    assert of["settle_step", None] == 8
    assert of["collapse_step", "audio"] == of["collapse_step", "video"] == 8
    np.testing.assert_array_equal(found.arrays[arrays.STEP], [1, 2, 8, 16])
    np.testing.assert_allclose(found.arrays[arrays.ALLOCATION], [[0.5, 0.5], [0.5, 0.5], [1, 0], [1, 0]], atol=1e-6)
    np.testing.assert_allclose(found.arrays[arrays.TO_FINAL], [once, once, 0, 0], atol=1e-5)


def test_a_model_that_moves_to_the_end_has_not_settled(rng):
    found = over_training(study_of(rng, at_4=(1, 1), at_8=(1, 0.1)))
    why = {line.id: line.reason for line in found.lines}
    assert "until the last" in why["drift/settle_step"]
    assert "within 0.05 and 0.95" in why["drift/collapse_step"]


def test_too_few_checkpoints_are_counted(rng):
    study = study_of(rng, at_4=(1, 1))
    (line,) = over_training(study).lines
    assert line.reason.startswith("the run keeps one checkpoint, of step 4; ")
    assert "--training.keep-last" in line.reason

    def damaged():
        raise CheckpointError("checkpoint 2 is damaged: arrays have changed")

    both = dataclasses.replace(study, checkpoints={2: damaged, **study.checkpoints})
    (line,) = over_training(both).lines
    assert "2 checkpoints, of steps 2, 4, of which 1 cannot be used (checkpoint 2 is damaged" in line.reason
    # Of three the two that are whole do.
    more = study_of(rng, at_4=(1, 1), at_8=(1, 2))
    found = over_training(dataclasses.replace(more, checkpoints={2: damaged, **more.checkpoints}))
    assert all("1 more cannot be used" in line.estimator for line in found.lines if line.id == "drift/cmsd_train")
    (line,) = over_training(dataclasses.replace(study, checkpoints={})).lines
    assert line.reason.startswith("the run keeps 0 checkpoints; ")
    plain = FunctionProbe(MODALITIES, "label", ("no", "yes"), 8, lambda clips: np.zeros((len(clips), 2)))
    (line,) = over_training(dataclasses.replace(study, probe=plain)).lines
    assert "no checkpoints" in line.reason


@pytest.mark.slow
def test_checkpoints_of_a_run(tmp_path):
    """All that it keeps are restored; one that was damaged is told, and does not stop the rest."""
    tiny = write_experiment(tmp_path / "experiments", write_records(tmp_path / "records"))
    words = ("--training.steps", "4", "--training.checkpoint-every", "1", "--training.keep-last", "3")
    experiment, source = load(tiny, words)
    made = Run.create(tmp_path / "run", experiment, source)
    train(experiment, made, quiet=True)
    trained = Trained.load(made.path)
    kept = kept_checkpoints(trained)
    assert list(kept) == [2, 3, 4]
    for step, restore in kept.items():
        assert int(restore().step) == step
    last = jax.tree.leaves(kept[4]().params)
    for one, other in zip(last, jax.tree.leaves(trained.state.params), strict=True):
        np.testing.assert_array_equal(one, other)

    probe = ModelProbe.of(trained)
    reader = reader_of(trained, probe.head, "test")
    study = Study(probe, reader.read(reader.choose(8)), TIER, resamples=20, checkpoints=kept)
    of = values(over_training(study))
    assert of["cmsd_train_raw", None] > 0
    array = next(file for file in (made.path / "checkpoints" / "3" / "arrays").rglob("*") if file.is_file())
    array.write_bytes(b"")
    assert "1 more cannot be used: checkpoint 3 is damaged" in over_training(study).lines[0].estimator
