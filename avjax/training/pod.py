"""A training step for devices that are not here: its shapes, shardings and program, without one array.

The same step, rules and mesh as in training, with an abstract mesh in place of devices. What is wrong with an
experiment on 256 devices shows on a laptop in seconds.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from avjax.data.pipeline import Crop
from avjax.data.records import Description
from avjax.experiment import Experiment
from avjax.streams import Batch
from avjax.training.checkpoint import named_leaves
from avjax.training.on_mesh import abstract_state, jit_train
from avjax.training.sharding import MeshShape, batch_sharding


@dataclasses.dataclass(frozen=True)
class PodStep:
    """A lowered training step.

    Attributes:
      lowered: the program; ``lowered.as_text()`` is its StableHLO.
      state: abstract, with shardings.
      bytes_per_device: of the state, by name.
    """

    lowered: Any
    state: Any
    bytes_per_device: dict[str, int]

    def replicated(self, above: int) -> dict[str, int]:
        """The arrays of the state of which every device holds all, and more than so many bytes: name -> bytes."""
        found = {}
        for name, leaf in named_leaves(self.state).items():
            size = math.prod(leaf.shape) * leaf.dtype.itemsize
            if leaf.sharding.is_fully_replicated and size > above:
                found[name] = size
        return found


def lower(
    experiment: Experiment, description: Description, mesh: MeshShape, devices: int, *, rows: int, platform: str
) -> PodStep:
    """The training step of an experiment on a mesh of devices that need not exist.

    Args:
      description: of records such as the experiment reads: sizes of pictures, classes.
      mesh: devices along each axis.
      devices: how many in all.
      rows: of the global batch.
      platform: to lower for: cpu, tpu, cuda or rocm.
    """
    rules = experiment.training.rules
    abstract_mesh = mesh.abstract(devices)
    steps, state = abstract_state(experiment, abstract_mesh)
    train = jit_train(steps, state)
    batch = abstract_batch(experiment, description, rows, batch_sharding(abstract_mesh, rules))
    whole = NamedSharding(abstract_mesh, PartitionSpec())
    key = jax.eval_shape(lambda: jax.random.key(0))
    seed = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    lowered = train.trace(state, batch, seed).lower(lowering_platforms=(platform,))
    held = {
        name: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for name, leaf in named_leaves(state).items()
    }
    return PodStep(lowered, state, held)


def abstract_batch(experiment: Experiment, description: Description, rows: int, sharding: NamedSharding) -> Batch:
    """The shapes of a batch."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=sharding),
        Crop(experiment.data, description).empty(0),
    )
