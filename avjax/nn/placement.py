"""Where activations lie: the mesh and the rules that a model is traced under.

Models name the axes of what they compute; ``training/sharding.py`` says which axis of the mesh each name stands for.
Outside ``placed_on``, as in a notebook, nothing is placed.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

# Logical axes of activations, as far as they lie on the mesh at all.
BATCH, SEQUENCE = "batch", "sequence"

Axes = tuple[str | None, ...]


@runtime_checkable
class RulesProtocol(Protocol):
    """What is asked of ``avjax.training.sharding.Rules``."""

    def places(self, mesh: Mesh | AbstractMesh, axes: Axes, shape: tuple[int, ...]) -> list[tuple[str, ...]]: ...

    def spec(self, mesh: Mesh | AbstractMesh, axes: Axes, shape: tuple[int, ...]) -> PartitionSpec: ...


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and the rules for it.

    Attributes:
      mesh: of devices, or an abstract one, for which a step is lowered where the devices are not.
      rules: logical axis -> axes of the mesh.
    """

    mesh: Mesh | AbstractMesh
    rules: RulesProtocol

    def places(self, name: str, extent: int) -> tuple[str, ...]:
        """The axes of the mesh over which an axis of this logical name lies."""
        return self.rules.places(self.mesh, (name,), (extent,))[0]

    def spec(self, axes: Axes, shape: tuple[int, ...]) -> PartitionSpec:
        """Where an array lies whose axes have these logical names."""
        return self.rules.spec(self.mesh, axes, shape)


_current: contextvars.ContextVar[Placement | None] = contextvars.ContextVar("placement", default=None)


def current() -> Placement | None:
    """The placement that is being traced under; None where there is none, or one device."""
    return _current.get()


@contextlib.contextmanager
def placed_on(placement: Placement | None) -> Iterator[None]:
    """Traces what is inside for this mesh. One device needs no placement."""
    alone = placement is None or placement.mesh.size == 1
    token = _current.set(None if alone else placement)
    try:
        yield
    finally:
        _current.reset(token)


def constrain(values: Shaped[Array, "..."], *axes: str | None) -> Shaped[Array, "..."]:
    """Says where an activation lies, one logical name (or None, whole) an axis.

    Without it XLA is free to cut activations along the axis by which the parameters of a layer are cut, and to send
    all of them around instead of the parameters.
    """
    placement = current()
    if placement is None:
        return values
    sharding = NamedSharding(placement.mesh, placement.spec(axes, values.shape))
    return jax.lax.with_sharding_constraint(values, sharding)
