"""A run restored: onto other devices, with other records, without its checkpoint."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import sklearn.metrics

from avjax.data import media
from avjax.experiment import load
from avjax.run import Run, RunError
from avjax.training.evaluate import average
from avjax.training.loop import train
from avjax.training.trained import Trained
from tests.fixtures.records import write_experiment, write_records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    tiny = write_experiment(folder / "experiments", write_records(folder / "records"))
    words = ("--training.steps", "3", "--training.mesh.data", "2", "--training.mesh.fsdp", "4")
    experiment, source = load(tiny, words)
    made = Run.create(folder / "run", experiment, source)
    train(experiment, made, quiet=True)
    return made


def test_score_repeats_what_training_ended_with(run):
    before = run.results()["test"]
    after = Trained.load(run.path).score("test")
    assert after["metrics"] == before["metrics"]
    assert after["losses"]["loss"] == pytest.approx(before["losses"]["loss"], rel=1e-5)


def test_a_modality_is_scored_on_the_clips_that_have_it(run):
    found = Trained.load(run.path).score("test")["metrics"]
    # Clip 3 has no sound, clip 4 no pictures.
    assert {name: found[name]["accuracy"]["count"] for name in found} == {
        "label": 10, "label/audio": 9, "label/video": 9,
    }  # fmt: skip
    arrays = run.predictions("test")
    rows = np.arange(10) != 3
    right = arrays["predicted:label/audio"].argmax(1) == arrays["target:label"].argmax(1)
    assert found["label/audio"]["accuracy"]["value"] == pytest.approx(right[rows].mean())


@pytest.mark.long
def test_several_labels_a_clip_are_scored_by_map(tmp_path):
    tiny = write_experiment(tmp_path / "experiments", write_records(tmp_path / "records", several=True))
    tiny.write_text(tiny.read_text().replace("Classification()", 'Classification("sigmoid")'))
    experiment, source = load(tiny, ("--training.steps", "3"))
    made = Run.create(tmp_path / "run", experiment, source)
    found = train(experiment, made, quiet=True)["test"]["metrics"]["label"]
    arrays = made.predictions("test")
    target = arrays["target:label"]
    assert sorted(set(target.sum(axis=1))) == [0, 1, 2]
    expected = sklearn.metrics.average_precision_score(target, arrays["predicted:label"], average="macro")
    assert set(found) == {"map"}
    assert found["map"]["value"] == pytest.approx(expected)


def test_averages_of_runs_on_other_clips_are_refused(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "test.npz"
    with np.load(file) as arrays:
        changed = dict(arrays)
    changed["target:label"] = changed["target:label"][:, ::-1]
    np.savez(file, **changed)
    with pytest.raises(RunError, match="not scored on the same clips"):
        average([run.path, tmp_path / "run"], "test", tmp_path / "mean")


def test_clips_of_several_classes_want_an_objective_for_them(tmp_path):
    tiny = write_experiment(tmp_path / "experiments", write_records(tmp_path / "records", several=True))
    experiment, source = load(tiny)
    with pytest.raises(ValueError, match=r"several classes of 'label'.*--objective\.kind sigmoid"):
        train(experiment, Run.create(tmp_path / "run", experiment, source), quiet=True)


def test_pictures_are_given_in_the_colours_that_the_model_knows(run, tmp_path, rng, monkeypatch):
    """A model of grey pictures is shown the luma of a video in colour."""
    frames = media.Frames(rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8), np.arange(3) / 25)
    monkeypatch.setattr(media, "decode", lambda *_, **__: media.Media(None, frames))
    trained = Trained.load(run.path)
    assert trained._read(tmp_path, None).video.read().shape[-1] == 3
    grey = dataclasses.replace(trained.description, video={**trained.description.video, "channels": 1})
    shown = dataclasses.replace(trained, description=grey)._read(tmp_path, None).video.read()
    np.testing.assert_allclose(shown[..., 0], frames.images @ [0.299, 0.587, 0.114], atol=0.5001)


def test_one_device_gives_the_same_predictions_as_eight(run, monkeypatch):
    eight = Trained.load(run.path)
    eight.score("test")
    expected = run.predictions("test")["predicted:label"]
    only = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: only)
    one = Trained.load(run.path)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(one.state.params)} == {1}
    one.score("test")
    np.testing.assert_allclose(run.predictions("test")["predicted:label"], expected, atol=1e-5)


def test_records_of_other_classes_are_refused(run, tmp_path):
    other = write_records(tmp_path / "records")
    text = (other / "dataset.json").read_text().replace('["low", "high"]', '["high", "low"]')
    (other / "dataset.json").write_text(text)
    with pytest.raises(RunError, match="was trained on others"):
        Trained.load(run.path).score("test", other)


def test_a_run_without_a_checkpoint_is_told(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunError, match="has no checkpoint yet"):
        Trained.load(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    with pytest.raises(RunError, match="has no whole checkpoint"):
        Trained.load(tmp_path / "run")
