"""Meshes, and which axis of which array lies on which axis of the mesh."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

# A parameter above so many bytes is cut up even where the axis that the rules name cannot be.
WHOLE_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis of the mesh; one axis may be -1 for whatever is left.

    Attributes:
      data: batch rows; parameters are repeated along it. It is the axis that crosses slices.
      fsdp: batch rows, and parameters cut up.
      tensor: heads and hidden units.
      sequence: tokens.
      slices: groups of devices with a fast network inside and a slow one between them: TPU slices. 0 asks the
        devices. Every slice holds an equal part of ``data`` and all of the other axes.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    slices: int = 0

    def shape(self, count: int) -> tuple[int, ...]:
        """The extent of every axis on ``count`` devices."""
        shape = [getattr(self, axis) for axis in MESH_AXES]
        known = math.prod(extent for extent in shape if extent != -1)
        fits = known > 0 and count % known == 0 and (-1 in shape or known == count)
        if not fits or shape.count(-1) > 1 or min(shape) < -1:
            raise ValueError(
                f"a mesh of {dict(zip(MESH_AXES, shape, strict=True))} does not fit {count} devices;"
                " set one axis to -1, or make the product of all axes the number of devices"
            )
        return tuple(count // known if extent == -1 else extent for extent in shape)

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """A mesh over ``devices``, or over all there are."""
        devices = list(jax.devices() if devices is None else devices)
        shape = self.shape(len(devices))
        # On GPUs the number is that of the host.
        known = {getattr(device, "slice_index", 0) for device in devices if device.platform != "gpu"}
        slices = self.slices or max(len(known), 1)
        auto = (AxisType.Auto,) * len(MESH_AXES)
        if slices == 1:
            return jax.make_mesh(shape, MESH_AXES, axis_types=auto, devices=devices)
        data, *inner = shape
        if data % slices:
            raise ValueError(
                f"a data axis of {data} cannot be divided over {slices} slices; make --training.mesh.data a multiple"
                f" of {slices}"
            )
        if len(known) < 2:
            # Devices that know of no slices, in the order of their processes: equal parts of them.
            return Mesh(np.asarray(devices).reshape(shape), MESH_AXES, axis_types=auto)
        across = (slices, *(1 for _ in inner))
        return Mesh(
            mesh_utils.create_hybrid_device_mesh((data // slices, *inner), across, devices), MESH_AXES, axis_types=auto
        )

    def abstract(self, count: int) -> AbstractMesh:
        """The mesh of ``count`` devices that are not here, to compile for."""
        return AbstractMesh(self.shape(count), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


@dataclasses.dataclass(frozen=True)
class Rules:
    """Logical axis -> mesh axes; the later ones are left out where they do not divide the axis.

    Attributes:
      batch, sequence: rows and tokens of activations.
      embed, heads, hidden, classes, patch, token: axes of parameters; heads and hidden units of activations too.
    """

    batch: tuple[str, ...] = ("data", "fsdp")
    sequence: tuple[str, ...] = ("sequence",)
    embed: tuple[str, ...] = ("fsdp",)
    heads: tuple[str, ...] = ("tensor",)
    hidden: tuple[str, ...] = ("tensor",)
    classes: tuple[str, ...] = ()
    patch: tuple[str, ...] = ()
    token: tuple[str, ...] = ()

    def places(
        self, mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int]
    ) -> list[tuple[str, ...]]:
        """The axes of the mesh over which each axis of an array lies that has these logical names.

        Of two that have one name, as in a product from a width to itself, the first is cut and the second is whole.
        """
        found: list[tuple[str, ...]] = []
        for name, extent in zip(axes, shape, strict=True):
            taken = {axis for place in found for axis in place}
            where = [axis for axis in (getattr(self, name) if name else ()) if axis not in taken]
            found.append(_dividing(mesh, where, extent))
        return found

    def spec(self, mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int]) -> PartitionSpec:
        """The same for JAX."""
        return PartitionSpec(*(place or None for place in self.places(mesh, axes, shape)))

    def parameter_spec(
        self, mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int], size: int
    ) -> PartitionSpec:
        """``spec`` of a parameter of so many bytes; none of above ``WHOLE_BYTES`` stays whole where any axis divides.

        A width of 384 is not divided by 256 devices, but the 1536 hidden units beside it are.
        """
        places = self.places(mesh, axes, shape)
        cut = tuple(axis for axis in self.embed if mesh.shape[axis] > 1)
        taken = {axis for place in places for axis in place}
        if size > WHOLE_BYTES and cut and not taken & set(cut):
            for axis in sorted(range(len(shape)), key=lambda k: -shape[k]):
                if shape[axis] % math.prod(mesh.shape[a] for a in (*places[axis], *cut)) == 0:
                    places[axis] = (*places[axis], *cut)
                    break
        return PartitionSpec(*(place or None for place in places))


def _dividing(mesh: Mesh | AbstractMesh, where: Sequence[str], extent: int) -> tuple[str, ...]:
    """As many of the mesh axes, from the first on, as divide the extent."""
    places, parts = [], 1
    for axis in where:
        parts *= mesh.shape[axis]
        if extent % parts:
            break
        if mesh.shape[axis] > 1:
            places.append(axis)
    return tuple(places)


def batch_sharding(mesh: Mesh | AbstractMesh, rules: Rules) -> NamedSharding:
    """Rows of a batch over the devices."""
    return NamedSharding(mesh, PartitionSpec(rules.batch))


def state_sharding(mesh: Mesh | AbstractMesh, rules: Rules, state: Any) -> Any:
    """The sharding of every array of a (possibly abstract) training state.

    Parameters carry the logical names of their axes as metadata, and the optimizer's moments of a parameter
    carry the same; whatever has none is repeated on every device.
    """

    def place(leaf: Any) -> Any:
        if isinstance(leaf, nnx.Variable):
            value = leaf.get_value()
            axes = leaf.get_metadata().get("axes") or ()
            axes = axes if len(axes) == value.ndim else (None,) * value.ndim
            size = value.size * value.dtype.itemsize
            return leaf.replace(NamedSharding(mesh, rules.parameter_spec(mesh, axes, value.shape, size)))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(place, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
