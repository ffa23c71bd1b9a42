"""How the blockwise implementation cuts a pair into blocks: a few heads, or part of the queries of one.

Blocks stand on two leading axes, [units, blocks]: a unit is some heads of one sample with their keys, a block some of
its queries. Heads that share keys are further rows of the same unit.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

# Bytes of the scores of one block. On CPU two cores' second-level caches hold them, and what is made of them stays
# there; an accelerator wants fewer, larger products.
BLOCK_BYTES = {"cpu": 2 * 2**20}
OTHER_BLOCK_BYTES = 64 * 2**20


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
    def of(cls, batch: int, heads: int, shared: int, queries: int, keys: int, most: int | None = None) -> Cut:
        """The largest blocks whose scores take at most ``most`` bytes in float32."""
        most = most or BLOCK_BYTES.get(jax.default_backend(), OTHER_BLOCK_BYTES)
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
