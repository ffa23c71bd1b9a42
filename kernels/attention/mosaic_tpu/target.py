"""For which TPU kernels are compiled, or whether they are interpreted, and the sizes of their blocks there.

Sizes are data: kernels/tuned/TARGET.json, written by `avjax plan kernels --tune`. A target without a file, or a shape
that no entry is for, gets DEFAULT.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any, NamedTuple

import jax

from kernels.attention.mosaic_tpu.tile import Sizes

# The kernels that have sizes of their own; that of a bias takes those of keys.
DIRECTIONS = ("forward", "of_queries", "of_keys", "received")
# Tokens of the smallest block: lanes of a vector.
SMALLEST = 128
DEFAULT = Sizes(512, 512, 256, 128)
# Steps of a grid: with five numbers each, a third of the scalar memory.
MOST_STEPS = 16 * 1024
# Device kinds as JAX reports them, by how they begin.
KINDS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e", "TPU7x": "tpu7x", "TPU v7": "tpu7x"}
TARGETS = ("v5e", "v5p", "v6e", "tpu7x")


class Shape(NamedTuple):
    """What sizes of blocks depend on: tokens, the wider of D and Dv, and the dtype."""

    queries: int
    keys: int
    width: int
    dtype: str


@dataclasses.dataclass(frozen=True)
class Target:
    """Attributes:
    name: one of TARGETS, or of a device that there is no file for.
    interpret: as ``pallas_call`` takes it; False compiles.
    fixed: sizes for every kernel, in place of those on file; those of tests and of the search.
    """

    name: str
    interpret: Any = False
    fixed: Sizes | None = None

    def sizes(self, direction: str, shape: Shape, heads: int = 1) -> Sizes:
        """Of the blocks of a kernel; never larger than the arrays, rounded up to whole vectors.

        Args:
          heads: query heads that share keys; the kernels of keys have a step for each.
        """
        sizes = self.fixed or tuned(self.name, direction, shape)
        rows = _fitted(sizes.rows, sizes.row_chunk, shape.queries)
        columns = _fitted(sizes.columns, sizes.column_chunk, shape.keys)
        # The tables of very long shapes would not fit the scalar memory.
        times = heads if direction == "of_keys" else 1
        while times * -(-shape.queries // rows) * -(-shape.keys // columns) > MOST_STEPS:
            rows, columns = (2 * rows, columns) if rows <= columns else (rows, 2 * columns)
        return Sizes(rows, columns, _divisor(sizes.row_chunk, rows), _divisor(sizes.column_chunk, columns))


def _fitted(size: int, chunk: int, tokens: int) -> int:
    """Blocks as few as with ``size``, as even as whole chunks allow: smaller chunks cost more than a fuller block."""
    blocks, unit = -(-tokens // size), chunk if tokens >= chunk else SMALLEST
    return min(size, -(-tokens // (blocks * unit)) * unit)


def _divisor(chunk: int, block: int) -> int:
    """The largest size up to ``chunk`` that cuts a block evenly, in whole vectors."""
    return max(size for size in range(SMALLEST, max(chunk, SMALLEST) + 1, SMALLEST) if block % size == 0)


@functools.lru_cache
def entries(name: str) -> tuple[dict[str, Any], ...]:
    """What the file of a target says, best match first; nothing where there is none."""
    file = resources.files("kernels").joinpath("tuned", f"{name}.json")
    return tuple(json.loads(file.read_text(encoding="utf-8"))["sizes"]) if file.is_file() else ()


def tuned(name: str, direction: str, shape: Shape) -> Sizes:
    """Sizes on file: of the first entry for the direction and dtype that is as wide and as long as the shape."""
    for entry in entries(name):
        if (
            entry["direction"] == direction
            and entry["dtype"] == shape.dtype
            and shape.width <= entry["width"]
            and max(shape.queries, shape.keys) <= entry["tokens"]
        ):
            return Sizes(*entry["sizes"])
    return DEFAULT


_current: contextvars.ContextVar[Target | None] = contextvars.ContextVar("_current", default=None)


def current() -> Target | None:
    """The target of calls that are traced now: that of ``compiling_for``, or the TPU in use; None without either."""
    chosen = _current.get()
    if chosen is not None or jax.default_backend() != "tpu":
        return chosen
    kind = jax.devices()[0].device_kind
    return Target(next((name for begin, name in KINDS.items() if kind.startswith(begin)), kind))


@contextlib.contextmanager
def compiling_for(target: Target) -> Iterator[None]:
    """Within, calls are traced for a target, whatever the backend."""
    token = _current.set(target)
    try:
        yield
    finally:
        _current.reset(token)


def interpreted(sizes: Sizes | None = None, params: Any = True) -> contextlib.AbstractContextManager[None]:
    """Within, calls are interpreted, on any backend: slow, to see what a kernel computes.

    Args:
      sizes: of all blocks.
      params: True, or ``pltpu.InterpretParams`` for the simulator of a TPU, which detects races.
    """
    return compiling_for(Target("interpreter", params, sizes or Sizes(SMALLEST, SMALLEST, SMALLEST, SMALLEST)))
