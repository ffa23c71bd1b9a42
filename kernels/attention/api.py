"""The one function through which the project attends: checks its arguments, then picks an implementation.

Implementations are modules with a function ``attend`` of the signature that reference.py has. They are listed in
IMPLEMENTATIONS and held to one contract by one test class (tests/kernels/attention/contract.py).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.attention import blockwise, mosaic_tpu, reference
from kernels.attention.mask import Mask
from kernels.attention.pairwise import wide
from kernels.attention.statistics import check_names

# What arguments may be; NumPy arrays become jax arrays.
AnyArray = jax.Array | np.ndarray

_log = logging.getLogger(__name__)


class Attended(NamedTuple):
    """What attention returns: output [B, Nq, H, Dv], and the statistics asked for, name -> array (statistics.py)."""

    output: Array
    statistics: dict[str, Array]


class Implementation(NamedTuple):
    """One way to compute attention.

    Attributes:
      attend: the computation; takes checked and completed arguments.
      unable: same arguments -> why this call cannot be served, or None where it can.
      slower: same arguments -> why a later one of FALLBACK is faster for this call, or None where none is.
    """

    attend: Callable[..., tuple[Array, dict[str, Array]]]
    unable: Callable[..., str | None]
    slower: Callable[..., str | None] = lambda *arguments, **options: None


IMPLEMENTATIONS: dict[str, Implementation] = {
    "mosaic_tpu": Implementation(mosaic_tpu.attend, mosaic_tpu.unable, mosaic_tpu.slower),
    "blockwise": Implementation(blockwise.attend, blockwise.unable, blockwise.slower),
    "reference": Implementation(reference.attend, lambda *arguments, **options: None),
}

# The order in which implementations are tried where none is named: the first that can serve the call, and is not slower
# there than a later one, does. What is slower is measured: `avjax bench attention`.
FALLBACK = ("mosaic_tpu", "blockwise", "reference")
_using: contextvars.ContextVar[tuple[str, ...] | None] = contextvars.ContextVar("_using", default=None)


@contextlib.contextmanager
def using(*names: str) -> Iterator[None]:
    """Within, calls that name no implementation try these in place of FALLBACK: for a whole model at once.

    It counts while a function is traced; what jit has traced before stays as it was.

    Raises:
      ValueError: for no name, or one that IMPLEMENTATIONS does not have.
    """
    if not names:
        raise ValueError(f"using: name one of {', '.join(IMPLEMENTATIONS)}.")
    for name in names:
        _require(name)
    token = _using.set(names)
    try:
        yield
    finally:
        _using.reset(token)


def attention(
    query: Float[AnyArray, "B Nq H D"],
    key: Float[AnyArray, "B Nk Hkv D"],
    value: Float[AnyArray, "B Nk Hkv Dv"],
    *,
    bias: Float[AnyArray, "#B #H #Nq #Nk"] | None = None,
    mask: Mask | None = None,
    scale: float | AnyArray | None = None,
    softcap: float | None = None,
    dropout: tuple[float, Any] | None = None,
    statistics: Sequence[str] = (),
    received_weights: Float[AnyArray, "B Nq R"] | None = None,
    precision: jax.lax.PrecisionLike = None,
    implementation: str | None = None,
) -> Attended:
    """softmax(scale query key^T + bias + mask) value, and what the weights of that softmax were like.

    Scores, softmax and sums are float32 (float64 for float64 inputs); the output has the dtype of the inputs.

    Args:
      query, key, value: one floating dtype. H is a multiple of Hkv: query head h uses key head h // (H / Hkv). Dv may
        differ from D.
      bias: added to the scores after softcap; each of its four axes is full or 1. Finite: hide keys by ``mask``.
      mask: who attends to whom (mask.py); None is everyone to everyone, in one group ``tokens``.
      scale: of the products; default 1 / sqrt(D).
      softcap: scores become softcap * tanh(scaled products / softcap).
      dropout: (rate, seed): each weight is dropped with probability ``rate`` (a Python number), the others grow by
        1 / (1 - rate). The seed is an integer, or uint32 [B, H] from ``dropout_seeds`` (needed under ``shard_map``).
      statistics: names of what to report, see statistics.py for meaning and shapes; only what is named is computed.
      received_weights: weights of the queries in ``received``, one column a result; default one column of ones.
      precision: of the products; default HIGHEST for float32 and float64 (TPU would otherwise multiply float32 in
        bfloat16) and DEFAULT for narrower inputs.
      implementation: one of IMPLEMENTATIONS, which raises where it cannot serve the call; default the first of
        FALLBACK, or of ``using``, that can and is not slower than a later one. So the size decides, and with it
        whether forward mode works: name "reference" for that.

    Returns:
      Attended(output [B, Nq, H, Dv], statistics). A query that sees no key has output 0, lse -inf, other statistics 0
      and takes part in no gradient.

    Raises:
      ValueError: arguments that do not fit together, unknown names, or a named implementation that cannot serve.
    """
    query, key, value = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    bias = None if bias is None else jnp.asarray(bias)
    received_weights = None if received_weights is None else jnp.asarray(received_weights)
    statistics = check(query, key, value, bias, mask, softcap, dropout, statistics, received_weights)
    mask = jax.tree.map(jnp.asarray, mask)
    precision = default_precision(query.dtype) if precision is None else precision
    if isinstance(precision, str):
        with contextlib.suppress(ValueError):  # A name of one algorithm, not of a precision.
            precision = jax.lax.Precision(precision)
    options = {
        "bias": bias,
        "mask": mask,
        "scale": default_scale(query) if scale is None else scale,
        "softcap": softcap,
        "dropout": None if dropout is None or dropout[0] == 0 else dropout,
        "statistics": statistics,
        "received_weights": received_weights,
        "precision": precision,
    }
    name = _choose(implementation, query, key, value, options)
    return Attended(*IMPLEMENTATIONS[name].attend(query, key, value, **options))


def default_precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Of products where none is named: float32 stays float32, which TPU would multiply in bfloat16."""
    return jax.lax.Precision.HIGHEST if wide(dtype) == dtype else jax.lax.Precision.DEFAULT


