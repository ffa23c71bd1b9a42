"""The only door from the models to the attention kernels."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jaxtyping import Array, Bool, Float

from kernels.attention import Layout, Mask, attention

__all__ = ["attend", "cross_mask", "self_mask", "towers_mask"]


def attend(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk H D"],
    value: Float[Array, "B Nk H D"],
    mask: Mask | None = None,
) -> Float[Array, "B Nq H D"]:
    """Multi-head attention softmax(Q K^T / sqrt(D)) V through the kernels."""
    # Float32 inputs ask for float32 products: the default on TPU would be bfloat16 passes.
    precision = jax.lax.Precision.HIGHEST if query.dtype == "float32" else None
    return attention(query, key, value, mask=mask, precision=precision).output


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
        key_valid=jax.numpy.concatenate(list(valid), axis=1),
    )
