"""One Pallas kernel being put together: arrays and their blocks by name, tables in scalar memory, scratch memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array


class Named(dict):
    """What a kernel sees, by name: references to blocks and scratch, and the numbers of the step."""

    __getattr__ = dict.__getitem__


class Walk(NamedTuple):
    """The grid of a kernel, and what its numbers stand for.

    Attributes:
      grid: extents; the last is walked fastest.
      parallel: how many of them, from the first, may be walked in any order.
      scalars: arrays in scalar memory, by name.
      locate: (numbers of the step, references of the scalars by name) -> sample, head, row, column, group and flags.
    """

    grid: tuple[int, ...]
    parallel: int
    scalars: dict[str, Array]
    locate: Callable[[tuple, dict[str, Any]], Named]


@dataclasses.dataclass
class Launch:
    """A kernel's arrays: each with its block, and from where in the walk which block is taken."""

    walk: Walk
    scalars: dict[str, Array] = dataclasses.field(default_factory=dict)
    inputs: dict[str, tuple[Array, tuple[int, ...], Callable]] = dataclasses.field(default_factory=dict)
    outputs: dict[str, tuple[jax.ShapeDtypeStruct, tuple[int, ...], Callable]] = dataclasses.field(default_factory=dict)
    scratch: dict[str, tuple[tuple[int, ...], Any]] = dataclasses.field(default_factory=dict)

    def input(self, name: str, array: Any, block: tuple[int, ...], index: Callable[[Named], tuple]) -> None:
        """An array to be read; nothing where it is None."""
        if array is not None:
            self.inputs[name] = (jnp.asarray(array), block, index)

    def output(
        self, name: str, shape: tuple[int, ...], dtype: Any, block: tuple[int, ...], index: Callable[[Named], tuple]
    ) -> None:
        """An array to be written."""
        self.outputs[name] = (jax.ShapeDtypeStruct(shape, dtype), block, index)

    def run(self, name: str, kernel: Callable[[Named], None], interpret: Any) -> dict[str, Array]:
        """Launches the kernel; returns its outputs by name."""
        walk, scalars = self.walk, self.walk.scalars | self.scalars
        extent = len(walk.grid)

        def at(numbers: tuple, references: tuple) -> Named:
            return walk.locate(numbers, dict(zip(scalars, references, strict=True)))

        def spec(block: tuple[int, ...], index: Callable[[Named], tuple]) -> pl.BlockSpec:
            return pl.BlockSpec(block, lambda *numbers: index(at(numbers[:extent], numbers[extent:])))

        names = [*scalars, *self.inputs, *self.outputs, *self.scratch]

        def body(*references: Any) -> None:
            here = Named(zip(names, references, strict=True))
            here["at"] = at(tuple(pl.program_id(axis) for axis in range(extent)), references[: len(scalars)])
            kernel(here)

        results = pl.pallas_call(
            body,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(scalars),
                grid=walk.grid,
                in_specs=[spec(block, index) for _, block, index in self.inputs.values()],
                out_specs=[spec(block, index) for _, block, index in self.outputs.values()],
                scratch_shapes=[pltpu.VMEM(shape, dtype) for shape, dtype in self.scratch.values()],
            ),
            out_shape=[shape for shape, _, _ in self.outputs.values()],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",) * walk.parallel + ("arbitrary",) * (extent - walk.parallel),
            ),
            interpret=interpret,
            name=name,
        )(*scalars.values(), *(array for array, _, _ in self.inputs.values()))
        return dict(zip(self.outputs, results, strict=True))
