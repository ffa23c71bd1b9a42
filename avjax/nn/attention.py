"""The only door from the models to the attention kernels, and the only place that runs them on a mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Shaped

from avjax.nn.dense import HEADS
from avjax.nn.placement import BATCH, SEQUENCE, Placement, current
from kernels.attention import Layout, Mask, attention

__all__ = ["attend", "cross_mask", "self_mask", "towers_mask"]


def attend(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk Hkv D"],
    value: Float[Array, "B Nk Hkv D"],
    mask: Mask | None = None,
) -> Float[Array, "B Nq H D"]:
    """Multi-head attention softmax(Q K^T / sqrt(D)) V through the kernels.

    On a mesh every device attends for its own rows, heads and queries; keys and values of a row are gathered along
    the mesh axes of ``sequence``.
    """
    placement = current()
    if placement is None:
        return _attend(query, key, value, mask)
    if mask is None:
        mask = Mask(Layout.of(tokens=query.shape[1]), Layout.of(tokens=key.shape[1]))
    return _on_mesh(placement, query, key, value, mask)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask | None) -> jax.Array:
    # Float32 inputs ask for float32 products: the default on TPU would be bfloat16 passes.
    precision = jax.lax.Precision.HIGHEST if query.dtype == "float32" else None
    return attention(query, key, value, mask=mask, precision=precision).output


def _on_mesh(placement: Placement, query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask) -> jax.Array:
    """Under ``jax.shard_map``: a kernel is a program for one device, which XLA cannot cut up itself."""
    # Queries are filled up to what the mesh divides, so what matters is the mesh alone, not their number.
    sequence = placement.places(SEQUENCE, placement.mesh.size)
    parts = Parts(mask.queries.lengths, math.prod(placement.mesh.shape[axis] for axis in sequence))
    if parts.count > 1 and mask.band != (None, None):
        raise ValueError(
            "attention with a window or causal order cannot be cut along a sequence axis of the mesh: set"
            " --training.mesh.sequence 1"
        )
    rows = placement.places(BATCH, query.shape[0]) or None
    # The same cut of heads for queries and keys, also where several query heads share a key head.
    heads = placement.places(HEADS, key.shape[2]) or None

    def kernel(query: jax.Array, query_masks: dict, key: jax.Array, value: jax.Array, key_masks: dict) -> jax.Array:
        local = parts.local(mask, query_masks, key_masks)
        return _attend(query[:, 0], key, value, local)[:, None]

    query_masks, key_masks = parts.masks(mask)
    of_queries = PartitionSpec(rows, sequence or None, None, heads, None)
    of_keys = PartitionSpec(rows, None, heads, None)
    attended = jax.shard_map(
        kernel,
        mesh=placement.mesh,
        in_specs=(of_queries, PartitionSpec(rows, sequence or None), of_keys, of_keys, PartitionSpec(rows)),
        out_specs=of_queries,
        check_vma=False,
    )(parts.cut(query), query_masks, key, value, key_masks)
    return parts.join(attended)


class Parts:
    """Queries cut into equal parts, each with the same share of every group, so that one static mask fits all parts.

    Groups that the parts do not divide are filled up with rows of zeros, which are dropped again.

    Args:
      lengths: of the groups of queries.
      count: number of parts.
    """

    def __init__(self, lengths: Sequence[int], count: int):
        self.lengths = tuple(lengths)
        self.count = count
        self.shares = tuple(-(-length // count) for length in lengths)

    def cut(self, values: Shaped[Array, "B N ..."]) -> Shaped[Array, "B P _ ..."]:
        """[B, N, ...] to [B, parts, N of a part, ...]."""
        if self.count == 1:
            return values[:, None]
        pieces, begin = [], 0
        for length, share in zip(self.lengths, self.shares, strict=True):
            group = jax.lax.slice_in_dim(values, begin, begin + length, axis=1)
            filled = jnp.pad(group, [(0, 0), (0, share * self.count - length), *[(0, 0)] * (values.ndim - 2)])
            pieces.append(filled.reshape(values.shape[0], self.count, share, *values.shape[2:]))
            begin += length
        return jnp.concatenate(pieces, axis=2)

    def join(self, values: Shaped[Array, "B P _ ..."]) -> Shaped[Array, "B N ..."]:
        """The reverse of ``cut``."""
        if self.count == 1:
            return values[:, 0]
        pieces, begin = [], 0
        for length, share in zip(self.lengths, self.shares, strict=True):
            group = jax.lax.slice_in_dim(values, begin, begin + share, axis=2)
            group = group.reshape(values.shape[0], self.count * share, *values.shape[3:])
            pieces.append(group[:, :length])
            begin += share
        return jnp.concatenate(pieces, axis=1)

    def masks(self, mask: Mask) -> tuple[dict, dict]:
        """What is dynamic in a mask: by queries, cut, and by keys and groups, whole."""
        of_queries, of_keys = mask.segments or (None, None)
        by_query = {"query_valid": mask.query_valid, "segments": of_queries}
        by_key = {"key_valid": mask.key_valid, "presence": mask.presence, "segments": of_keys}
        return (
            {name: self.cut(array) for name, array in by_query.items() if array is not None},
            {name: array for name, array in by_key.items() if array is not None},
        )

    def local(self, mask: Mask, by_query: dict, by_key: dict) -> Mask:
        """The mask of one part."""
        segments = None
        if mask.segments is not None:
            segments = (by_query["segments"][:, 0], by_key["segments"])
        return mask.replace(
            queries=Layout(mask.queries.names, self.shares),
            query_valid=by_query["query_valid"][:, 0] if "query_valid" in by_query else None,
            key_valid=by_key.get("key_valid"),
            presence=by_key.get("presence"),
            segments=segments,
        )


def self_mask(valid: Bool[Array, "B N"]) -> Mask:
    """Every token sees every valid token of its own sequence."""
    layout = Layout(("tokens",), (valid.shape[1],))
    return Mask(queries=layout, keys=layout, sees=(("tokens", "tokens"),), key_valid=valid)


def cross_mask(queries: int, valid: Bool[Array, "B N"]) -> Mask:
    """``queries`` tokens see every valid token of another sequence."""
    return Mask(
        queries=Layout(("queries",), (queries,)),
        keys=Layout(("keys",), (valid.shape[1],)),
        sees=(("queries", "keys"),),
        key_valid=valid,
    )


def towers_mask(names: Sequence[str], valid: Sequence[Bool[Array, "B _"]]) -> Mask:
    """Several sequences side by side in one call, each of which sees itself alone."""
    layout = Layout(tuple(names), tuple(v.shape[1] for v in valid))
    return Mask(
        queries=layout,
        keys=layout,
        sees=tuple((name, name) for name in names),
        key_valid=jnp.concatenate(list(valid), axis=1),
    )
