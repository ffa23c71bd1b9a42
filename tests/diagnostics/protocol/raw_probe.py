"""Models of raw sound and frames that are written down, as probes: what an attacker may change has its units here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from avjax.data.frontend import Frontend
from avjax.diagnostics.clips import Clips
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Study
from avjax.diagnostics.protocol.tiers import SMOKE
from avjax.objectives.classification import Classification
from avjax.streams import Stream
from avjax.training.sharding import MeshShape
from avjax.training.step import Steps, split_model
from tests.models.planted import HEAD, MODALITIES, Planted

SAMPLES, FRAMES, SIDE = 32, 2, 8
TIER = dataclasses.replace(
    SMOKE, clips=None, gradients=None, timed=32, trained=32, randomised=32, pointed=32, attacked=None, attack_steps=4
)


def probe_of(model: nnx.Module | Callable, batch: int = 16, classes: tuple[str, ...] = ("no", "yes")) -> ModelProbe:
    """Of a module, or of what a planted one decides by."""
    module = model if isinstance(model, nnx.Module) else Planted(model)
    graph, params, buffers, constants = split_model(module)
    steps = Steps(graph, constants, Frontend(None, None), Classification(), optax.identity())
    state = steps.create(nnx.as_pure(params), nnx.as_pure(buffers))
    grids = {"audio": (SAMPLES,), "video": (FRAMES,)}
    sharding = NamedSharding(MeshShape().build(jax.devices()[:1]), PartitionSpec("data"))
    return ModelProbe(MODALITIES, HEAD, classes, batch, steps, state, sharding, grids)


def clips_of(sound: np.ndarray, frames: np.ndarray, label: np.ndarray) -> Clips:
    """Everything is there, every clip is a video of its own."""
    rows = len(label)
    streams = {
        "audio": Stream(sound.astype(np.float32), np.ones(sound.shape[:2], bool), np.zeros(rows, np.float32), 16.0),
        "video": Stream(frames.astype(np.float32), np.ones(frames.shape[:2], bool), np.zeros(rows, np.float32), 1.0),
    }
    return Clips(streams, np.asarray(label), tuple(f"clip {row}" for row in range(rows)), np.arange(rows))


def study_of(model: nnx.Module | Callable, clips: Clips, tier=TIER, **fields) -> Study:
    return Study(probe_of(model), clips, tier, resamples=20, **fields)
