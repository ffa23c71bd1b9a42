"""Meshes, and which axis of which array lies on which axis of the mesh."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh; one axis may be -1 for whatever is left.

    Attributes:
      data: batch rows; parameters are repeated along it.
      fsdp: batch rows, and parameters cut up.
      tensor: heads and hidden units.
      sequence: tokens.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1

    def build(self, devices: list[jax.Device] | None = None) -> Mesh:
        """A mesh over ``devices``, or over all there are."""
        devices = jax.devices() if devices is None else devices
        shape = [getattr(self, axis) for axis in MESH_AXES]
        known = math.prod(extent for extent in shape if extent != -1)
        fits = known > 0 and len(devices) % known == 0 and (-1 in shape or known == len(devices))
        if not fits or shape.count(-1) > 1 or min(shape) < -1:
            raise ValueError(
                f"a mesh of {dict(zip(MESH_AXES, shape, strict=True))} does not fit {len(devices)} devices;"
                " set one axis to -1, or make the product of all axes the number of devices"
            )
        shape = [len(devices) // known if extent == -1 else extent for extent in shape]
        return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes. An axis that the mesh axes do not divide stays whole."""

    batch: tuple[str, ...] = ("data", "fsdp")
    embed: tuple[str, ...] = ("fsdp",)
    heads: tuple[str, ...] = ("tensor",)
    hidden: tuple[str, ...] = ("tensor",)
    classes: tuple[str, ...] = ()
    patch: tuple[str, ...] = ()
    token: tuple[str, ...] = ()

    def spec(self, mesh: Mesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """Where an array lies whose axes have these logical names."""
        places = []
        for name, extent in zip(axes, shape, strict=True):
            where = getattr(self, name) if name else ()
            parts = math.prod(mesh.shape[axis] for axis in where)
            places.append(where if where and parts > 1 and extent % parts == 0 else None)
        return PartitionSpec(*places)


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Rows of a batch over the devices."""
    return NamedSharding(mesh, PartitionSpec(rules.batch))


def state_sharding(mesh: Mesh, rules: Rules, state: Any) -> Any:
    """The sharding of every array of a (possibly abstract) training state.

    Parameters carry the logical names of their axes as metadata, and the optimizer's moments of a parameter
    carry the same; whatever has none is repeated on every device.
    """

    def place(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            value = leaf.get_value()
            axes = leaf.get_metadata().get("axes") or (None,) * value.ndim
            spec = rules.spec(mesh, axes, value.shape) if len(axes) == value.ndim else PartitionSpec()
            return leaf.replace(NamedSharding(mesh, spec))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
