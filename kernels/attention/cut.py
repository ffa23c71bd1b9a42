"""How the blockwise implementation cuts a pair into blocks: a few heads, or part of the queries of one.

Blocks stand on two leading axes, [units, blocks]: a unit is some heads of one sample with their keys, a block some of
its queries. Heads that share keys are further rows of the same unit.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array


class Most(NamedTuple):
    """Bytes of the scores of one block.

    Attributes:
      alone: where only the output is asked for. XLA on CPU then makes one call of products and softmax, which holds no
        scores at once and is the faster the more rows it has.
      beside: where statistics are too, or the backward pass is computed: what is made of scores is to stay in cache.
    """

    alone: int
    beside: int


# Measured on two cores of AMD EPYC (1 MiB of second-level cache each), November 2026, blocks of 2 to 20 MiB. An
# accelerator wants few, large products.
BLOCK_BYTES = {"cpu": Most(10 * 2**20, 17 * 2**18)}
OTHER_BLOCK_BYTES = Most(64 * 2**20, 64 * 2**20)


def most_bytes(*, alone: bool) -> int:
    """See ``Most``; of the backend in use."""
    most = BLOCK_BYTES.get(jax.default_backend(), OTHER_BLOCK_BYTES)
    return most.alone if alone else most.beside


@dataclasses.dataclass(frozen=True)
class Cut:
    """Sizes of the blocks of one pair.

    Attributes:
      batch, queries, keys: B, q, k.
      shared: Hkv, of which a block has ``together``.
      multiple: H / Hkv.
      blocks: of the queries of a unit, each of ``rows`` queries; the last one is filled up.
    """

    batch: int
    queries: int
    keys: int
    shared: int
    multiple: int
    together: int
    blocks: int
    rows: int

    @classmethod
    def of(cls, batch: int, heads: int, shared: int, queries: int, keys: int, most: int) -> Cut:
        """The largest blocks whose scores take at most ``most`` bytes in float32."""
        of_head = 4 * (heads // shared) * queries * keys
        together = max(
            (count for count in range(1, shared + 1) if shared % count == 0 and count * of_head <= most), default=1
        )
        blocks = min(queries, -(-of_head // most)) if together == 1 else 1
        # As even as can be, so that little is filled up.
        rows = -(-queries // blocks)
        blocks = -(-queries // rows)
        return cls(batch, queries, keys, shared, heads // shared, together, blocks, rows)

    @property
    def units(self) -> int:
        return self.batch * self.shared // self.together

    def fill(self, array: Array, axis: int, value: float | int = 0) -> Array:
        """An axis of queries filled up to whole blocks."""
        missing = self.blocks * self.rows - array.shape[axis]
        if not missing:
            return array
        width = [(0, missing if number == axis else 0) for number in range(array.ndim)]
        return jnp.pad(array, width, constant_values=value)

    def split_rows(self, array: Array, value: float | int = 0) -> Array:
        """[B, H, q, ...] to [units, blocks, together, multiple * rows, ...], filled up with a value."""
        batch, _, _, *rest = array.shape
        array = self.fill(array, 2, value)
        array = array.reshape(batch, -1, self.together, self.multiple, self.blocks, self.rows, *rest)
        array = jnp.moveaxis(array, 4, 2)
        return array.reshape(self.units, self.blocks, self.together, self.multiple * self.rows, *rest)

    def join_rows(self, array: Array) -> Array:
        """The reverse of ``split_rows``."""
        rest = array.shape[4:]
        units = self.shared // self.together
        array = array.reshape(self.batch, units, self.blocks, self.together, self.multiple, self.rows, *rest)
        array = jnp.moveaxis(array, 2, 4)
        array = array.reshape(self.batch, self.shared * self.multiple, self.blocks * self.rows, *rest)
        return array[:, :, : self.queries]

    def join_keys(self, array: Array) -> Array:
        """[units, together, ...] to [B, Hkv, ...]."""
        return array.reshape(self.batch, self.shared, *array.shape[2:])
