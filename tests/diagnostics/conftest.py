"""A trained run for whatever is asked of a model."""

from __future__ import annotations

import pytest

from avjax.diagnostics.probe import ModelProbe
from avjax.experiment import load
from avjax.run import Run
from avjax.training.loop import train
from avjax.training.trained import Trained
from tests.fixtures.records import write_experiment, write_records


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """Three steps of the tiny model on ten made-up clips, of which two lack a modality."""
    folder = tmp_path_factory.mktemp("diagnosed")
    tiny = write_experiment(folder / "experiments", write_records(folder / "records"))
    experiment, source = load(tiny, ("--training.steps", "3"))
    made = Run.create(folder / "run", experiment, source)
    train(experiment, made, quiet=True)
    return made


@pytest.fixture(scope="session")
def probe(run) -> ModelProbe:
    return ModelProbe.of(Trained.load(run.path))
