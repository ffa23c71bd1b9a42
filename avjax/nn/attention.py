"""The only door from the models to the attention kernels, and the only place that runs them on a mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Shaped

from avjax.nn import statistics
from avjax.nn.dense import HEADS
from avjax.nn.placement import BATCH, SEQUENCE, Placement, current
from kernels.attention import Attended, Layout, Mask, attention

__all__ = ["attend", "cross_mask", "self_mask", "towers_mask"]

Norms = Callable[[Float[Array, "B N H D"]], Float[Array, "B N H"]]


def attend(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk Hkv D"],
    value: Float[Array, "B Nk Hkv Dv"],
    mask: Mask | None = None,
    *,
    bias: Float[Array, "#B #H #Nq #Nk"] | None = None,
    site: str | None = None,
    value_norms: Norms | None = None,
) -> Float[Array, "B Nq H Dv"]:
    """Multi-head attention softmax(Q K^T / sqrt(D) + bias) V through the kernels.

    On a mesh every device attends for its own rows, heads and queries; keys and values of a row are gathered along
    the mesh axes of ``sequence``. Statistics, and calls themselves, are kept where they are asked for (statistics.py).

    Args:
      bias: added to the scores, finite.
      site: under which name, in the stack of layers that calls; by default the groups of the queries.
      value_norms: from values to ||V_j W_O,h||_2, with the W_O through which goes what is attended to; asked for by
        ``statistics.VALUE_MASS`` alone. Without it the norms of the values themselves count.
    """
    mask = Mask(Layout.of(tokens=query.shape[1]), Layout.of(tokens=key.shape[1])) if mask is None else mask
    names = statistics.wanted()
    counted = statistics.divided(mask) if names else mask
    attended = _attended(query, key, value, counted, bias, tuple(n for n in names if n not in statistics.OWN))
    found = dict(attended.statistics)
    if statistics.VALUE_MASS in names:
        # A call of its own, of which XLA makes no second softmax; a column more of the values would be slower.
        norms = (_norms if value_norms is None else value_norms)(value)[..., None].astype(value.dtype)
        by_group = _attended(query, key, norms, counted, bias, ("group_output",)).statistics["group_output"]
        found[statistics.VALUE_MASS] = by_group[..., 0]
    if statistics.KEY_VALID in names:
        found[statistics.KEY_VALID] = statistics.key_valid(mask, query.shape[0])
    name = "+".join(mask.queries.names) if site is None else site
    if names:
        statistics.record(name, found, counted)
    return statistics.tap(name, query, key, value, mask, bias, attended.output)


def _norms(value: Float[Array, "B N H D"]) -> Float[Array, "B N H"]:
    return jnp.linalg.norm(value.astype(jnp.promote_types(value.dtype, jnp.float32)), axis=-1)


def _attended(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, bias: jax.Array | None, names: tuple[str, ...]
) -> Attended:
    placement = current()
    if placement is None:
        return attention(query, key, value, mask=mask, bias=bias, statistics=names)
    return _on_mesh(placement, query, key, value, mask, bias, names)


def _on_mesh(
    placement: Placement,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    bias: jax.Array | None,
    names: tuple[str, ...],
) -> Attended:
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

    def kernel(
        query: jax.Array,
        query_masks: dict,
        key: jax.Array,
        value: jax.Array,
        key_masks: dict,
        weights: jax.Array,
        bias: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        local = parts.local(mask, query_masks, key_masks)
        options = {"received_weights": weights[:, 0]} if "received" in names else {}
        if bias is not None:
            options["bias"] = jnp.swapaxes(bias[:, 0], 1, 2)
        output, found = attention(query[:, 0], key, value, mask=local, statistics=names, **options)
        return output[:, None], {name: array[:, None] for name, array in found.items()}

    query_masks, key_masks = parts.masks(mask)
    of_queries = PartitionSpec(rows, sequence or None, None, heads, None)
    of_keys = PartitionSpec(rows, None, heads, None)
    # The rows with which parts are filled up give nothing to what keys receive.
    weights = parts.cut(jnp.ones((*query.shape[:2], 1)))
    of_bias = None
    if bias is not None:
        # [B, parts, Nq of a part, H, Nk]; an axis of one lies whole everywhere.
        bias = jnp.broadcast_to(bias, (*bias.shape[:2], query.shape[1], bias.shape[3]))
        of_bias = PartitionSpec(
            rows if bias.shape[0] > 1 else None, sequence or None, None, heads if bias.shape[1] > 1 else None, None
        )
        bias = parts.cut(jnp.swapaxes(bias, 1, 2))
    output, found = jax.shard_map(
        kernel,
        mesh=placement.mesh,
        in_specs=(
            of_queries, PartitionSpec(rows, sequence or None), of_keys, of_keys, PartitionSpec(rows),
            PartitionSpec(rows, sequence or None), of_bias,
        ),
        out_specs=(of_queries, PartitionSpec(rows, sequence or None, heads)),
        check_vma=False,
    )(parts.cut(query), query_masks, key, value, key_masks, weights, bias)  # fmt: skip
    # [B, parts, H, tokens of a part, ...]: rows of queries are joined, what keys received is added up.
    found = {
        name: array.sum(1) if name == "received" else jnp.swapaxes(parts.join(jnp.swapaxes(array, 2, 3)), 1, 2)
        for name, array in found.items()
    }
    return Attended(parts.join(output), found)


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


def self_mask(valid: Bool[Array, "B N"], layout: Layout | None = None) -> Mask:
    """Every token sees every valid token of its own sequence, whose groups ``layout`` names."""
    layout = Layout.of(tokens=valid.shape[1]) if layout is None else layout
    return Mask(queries=layout, keys=layout, key_valid=valid)


def cross_mask(queries: Layout, keys: Layout, valid: Bool[Array, "B N"]) -> Mask:
    """Every query sees every valid token of another sequence."""
    return Mask(queries=queries, keys=keys, key_valid=valid)


def towers_mask(towers: Sequence[Layout], valid: Sequence[Bool[Array, "B _"]]) -> Mask:
    """Several sequences side by side in one call, each of which sees itself alone."""
    layout = Layout.joined(towers)
    sees = tuple((query, key) for tower in towers for query in tower.names for key in tower.names)
    return Mask(queries=layout, keys=layout, sees=sees, key_valid=jnp.concatenate(list(valid), axis=1))
