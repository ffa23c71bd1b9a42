"""The state and the steps of an experiment on a mesh: state born sharded, steps compiled once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from avjax.experiment import Experiment
from avjax.streams import Batch
from avjax.training.evaluate import EvaluateStep
from avjax.training.sharding import batch_sharding, state_sharding
from avjax.training.step import Steps, TrainState, split_model


class DeviceBatches:
    """From the rows of this process to the global batch on the devices.

    Attributes:
      own: places in the global batch of the rows that lie on this process's devices. Along ``tensor`` and
        ``sequence`` several processes may hold, and read, the same rows.

    Raises:
      ValueError: where the batch does not divide over the devices.
    """

    def __init__(self, mesh: Mesh, rules: Any, rows: int):
        self.sharding = batch_sharding(mesh, rules)
        self.rows = rows
        parts = int(np.prod([mesh.shape[axis] for axis in rules.batch]))
        if rows % parts:
            raise ValueError(
                f"a batch of {rows} rows cannot be divided over {parts} devices; set --data.batch to a multiple of"
                f" {parts}, or --training.mesh to fewer"
            )

    @functools.cached_property
    def own(self) -> tuple[int, ...]:
        slices = self.sharding.addressable_devices_indices_map((self.rows,)).values()
        return tuple(sorted({row for (part,) in slices for row in range(*part.indices(self.rows))}))

    def __call__(self, local: Batch) -> Batch:
        if jax.process_count() == 1:
            return jax.device_put(local, self.sharding)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                self.sharding, np.asarray(x), (self.rows, *np.shape(x)[1:])
            ),
            local,
        )


def build_state(experiment: Experiment, mesh: Mesh) -> tuple[Steps, Callable[[], TrainState], TrainState]:
    """Step functions, a function that makes the first state, and the abstract state with its shardings.

    No array exists unsharded at any time: initial values are computed by one jitted function straight into place.
    """
    steps, abstract = abstract_state(experiment, mesh)

    def initialise() -> TrainState:
        _, params, buffers, _ = split_model(experiment.build_model())
        return steps.create(nnx.as_pure(params), nnx.as_pure(buffers))

    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return steps, jax.jit(initialise, out_shardings=shardings), abstract


def abstract_state(experiment: Experiment, mesh: Mesh | AbstractMesh) -> tuple[Steps, TrainState]:
    """Step functions for a mesh, and the shapes and shardings of the state on it."""
    steps, params, buffers = experiment.steps(mesh)
    # Variables know the logical axes of a parameter, and the optimizer's moments of it are variables as well.
    variables = jax.eval_shape(steps.create, params, buffers)
    shardings = state_sharding(mesh, experiment.training.rules, variables)
    return steps, jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        nnx.as_pure(variables),
        nnx.as_pure(shardings),
    )


def jit_train(steps: Steps, abstract: TrainState) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The training step. The state comes back laid out as it was given, or the second step would compile anew."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    # Metrics lie whole on every device, so that every process can read them.
    whole = NamedSharding(abstract.step.sharding.mesh, PartitionSpec())
    return jax.jit(steps.train, donate_argnums=0, out_shardings=(shardings, whole))


def jit_evaluate(steps: Steps, mesh: Mesh) -> EvaluateStep:
    """The evaluation step; its results lie whole on every device, so that every process can read them."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(steps.evaluate, out_shardings=whole)


def at_step(state: TrainState, number: int) -> TrainState:
    """The state with another number of steps taken."""
    return dataclasses.replace(state, step=jax.device_put(np.int32(number), state.step.sharding))
