"""The blocks of a pair as arrays: what each sees, its bias, its draws of dropout."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kernels.attention import mask as masks
from kernels.attention.cut import Cut, most_bytes
from kernels.attention.dropout import kept
from kernels.attention.pairwise import Operands, Settings, wide


class Block(NamedTuple):
    """The arrays of one block: c heads with keys of their own, r rows, the queries of all heads that share keys.

    Attributes:
      query: [c, r, D].
      key, value: [c, k, D] and [c, k, Dv].
      scale: of the products; None where the query has it already.
      bias: [#c, #r, #k], or None.
      seen: [1, #r, k] bool, which columns each row sees; None is all.
      alive: [1, #r] bool, rows that see anything; None is all.
      keep: [c, r, k], what dropout multiplies the weights with; None where it is off.
      weights: [q, R] of the queries in ``received`` and ``relevance``; or None.
      upstream: [c, r, Dv], see ``relevance``; or None.
    """

    query: Array
    key: Array
    value: Array
    scale: Any
    bias: Array | None
    seen: Array | None
    alive: Array | None
    keep: Array | None
    weights: Array | None
    upstream: Array | None


class Blocks(NamedTuple):
    """All blocks of a pair: what each is cut from, and how.

    Attributes:
      settings, cut: static.
      operands, sight, seeds: of the pair; bias, weights and sight filled up where rows are cut off them block by block.
      query, key, value, upstream: those of the operands, see ``lay_rows`` and ``lay_keys``.
    """

    settings: Settings
    cut: Cut
    operands: Operands
    sight: masks.Sight
    seeds: Array | None
    query: Array | None = None
    key: Array | None = None
    value: Array | None = None
    upstream: Array | None = None

    @property
    def folded(self) -> bool:
        """Whether queries are scaled instead of scores: a pass less over all scores, where it rounds nothing away."""
        dtype, scale = self.operands.query.dtype, self.settings.scale
        return dtype == wide(dtype) or (scale is not None and abs(math.frexp(scale)[0]) == 0.5)

    @classmethod
    def of(
        cls, settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None, *, alone: bool = False
    ) -> Blocks:
        """The blocks of a pair; ``alone``: only the output is asked for."""
        batch, queries, heads, _ = operands.query.shape
        _, keys, shared, _ = operands.key.shape
        cut = Cut.of(batch, heads, shared, queries, keys, most_bytes(alone=alone))
        bias, weights, rows, segments = operands.bias, operands.weights, sight.rows, sight.segments
        if bias is not None and bias.shape[2] > 1:
            bias = cut.fill(bias, 2)
        weights = None if weights is None else cut.fill(weights, 1)
        rows = None if rows is None else cut.fill(rows, 1)
        segments = None if segments is None else (cut.fill(segments[0], 1), segments[1])
        sight = dataclasses.replace(sight, rows=rows, segments=segments)
        blocks = cls(settings, cut, operands._replace(bias=bias, weights=weights), sight, seeds)
        return blocks._replace(
            query=blocks.lay_rows(operands.query),
            key=blocks.lay_keys(operands.key),
            value=blocks.lay_keys(operands.value),
            upstream=None if operands.upstream is None else blocks.lay_rows(operands.upstream),
        )

    @property
    def turned(self) -> bool:
        """Whether blocks are cut from arrays with heads before tokens.

        XLA on CPU multiplies in bfloat16 only what lies so in memory, and else in float32. In float32 it would gain
        nothing, and turning the whole array round costs as much as a product.
        """
        dtype = self.operands.key.dtype
        return dtype != wide(dtype) and self.cut.together * self.cut.multiple > 1

    def lay_rows(self, array: Array) -> Array:
        """An array of queries [B, q, H, X] as ``rows_of`` takes it, filled up."""
        return self.cut.split_rows(jnp.swapaxes(array, 1, 2)) if self.turned else self.cut.fill(array, 1)

    def lay_keys(self, array: Array) -> Array:
        """An array of keys [B, k, Hkv, X] as ``keys_of`` takes it."""
        if not self.turned:
            return array
        return jnp.swapaxes(array, 1, 2).reshape(self.cut.units, self.cut.together, self.cut.keys, -1)

    def rows_of(self, array: Array, unit: Array, number: Array) -> Array:
        """A block's rows [c, r, X] of an array from ``lay_rows``."""
        if self.turned:
            return jax.lax.dynamic_slice(array, (unit, number, 0, 0, 0), (1, 1, *array.shape[2:]))[0, 0]
        cut, (sample, first) = self.cut, self._place(unit)
        heads = cut.together * cut.multiple
        size = (1, cut.rows, heads, array.shape[3])
        part = jax.lax.dynamic_slice(array, (sample, number * cut.rows, first, 0), size)[0]
        return jnp.swapaxes(part, 0, 1).reshape(cut.together, cut.multiple * cut.rows, -1)

    def keys_of(self, unit: Array) -> tuple[Array, Array]:
        """Keys and values of a unit, [c, k, ...]."""
        sample, first = self._place(unit)

        def of(array: Array) -> Array:
            if self.turned:
                return jax.lax.dynamic_index_in_dim(array, unit, keepdims=False)
            size = (1, self.cut.keys, self.cut.together, array.shape[3])
            part = jax.lax.dynamic_slice(array, (sample, 0, first // self.cut.multiple, 0), size)[0]
            return jnp.swapaxes(part, 0, 1)

        return of(self.key), of(self.value)

    def block(self, unit: Array, number: Array, key: Array, value: Array) -> Block:
        """One block, from the numbers of its unit and of itself in it."""
        cut, settings = self.cut, self.settings
        sample, first = self._place(unit)
        begin = number * cut.rows
        tokens = settings.pair.queries[0] + begin + jnp.arange(cut.rows)

        def of_sample(array: Array | None, *, rows: bool) -> Array | None:
            if array is None:
                return None
            array = jax.lax.dynamic_slice_in_dim(array, sample, 1, axis=0)
            return jax.lax.dynamic_slice_in_dim(array, begin, cut.rows, axis=1) if rows else array

        segments = self.sight.segments
        sight = dataclasses.replace(
            self.sight,
            keys=of_sample(self.sight.keys, rows=False),
            rows=of_sample(self.sight.rows, rows=True),
            segments=segments and (of_sample(segments[0], rows=True), of_sample(segments[1], rows=False)),
        )
        seen = sight.visible(tokens)
        alive = sight.nonempty(seen)
        keep = None
        if settings.rate:
            heads = cut.together * cut.multiple
            seeds = jax.lax.dynamic_slice(self.seeds, (sample, first), (1, heads))
            survives = kept(settings.rate, seeds, tokens, settings.pair.columns)
            keep = survives.reshape(cut.together, -1, cut.keys) * (1 / (1 - settings.rate))
        weights = of_sample(self.operands.weights, rows=True)
        query, upstream = self.rows_of(self.query, unit, number), self.upstream
        if self.folded:
            query = (query * settings.scale_of(self.operands)).astype(query.dtype)
        upstream = None if upstream is None else self.rows_of(upstream, unit, number)
        return Block(
            query, key, value, None if self.folded else settings.scale_of(self.operands),
            self._bias(sample, first, begin), self._every_head(seen), self._every_head(alive),
            keep, None if weights is None else weights[0], upstream,
        )  # fmt: skip

    def _place(self, unit: Array) -> tuple[Array, Array]:
        """Sample and first query head of a unit."""
        of_sample = self.cut.shared // self.cut.together
        return unit // of_sample, unit % of_sample * (self.cut.together * self.cut.multiple)

    def _every_head(self, array: Array | None) -> Array | None:
        """[1, #q, ...] of queries to [1, #r, ...] of rows, which are the queries of every head that shares keys."""
        if array is None or array.shape[1] == 1 or self.cut.multiple == 1:
            return array
        return jnp.tile(array, (1, self.cut.multiple, *[1] * (array.ndim - 2)))

    def _corner(self, shape: tuple[int, ...], sample: Array, first: Array, begin: Array) -> tuple[tuple, tuple]:
        """Where in a bias of this shape a block lies, and its shape there."""
        cut = self.cut
        sizes = (1, cut.together * cut.multiple, cut.rows, cut.keys)
        places = zip((sample, first, begin, 0), sizes, shape, strict=True)
        start, size = zip(*((0, 1) if extent == 1 else (at, count) for at, count, extent in places), strict=True)
        return start, size

    def _bias(self, sample: Array, first: Array, begin: Array) -> Array | None:
        bias, cut = self.operands.bias, self.cut
        if bias is None:
            return None
        part = jax.lax.dynamic_slice(bias, *self._corner(bias.shape, sample, first, begin))[0]
        heads, rows, keys = part.shape
        if heads > 1 and cut.multiple > 1:
            part = jnp.broadcast_to(part, (heads, cut.rows, keys)).reshape(cut.together, -1, keys)
        elif rows > 1 and cut.multiple > 1:
            part = jnp.tile(part, (1, cut.multiple, 1))
        return part.astype(wide(self.operands.query.dtype))

    def add_bias(self, total: Array, gradient: Array, unit: Array, number: Array) -> Array:
        """Adds the gradient [c, r, k] of a block's bias to that of the whole."""
        sample, first = self._place(unit)
        start, size = self._corner(total.shape, sample, first, number * self.cut.rows)
        gradient = gradient.reshape(1, -1, self.cut.rows, self.cut.keys)
        gradient = gradient.sum([axis for axis in range(4) if size[axis] == 1], keepdims=True)
        here = jax.lax.dynamic_slice(total, start, size)
        return jax.lax.dynamic_update_slice(total, here + gradient, start)
