"""Attention pair by pair: cuts the arrays of a call into those of its pairs, and puts the results together.

What the implementations for XLA share; each gives a function for one pair (see ``OfPair``). Plain JAX, so that
gradients of the cutting and joining are JAX's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.attention import mask as masks
from kernels.attention.dropout import dropout_seeds
from kernels.attention.statistics import OVER_KEYS, shapes


def wide(dtype: Any) -> jnp.dtype:
    """The dtype of scores, softmax and sums for inputs of a dtype: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


class Operands(NamedTuple):
    """The arrays of one pair that may be differentiated.

    Attributes:
      query: [B, q, H, D].
      key: [B, k, Hkv, D].
      value: [B, k, Hkv, Dv].
      scale: of the products where it is an array; else None, and in the settings.
      bias: [#B, #H, #q, #k], or None.
      weights: of the queries in ``received`` and ``relevance``, [B, q, R]; or None.
      upstream: the gradient of something at the output, [B, q, H, Dv], in ``relevance``; or None.
    """

    query: Any
    key: Any
    value: Any
    scale: Any
    bias: Any
    weights: Any
    upstream: Any = None


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Differentiated:
    """Which operands are; static, though it travels with arrays."""

    bias: bool
    scale: bool

    @classmethod
    def of(cls, operands: Operands) -> Differentiated:
        """Of operands as a custom derivative with symbolic zeros is given them."""
        return cls(
            bias=operands.bias is not None and operands.bias.perturbed,
            scale=operands.scale is not None and operands.scale.perturbed,
        )


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is static in a call, for one pair.

    Attributes:
      pair: its ranges.
      softcap, statistics, precision: as in ``attention``.
      scale: of the products where it is a number.
      rate: of dropout, 0 for none.
    """

    pair: masks.Pair
    scale: float | None
    softcap: float | None
    rate: float
    statistics: tuple[str, ...]
    precision: Any

    def scale_of(self, operands: Operands) -> Any:
        """Of the products, as a number or an array in the dtype of scores."""
        if self.scale is not None:
            return self.scale
        return jnp.asarray(operands.scale, wide(operands.query.dtype))

    def positions(self) -> np.ndarray:
        """Token numbers of the queries."""
        return np.arange(*self.pair.queries)


# (settings, operands, sight, seeds of dropout [B, H]) -> output [B, q, H, Dv] and the statistics of these queries;
# those of OVER_KEYS are [B, H, k, R], of the pair's own columns.
OfPair = Callable[[Settings, Operands, masks.Sight, Any], tuple[Array, dict[str, Array]]]


def attend(
    of_pair: OfPair,
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
    upstream: Float[Array, "B Nq H Dv"] | None = None,
) -> tuple[Float[Array, "B Nq H Dv"], dict[str, Array]]:
    """Output and statistics of ``kernels.attention.attention``, whose arguments these are, checked and filled in.

    Args:
      upstream: the gradient at the output, for the statistic ``relevance`` of ``kernels.attention.relevance``.
    """
    batch, queries, heads, _ = query.shape
    keys, width = value.shape[1], value.shape[3]
    mask = masks.everything(queries, keys) if mask is None else mask
    accumulate = wide(query.dtype)
    if "received" in statistics and received_weights is None:
        received_weights = jnp.ones((batch, queries, 1), accumulate)
    rate, seeds = 0.0, None
    if dropout is not None:
        rate, seed = dropout
        seeds = seed if jnp.ndim(seed) == 2 else dropout_seeds(seed, batch, heads)
    number, scale = (float(scale), None) if isinstance(scale, (int, float, np.number)) else (None, scale)

    parts = []
    columns = 1 if received_weights is None else received_weights.shape[2]
    wanted = shapes(statistics, batch, heads, queries, keys, len(mask.keys.names), columns, width)
    over_keys = {name: jnp.zeros(shape, accumulate) for name, shape in wanted.items() if name in OVER_KEYS}
    for pair in masks.pairs(mask):
        operands = Operands(
            pair.take_queries(query, 1), pair.take_keys(key, 1), pair.take_keys(value, 1), scale,
            _of_bias(bias, pair), None if received_weights is None else pair.take_queries(received_weights, 1),
            None if upstream is None else pair.take_queries(upstream, 1),
        )  # fmt: skip
        settings = Settings(pair, number, softcap, rate, statistics, precision)
        output, found = of_pair(settings, operands, masks.Sight.of(mask, pair), seeds)
        over_keys = {name: _add_columns(total, found.pop(name), pair) for name, total in over_keys.items()}
        parts.append((pair.queries, {"output": output, **found}))

    output = _rows(parts, "output", (batch, queries, heads, width), value.dtype, axis=1)
    result = {}
    for name, shape in wanted.items():
        dtype = jnp.bool_ if name == "nonempty" else accumulate
        result[name] = over_keys[name] if name in over_keys else _rows(parts, name, shape, dtype)
    return output, result


def _of_bias(bias: Array | None, pair: masks.Pair) -> Array | None:
    if bias is None:
        return None
    bias = bias if bias.shape[2] == 1 else pair.take_queries(bias, 2)
    return bias if bias.shape[3] == 1 else pair.take_keys(bias, 3)


def _rows(
    parts: list[tuple[masks.Range, dict[str, Array] | None]],
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    axis: int = 2,
) -> Array:
    """Puts the ranges of queries together along an axis; rows in no pair see nothing."""
    empty = -jnp.inf if name == "lse" else 0
    pieces, reached = [], 0
    for (begin, end), found in [*parts, ((shape[axis], shape[axis]), None)]:
        if begin > reached:
            pieces.append(jnp.full((*shape[:axis], begin - reached, *shape[axis + 1 :]), empty, dtype))
        if found is not None:
            pieces.append(found[name])
        reached = end
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis)


def _add_columns(total: Array, columns: Array, pair: masks.Pair) -> Array:
    """Adds what belongs to the columns of a pair to their keys."""
    count = 0
    for begin, end in pair.keys:
        total = total.at[:, :, begin:end].add(columns[:, :, count : count + end - begin])
        count += end - begin
    return total
