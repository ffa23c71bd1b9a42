"""Dense attention in plain JAX: the truth that other implementations are held to, and the fast path of small cases.

No custom derivative: forward mode, second order and float64 all work. Memory is O(Nq Nk) for the backward pass. In the
order einsum -> softmax -> einsum, heads before tokens, mask added, XLA on CPU makes one fused call of the forward pass.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kernels.attention import mask as masks
from kernels.attention import pairwise
from kernels.attention.dropout import kept
from kernels.attention.pairwise import Operands, Settings, wide
from kernels.attention.statistics import OF_OUTPUTS, dense


def of_pair(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    """Output [B, q, H, Dv] and statistics of one range of queries."""
    pair, precision, statistics = settings.pair, settings.precision, settings.statistics
    query, key, value = (jnp.swapaxes(array, 1, 2) for array in operands[:3])
    bias, received_weights = operands.bias, operands.weights
    accumulate = wide(query.dtype)
    scores = _product(query, jnp.swapaxes(key, 2, 3), accumulate, precision)
    scores = scores * settings.scale_of(operands)
    if settings.softcap is not None:
        scores = settings.softcap * jnp.tanh(scores / settings.softcap)
    if bias is not None:
        # The cast comes before the broadcast, so that its gradient is summed in float32.
        scores = scores + bias.astype(accumulate)
    seen = sight.visible(settings.positions())
    rows = sight.nonempty(seen)
    if seen is not None:
        scores = scores + masks.additive(seen, accumulate)
    weights = jax.nn.softmax(scores, axis=-1)
    dropped = weights
    if settings.rate:
        survives = kept(settings.rate, seeds, settings.positions(), pair.columns)
        dropped = weights * (survives * (1 / (1 - settings.rate)))
    dropped = dropped.astype(value.dtype)
    alive = None if rows is None else rows[:, None, :, None].astype(accumulate)

    result = dense(statistics, scores, weights, pair.groups, seen, rows)
    if OF_OUTPUTS.isdisjoint(statistics):
        output = _product(dropped, value, accumulate, precision)
        output = output if alive is None else output * alive
    else:
        parts = [
            _product(dropped[..., begin:end], value[:, :, begin:end], accumulate, precision)
            for begin, end in pair.groups
        ]
        parts = parts if alive is None else [part * alive for part in parts]
        # The values are gone through once.
        output = sum(parts)
        if "group_output" in statistics:
            result["group_output"] = jnp.stack(parts, axis=3)
        if "output_product" in statistics:
            # Without the stack, which would be written to memory.
            result["output_product"] = jnp.stack([(part * output).sum(-1) for part in parts], axis=3)
    output = output.astype(value.dtype)
    if received_weights is not None:
        received_weights = received_weights.astype(accumulate)
        if rows is not None:
            received_weights = received_weights * rows[..., None]
    columns = functools.partial(
        jnp.einsum, "bhqk,bqr->bhkr", precision=jax.lax.Precision.HIGHEST
    )  # fmt: skip
    if "received" in statistics:
        result["received"] = columns(weights, received_weights)
    if "relevance" in statistics:
        upstream = jnp.swapaxes(operands.upstream, 1, 2)
        through = _product(upstream, jnp.swapaxes(value, 2, 3), accumulate, precision)
        result["relevance"] = columns(jax.nn.relu(weights * through), received_weights)
    return jnp.swapaxes(output, 1, 2), result


attend = functools.partial(pairwise.attend, of_pair)


def _product(left: Array, right: Array, accumulate: jnp.dtype, precision: jax.lax.PrecisionLike) -> Array:
    """[B, H, q, x] times [B, Hkv, x, y], head h with head h // (H / Hkv), added up in float32 or wider."""
    batch, heads, rows, inner = left.shape
    shared = right.shape[1]
    # Heads that share keys are stacked as more rows of one product: no copies of the keys are made.
    stacked = left.reshape(batch, shared, heads // shared * rows, inner) if heads != shared else left
    result = jnp.einsum("bhqx,bhxy->bhqy", stacked, right, precision=precision, preferred_element_type=accumulate)
    return result.reshape(batch, heads, rows, right.shape[3])
