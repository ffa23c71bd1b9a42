"""Small models, batches and parameters for tests."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
from flax import nnx

from avjax.data.frontend import Frontend
from avjax.models import mbt
from avjax.nn.encoders import Patches
from avjax.nn.transformer import Size
from avjax.objectives.classification import Classification
from avjax.streams import Batch, Stream
from avjax.training.step import Steps, split_model

# Tiny programs take far longer to compile than to run.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)

# Different numbers of tokens (6, 4, 3), of axes, and of time steps a token.
AUDIO = Patches("audio", shape=(6, 4), patch=(2, 2))
VIDEO = Patches("video", shape=(4, 4, 2, 3), patch=(2, 2, 2))
TOUCH = Patches("touch", shape=(3, 5), patch=(1,))
CLASSES = {"emotion": 4, "speaker": 3}
SIZE = Size(width=8, depth=2, heads=2)


def config(**changes) -> mbt.Config:
    """A small MBT of two layers."""
    return mbt.Config(**({"modalities": (VIDEO, AUDIO), "classes": CLASSES, "size": SIZE, "fusion_layer": 1} | changes))


def batch(rng: np.random.Generator, modalities=(VIDEO, AUDIO), rows: int = 4, classes=CLASSES) -> Batch:
    """Random features, everything present, one-hot targets."""
    streams = {
        p.modality: Stream(
            values=rng.normal(size=(rows, *p.shape)).astype(np.float32),
            valid=np.ones((rows, p.shape[0]), bool),
            start=np.zeros(rows, np.float32),
            rate=10.0,
        )
        for p in modalities
    }
    target = {head: np.eye(k, dtype=np.float32)[rng.integers(0, k, rows)] for head, k in classes.items()}
    return Batch(streams, target, np.ones(rows, np.float32), np.arange(rows))


def randomise(params: nnx.State, rng: np.random.Generator, scale: float = 0.4) -> nnx.State:
    """Parameters with nothing at zero or one, where an error could hide."""
    return jax.tree.map(lambda x: (x + scale * rng.normal(size=x.shape)).astype(np.float32), params)


def plain(params: nnx.State) -> dict:
    """Nested dict of float64 arrays."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(params))


def steps(model: nnx.Module, optimizer=None, **changes) -> tuple[Steps, nnx.State, nnx.State]:
    """Step functions over features as they are, and the parameters and buffers of the model."""
    graph, params, buffers, constants = split_model(model)
    optimizer = optimizer or optax.sgd(0.1)
    objective = changes.pop("objective", Classification())
    made = Steps(graph, constants, Frontend(audio=None, video=None), objective, optimizer, **changes)
    return made, nnx.as_pure(params), nnx.as_pure(buffers)
