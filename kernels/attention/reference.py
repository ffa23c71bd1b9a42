"""Dense attention in plain JAX: the truth that other implementations are held to, and the fast path of small cases.

No custom derivative: forward mode, second order and float64 all work. Memory is O(Nq Nk) for the backward pass. In the
order einsum -> softmax -> einsum, heads before tokens, mask added, XLA on CPU makes one fused call of the forward pass.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.attention import mask as masks
from kernels.attention.dropout import dropout_seeds, kept
from kernels.attention.statistics import dense, shapes


def attend(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk Hkv D"],
    value: Float[Array, "B Nk Hkv Dv"],
    *,
    bias: Float[Array, "#B #H #Nq #Nk"] | None,
    mask: masks.Mask | None,
    scale: float | Array,
    softcap: float | None,
    dropout: tuple[float, Any] | None,
    statistics: tuple[str, ...],
    received_weights: Float[Array, "B Nq R"] | None,
    precision: jax.lax.PrecisionLike,
) -> tuple[Float[Array, "B Nq H Dv"], dict[str, Array]]:
    """Output and statistics of ``kernels.attention.attention``, whose arguments these are, checked and filled in."""
    batch, queries, heads, _ = query.shape
    keys, width = value.shape[1], value.shape[3]
    mask = masks.everything(queries, keys) if mask is None else mask
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    if "received" in statistics and received_weights is None:
        received_weights = jnp.ones((batch, queries, 1), accumulate)
    if dropout is not None:
        rate, seed = dropout
        dropout = (rate, seed if jnp.ndim(seed) == 2 else dropout_seeds(seed, batch, heads))
    query, key, value = (jnp.swapaxes(array, 1, 2) for array in (query, key, value))

    parts = []
    columns = 1 if received_weights is None else received_weights.shape[2]
    wanted = shapes(statistics, batch, heads, queries, keys, len(mask.keys.names), columns, width)
    received = jnp.zeros(wanted["received"], accumulate) if "received" in wanted else None
    for pair in masks.pairs(mask):
        output, found = _pair(
            query, key, value, pair, bias, mask, scale, softcap, dropout, statistics, received_weights, precision
        )
        if received is not None:
            received = _add_columns(received, found.pop("received"), pair)
        parts.append((pair.queries, {"output": output, **found}))

    output = _rows(parts, "output", (batch, heads, queries, width), value.dtype)
    result = {}
    for name, shape in wanted.items():
        dtype = jnp.bool_ if name == "nonempty" else accumulate
        result[name] = received if name == "received" else _rows(parts, name, shape, dtype)
    return jnp.swapaxes(output, 1, 2), result


def _pair(query, key, value, pair, bias, mask, scale, softcap, dropout, statistics, received_weights, precision):
    """Output [B, H, q, Dv] and statistics of one range of queries."""
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    query = pair.take_queries(query, 2)
    key, value = pair.take_keys(key, 2), pair.take_keys(value, 2)
    scores = _product(query, jnp.swapaxes(key, 2, 3), accumulate, precision) * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        bias = bias if bias.shape[2] == 1 else pair.take_queries(bias, 2)
        bias = bias if bias.shape[3] == 1 else pair.take_keys(bias, 3)
        # The cast comes before the broadcast, so that its gradient is summed in float32.
        scores = scores + bias.astype(accumulate)
    seen = masks.visible(mask, pair)
    rows = masks.nonempty(mask, pair, seen)
    if seen is not None:
        scores = scores + masks.additive(seen, accumulate)
    weights = jax.nn.softmax(scores, axis=-1)
    dropped = weights
    if dropout is not None:
        rate, seeds = dropout
        dropped = weights * (kept(rate, seeds, jnp.arange(*pair.queries), pair.columns) * (1 / (1 - rate)))
    dropped = dropped.astype(value.dtype)
    alive = None if rows is None else rows[:, None, :, None].astype(accumulate)

    output = _product(dropped, value, accumulate, precision)
    output = (output if alive is None else output * alive).astype(value.dtype)
    result = dense(statistics, scores, weights, pair.groups, seen, rows)
    if "group_output" in statistics:
        outputs = [
            _product(dropped[..., begin:end], value[:, :, begin:end], accumulate, precision)
            for begin, end in pair.groups
        ]
        result["group_output"] = jnp.stack(outputs if alive is None else [part * alive for part in outputs], axis=3)
    if "received" in statistics:
        received_weights = pair.take_queries(received_weights, 1).astype(accumulate)
        if rows is not None:
            received_weights = received_weights * rows[..., None]
        result["received"] = jnp.einsum(
            "bhqk,bqr->bhkr", weights, received_weights, precision=precision, preferred_element_type=accumulate
        )
    return output, result


def _product(left, right, accumulate, precision):
    """[B, H, q, x] times [B, Hkv, x, y], head h with head h // (H / Hkv), added up in float32 or wider."""
    batch, heads, rows, inner = left.shape
    shared = right.shape[1]
    # Heads that share keys are stacked as more rows of one product: no copies of the keys are made.
    stacked = left.reshape(batch, shared, heads // shared * rows, inner) if heads != shared else left
    result = jnp.einsum("bhqx,bhxy->bhqy", stacked, right, precision=precision, preferred_element_type=accumulate)
    return result.reshape(batch, heads, rows, right.shape[3])


def _rows(parts, name, shape, dtype):
    """Puts the ranges of queries together; rows in no pair see nothing."""
    empty = -jnp.inf if name == "lse" else 0
    pieces, reached = [], 0
    for (begin, end), found in [*parts, ((shape[2], shape[2]), None)]:
        if begin > reached:
            pieces.append(jnp.full((*shape[:2], begin - reached, *shape[3:]), empty, dtype))
        if found is not None:
            pieces.append(found[name])
        reached = end
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=2)


def _add_columns(received, columns, pair):
    """Adds what the columns of a pair received to their keys."""
    count = 0
    for begin, end in pair.keys:
        received = received.at[:, :, begin:end].add(columns[:, :, count : count + end - begin])
        count += end - begin
    return received