def default_scale(query: Array) -> float:
    """1 / sqrt(D)."""
    return 1 / math.sqrt(query.shape[-1])


def _choose(implementation: str | None, query: Array, key: Array, value: Array, options: dict[str, Any]) -> str:
    if implementation is not None:
        _require(implementation)
        reason = IMPLEMENTATIONS[implementation].unable(query, key, value, **options)
        if reason is not None:
            raise ValueError(
                f"implementation {implementation!r} cannot serve query {query.dtype}{list(query.shape)}, key "
                f"{list(key.shape)}: {reason}. Name implementation='reference', or none at all."
            )
        _log.debug("attention %s %s: %s, as named", list(query.shape), list(key.shape), implementation)
        return implementation
    passed, order = [], _using.get() or FALLBACK
    for name in order:
        candidate = IMPLEMENTATIONS[name]
        reason = candidate.unable(query, key, value, **options)
        if name != order[-1]:
            reason = reason or candidate.slower(query, key, value, **options)
        if reason is None:
            why = "; ".join([*passed, f"first of {order} that can"])
            _log.debug("attention %s %s: %s, none named: %s", list(query.shape), list(key.shape), name, why)
            return name
        passed.append(f"not {name}: {reason}")
    raise ValueError(f"no implementation can serve this call: {'; '.join(passed)}.")


def _require(name: str) -> None:
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation: there is no {name!r}; there are {', '.join(IMPLEMENTATIONS)}.")


def check(query, key, value, bias, mask, softcap, dropout, statistics, received_weights) -> tuple[str, ...]:
    """Raises ValueError where the arguments do not fit together; returns the statistics as a tuple."""
    for name, array in (("query", query), ("key", key), ("value", value)):
        if array.ndim != 4:
            raise ValueError(f"{name}: needs 4 axes [B, N, H, D], got {list(array.shape)}; vmap over further axes.")
        if array.dtype != query.dtype or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{name}: query, key and value need one floating dtype, got {query.dtype}, {key.dtype}, {value.dtype}: "
                "cast them first."
            )
    batch, queries, heads, width = query.shape
    _, keys, shared, _ = key.shape
    if key.shape[0] != batch or key.shape[3] != width:
        raise ValueError(f"key: needs the batch and width of query {list(query.shape)}, got {list(key.shape)}.")
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value: needs batch, tokens and heads of key {list(key.shape)}, got {list(value.shape)}.")
    if shared == 0 or heads % shared:
        raise ValueError(f"key: query heads must be a multiple of key heads, got {heads} and {shared}.")
    if bias is not None:
        full = (batch, heads, queries, keys)
        if bias.ndim != 4 or any(size not in (1, most) for size, most in zip(bias.shape, full, strict=True)):
            raise ValueError(
                f"bias: each axis of [B, H, Nq, Nk] = {list(full)} must be full or 1, got {list(bias.shape)}."
            )
    if mask is not None:
        if not isinstance(mask, Mask):
            raise ValueError(
                f"mask: needs a kernels.attention.Mask, got {type(mask).__name__}; Mask(..., key_valid=...) hides keys."
            )
        mask.check(batch, queries, keys)
    if softcap is not None and softcap <= 0:
        raise ValueError(f"softcap: must be above 0, got {softcap}; None caps nothing.")
    if dropout is not None:
        _check_dropout(dropout, batch, heads)
    check_names(statistics)
    if received_weights is not None:
        if "received" not in statistics:
            raise ValueError("received_weights: given, but 'received' is not among the statistics: name it.")
        if received_weights.ndim != 3 or received_weights.shape[:2] != (batch, queries):
            raise ValueError(
                f"received_weights: needs [B, Nq, R] = [{batch}, {queries}, R], got {list(received_weights.shape)}."
            )
    return tuple(statistics)


def _check_dropout(dropout, batch: int, heads: int) -> None:
    if not isinstance(dropout, tuple) or len(dropout) != 2:
        raise ValueError(f"dropout: needs (rate, seed), got {dropout!r}.")
    rate, seed = dropout
    if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate must be a Python number, 0 <= rate < 1, got {rate!r}.")
    integers = isinstance(seed, (int, np.integer)) or (
        isinstance(seed, (jax.Array, np.ndarray)) and jnp.issubdtype(seed.dtype, jnp.integer)
    )
    if not integers or jnp.shape(seed) not in ((), (batch, heads)):
        raise ValueError(
            f"dropout: the seed must be an integer, or integers [B, H] = [{batch}, {heads}] from dropout_seeds, "
            f"got {seed!r}."
        )
