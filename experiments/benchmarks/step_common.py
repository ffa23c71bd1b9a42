"""What benchmarks of a whole training step share: an experiment that reads nothing, and a batch of features."""

from __future__ import annotations

from typing import Any

import numpy as np

from avjax.data.frontend import Frontend
from avjax.data.pipeline import Data
from avjax.experiment import Experiment, Training
from avjax.models import mbt
from avjax.streams import Batch, Stream


def step(model: mbt.Config, objective: Any, optimizer: Any, rows: int, **training: Any) -> Experiment:
    """An experiment on batches of ``batch``: features go to the model as they are."""
    return Experiment(
        model=model,
        data=Data("none", batch=rows),
        frontend=Frontend(audio=None, video=None),
        objective=objective,
        optimizer=optimizer,
        training=Training(steps=1000, **training),
    )


def batch(experiment: Experiment) -> Batch:
    """Random features, all of them valid, and one class a head."""
    rng, rows = np.random.default_rng(0), experiment.data.batch
    streams = {
        patches.modality: Stream(
            values=rng.standard_normal((rows, *patches.shape), np.float32),
            valid=np.ones((rows, patches.shape[0]), bool),
            start=np.zeros(rows, np.float32),
            rate=1.0,
        )
        for patches in experiment.model.modalities
    }
    target = {
        head: np.eye(count, dtype=np.float32)[rng.integers(0, count, rows)]
        for head, count in experiment.model.classes.items()
    }
    return Batch(streams, target, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))
