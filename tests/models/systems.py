"""What the contract tests of systems share: every system in its small setting, and batches that fit it."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.models import systems
from avjax.nn.model import AudioVisualModel
from avjax.streams import Batch, Stream
from avjax.training.step import split_model
from tests.models import tiny


def _is_of_sets(thing: Any, name: str) -> bool:
    """Whether this is the model of the system, and says that its tokens are sets."""
    here = isinstance(thing, type) and thing.__module__ == systems()[name].__name__
    return here and issubclass(thing, AudioVisualModel) and thing.sets


NAMES = tuple(systems())
SETS = tuple(name for name in NAMES if any(_is_of_sets(thing, name) for thing in vars(systems()[name]).values()))


def batch(config: Any, rng: np.random.Generator, rows: int) -> Batch:
    """Random features for a configuration, everything present, all starting at 0 s and lasting 2 s."""
    streams = {
        encoder.modality: Stream(
            values=rng.normal(size=(rows, *encoder.shape)).astype(np.float32),
            valid=np.ones((rows, encoder.shape[0]), bool),
            start=np.zeros(rows, np.float32),
            rate=encoder.shape[0] / 2,
        )
        for encoder in config.modalities
    }
    target = {head: np.eye(k, dtype=np.float32)[rng.integers(0, k, rows)] for head, k in config.classes.items()}
    return Batch(streams, target, np.ones(rows, np.float32), np.arange(rows))


def without(made: Batch, rows: Any, modality: str) -> Batch:
    """A batch in which some rows lack a modality."""
    stream = made.streams[modality]
    valid = np.array(stream.valid)
    valid[rows] = False
    return made.replace(streams={**made.streams, modality: stream.replace(valid=valid)})


@functools.cache
def small(name: str) -> tuple[Any, nnx.Module]:
    """A system's small configuration and its model, every parameter drawn anew so that nothing is 0 or 1."""
    config = systems()[name].Config.tiny()
    # Not compiled as one program: most of what it draws has shapes that other systems have too.
    model = config.build(nnx.Rngs(0))
    graph, params, buffers, constants = split_model(model)
    rng = np.random.default_rng(5)
    params = tiny.randomise(params, rng, 0.1)
    return config, nnx.merge(graph, params, buffers, constants)


@functools.cache
def forward(name: str):
    """(batch, keep) -> Output of the small system as it is evaluated."""
    config, model = small(name)
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graph, state = nnx.split(model)

    @tiny.jit
    def run(state, given: Batch, keep):
        return nnx.merge(graph, state, copy=True)(given, keep)

    def evaluate(given: Batch, keep: dict[str, jax.Array] | None = None):
        # Always with a mask for every modality, so that there is one program.
        rows = len(given.weight)
        every = {e.modality: jnp.ones((rows, e.tokens), bool) for e in config.modalities}
        return run(state, jax.tree.map(jnp.asarray, given), every | (keep or {}))

    return evaluate
