"""What augmentation draws: every draw of a row is keyed by the step, the row's global index and the draw's name."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Integer, Shaped

Range = tuple[float, float]
Keys = Shaped[Array, " B"]


def row_keys(key: jax.Array, index: Integer[Array, " B"]) -> Keys:
    """One key a row, from the step's key and the row's global index."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index.astype(jnp.uint32))


def named_keys(keys: Keys, names: Sequence[str]) -> Shaped[Array, "D B"]:
    """The keys of so many named draws; all at once, since each separate call costs compile time."""
    numbers = jnp.asarray([zlib.crc32(name.encode()) for name in names], jnp.uint32)
    return jax.vmap(lambda number: jax.vmap(jax.random.fold_in, (0, None))(keys, number))(numbers)


def uniform(keys: Keys, *names: str) -> Float32[Array, "D B"]:
    """A number a row for each named draw, uniform in [0, 1)."""
    return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))(named_keys(keys, names))


def within(limits: Range, at: Float32[Array, "*dims"]) -> Float32[Array, "*dims"]:
    """A draw from [0, 1) brought into a range."""
    return limits[0] + (limits[1] - limits[0]) * at
