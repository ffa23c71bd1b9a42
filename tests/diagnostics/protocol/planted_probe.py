"""The planted models as probes, on clips of their own tasks."""

from __future__ import annotations

import dataclasses

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
from avjax.streams import Batch
from avjax.training.sharding import MeshShape
from avjax.training.step import Steps, split_model
from tests.models.planted import CASES, HEAD, MODALITIES, STEPS

BATCH = 64
TIER = dataclasses.replace(
    SMOKE, clips=None, shapley=16, attention=None, gradients=16, additive=200, faithful=4, stressed=None,
    trained=32, randomised=32, pointed=32,
    permutations=(16, 16), fills=("drop",), corruptions=(), rates=(0.5, 1.0), timed=32, relevance=True,
)  # fmt: skip


def probe_of(name: str) -> ModelProbe:
    return probe_for(CASES[name].model)


def probe_for(model: nnx.Module) -> ModelProbe:
    graph, params, buffers, constants = split_model(model)
    steps = Steps(graph, constants, Frontend(None, None), Classification(), optax.identity())
    state = steps.create(nnx.as_pure(params), nnx.as_pure(buffers))
    grids = dict.fromkeys(MODALITIES, (STEPS,))
    sharding = NamedSharding(MeshShape().build(jax.devices()[:1]), PartitionSpec("data"))
    return ModelProbe(MODALITIES, HEAD, ("no", "yes"), BATCH, steps, state, sharding, grids)


def clips_of(batch: Batch) -> Clips:
    label = np.asarray(batch.target[HEAD]).argmax(axis=1)
    return Clips(dict(batch.streams), label, tuple(f"clip {row}" for row in batch.index), np.asarray(batch.index))


def study_of(name: str, rng: np.random.Generator, rows: int = 400) -> Study:
    return Study(probe_of(name), clips_of(CASES[name].batch(rng, rows)), TIER, resamples=20)
