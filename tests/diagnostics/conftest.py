"""A trained run for whatever is asked of a model."""

from __future__ import annotations

import dataclasses

import pytest

from avjax.cli import main
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.tiers import STANDARD, TIERS
from avjax.experiment import load
from avjax.run import Run
from avjax.training.loop import train
from avjax.training.trained import Trained
from tests.fixtures.records import write_experiment, write_records

# Every stage, each as small as it can be.
SMALL = dataclasses.replace(
    STANDARD,
    name="smoke",
    clips=8,
    shapley=4,
    attention=4,
    gradients=2,
    additive=4,
    faithful=2,
    stressed=4,
    attacked=4,
    permutations=(4, 4),
    corruptions=("audio/white_noise", "video/brightness"),
    severities=(1, 2),
    offsets=(40.0,),
    rates=(0.5, 1.0),
    attack_steps=1,
)


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """Three steps of the tiny model, with a checkpoint of each, on ten made-up clips, of which two lack a modality."""
    folder = tmp_path_factory.mktemp("diagnosed")
    tiny = write_experiment(folder / "experiments", write_records(folder / "records"))
    words = ("--training.steps", "3", "--training.checkpoint-every", "1", "--training.keep-last", "3")
    experiment, source = load(tiny, words)
    made = Run.create(folder / "run", experiment, source)
    train(experiment, made, quiet=True)
    return made


@pytest.fixture(scope="session")
def probe(run) -> ModelProbe:
    return ModelProbe.of(Trained.load(run.path))


@pytest.fixture(scope="session")
def diagnosed(run, tmp_path_factory) -> list[str]:
    """The words of a command that has gone through every stage: ``--out`` holds the report.

    The run stands in for one that was trained on sound alone, too.
    """
    out = tmp_path_factory.mktemp("report")
    words = ["diagnose", str(run.path), "--tier", "smoke", "--out", str(out), "--quiet", "--alone", f"audio={run.path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TIERS, "smoke", SMALL)
        assert main(words) == 0
    return words
