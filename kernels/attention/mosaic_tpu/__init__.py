"""Attention for TPU in Pallas, forward and backward, with every statistic: one launch a pass for all groups of a mask.

    attend      the contract (api.py), with a derivative of its own
    steps.py    which blocks of scores are visited
    launch.py   a kernel being put together
    tile.py     what every kernel does with a block
    hiding.py   how it hides keys from queries
    forward.py, backward.py, columns.py    the kernels
    terms.py    rows that the backward kernels are given
    target.py   for what it is compiled, and with blocks of which sizes

docs/kernels.md explains how they work.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from kernels.attention import mask as masks
from kernels.attention.block import SOFTMAX
from kernels.attention.dropout import dropout_seeds
from kernels.attention.mask import Mask
from kernels.attention.mosaic_tpu import backward, columns, forward, hiding, target
from kernels.attention.mosaic_tpu.steps import MOST_GROUPS, Grid, Words
from kernels.attention.mosaic_tpu.terms import row_terms
from kernels.attention.mosaic_tpu.tile import Arrays, Settings
from kernels.attention.pairwise import Differentiated, Operands
from kernels.attention.statistics import OVER_KEYS, output_product

WIDEST = 256


def unable(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why a call cannot be served, or None."""
    if target.current() is None:
        return (
            f"it is for TPU and the backend is {jax.default_backend()} "
            "(kernels.attention.mosaic_tpu.target.interpreted() runs it anywhere, slowly)"
        )
    if query.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it serves float32 and bfloat16, not {query.dtype}"
    for name, array in (("heads", query), ("values", value)):
        if array.shape[3] > WIDEST:
            return f"its {name} are {array.shape[3]} wide, and it serves up to {WIDEST}"
    mask = options["mask"]
    if mask is not None and len(mask.keys.names) > MOST_GROUPS:
        return f"its mask has {len(mask.keys.names)} groups of keys, and it serves up to {MOST_GROUPS}"
    if min(query.shape[1], key.shape[1]) == 0:
        return "it has no queries or no keys"
    if options["precision"] not in (jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGHEST):
        return f"it serves the precisions DEFAULT and HIGHEST, not {options['precision']}"
    return None


def slower(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why a later implementation is taken to be faster for a call, or None."""
    if max(query.shape[1], key.shape[1]) <= target.SMALLEST:
        return f"up to {target.SMALLEST} tokens are one block, most of it empty (a static estimate, not measured)"
    return None


@dataclasses.dataclass(frozen=True)
class Call:
    """What is static in a call.

    Attributes:
      mask: without its arrays.
      heads: H.
      scale: None where it is an array.
      columns: of ``received_weights``.
      target: see target.py; it counts when a call is traced.
    """

    mask: Mask
    heads: int
    scale: float | None
    softcap: float | None
    rate: float
    statistics: tuple[str, ...]
    columns: int
    precision: Any
    target: target.Target

    def settings(self, direction: str, operands: Operands, statistics: tuple[str, ...] = ()) -> Settings:
        """Of a kernel: one of target.DIRECTIONS."""
        query, key, value = operands[:3]
        shape = target.Shape(query.shape[1], key.shape[1], max(query.shape[3], value.shape[3]), str(query.dtype))
        sizes = self.target.sizes(direction, shape, self.heads // key.shape[2])
        # Where nothing but a positive scale is done to a product, exp2() does it.
        folded = self.softcap is None and operands.bias is None and self.scale is not None and self.scale > 0
        split = "group_output" in statistics
        spare = hiding.spare_rows(len(self.mask.keys.names), query.shape[3], query.dtype) if folded else 0
        return Settings(
            Grid.of(self.mask, sizes.rows, sizes.columns, split=split), sizes, self.heads, self.scale, folded,
            self.softcap, self.rate, statistics, self.columns, self.precision, spare, self.target.interpret,
        )  # fmt: skip

    def arrays(
        self, settings: Settings, operands: Operands, dynamic: dict[str, Any], seeds: Any, *, over_queries: bool
    ) -> Arrays:
        """As kernels take them; ``over_queries`` as in ``Words.of``."""
        query, key, value, scale, bias = operands[:5]
        # TPU multiplies float32 and bfloat16 with tokens last or first; which is which, tile.py says.
        return Arrays(
            jnp.transpose(query, (0, 2, 3, 1)), jnp.transpose(key, (0, 2, 1, 3)), jnp.transpose(value, (0, 2, 3, 1)),
            None if scale is None else scale.astype(jnp.float32).reshape(1),
            None if bias is None else jnp.swapaxes(bias, 2, 3), seeds,
            Words.of(settings.grid, self.mask.replace(**dynamic), over_queries=over_queries),
        )  # fmt: skip


def attend(
    query: Array,
    key: Array,
    value: Array,
    *,
    bias: Array | None,
    mask: Mask | None,
    scale: float | Array,
    softcap: float | None,
    dropout: tuple[float, Any] | None,
    statistics: tuple[str, ...],
    received_weights: Array | None,
    precision: Any,
) -> tuple[Array, dict[str, Array]]:
    """Output and statistics of ``kernels.attention.attention``, whose arguments these are, checked and filled in."""
    batch, queries, heads, _ = query.shape
    mask = masks.everything(queries, key.shape[1]) if mask is None else mask
    if "received" not in statistics:
        received_weights = None
    elif received_weights is None:
        received_weights = jnp.ones((batch, queries, 1), jnp.float32)
    rate, seeds = 0.0, None
    if dropout is not None:
        rate, seed = dropout
        seeds = seed if jnp.ndim(seed) == 2 else dropout_seeds(seed, batch, heads)
    number, scale = (float(scale), None) if isinstance(scale, (int, float, np.number)) else (None, jnp.asarray(scale))
    names = ("query_valid", "key_valid", "presence", "segments")
    dynamic = {name: getattr(mask, name) for name in names if getattr(mask, name) is not None}
    # Products of outputs, and their gradients, are made of the outputs by group.
    made = tuple(dict.fromkeys("group_output" if name == "output_product" else name for name in statistics))
    call = Call(
        mask.replace(**dict.fromkeys(names)), heads, number, softcap, rate, made,
        0 if received_weights is None else received_weights.shape[2], precision, target.current(),
    )  # fmt: skip
    output, found = _attend(call, Operands(query, key, value, scale, bias, received_weights), dynamic, seeds)
    if "output_product" in statistics:
        found["output_product"] = output_product(found["group_output"])
        if "group_output" not in statistics:
            del found["group_output"]
    return output, found


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: Call, operands: Operands, dynamic: dict[str, Any], seeds: Any) -> tuple[Array, dict[str, Array]]:
    output, found = _forward(call, operands, dynamic, seeds, call.statistics)
    return output, _named(call, found)


def _attend_forward(call: Call, operands: Any, dynamic: Any, seeds: Any) -> tuple[Any, Any]:
    differentiated = Differentiated.of(operands)
    operands, dynamic, seeds = jax.tree.map(
        lambda x: x.value, (operands, dynamic, seeds), is_leaf=lambda x: hasattr(x, "perturbed")
    )
    more = [*SOFTMAX]
    # The gradient of a group's entropy takes its mass too, that of a peak where it is.
    more += ["mass"] if "group_entropy" in call.statistics and "mass" not in call.statistics else []
    more += ["peak_at"] if "peak" in call.statistics else []
    output, found = _forward(call, operands, dynamic, seeds, (*call.statistics, *more))
    return (output, _named(call, found)), (operands, dynamic, seeds, output, found, differentiated)


def _attend_backward(call: Call, residuals: Any, cotangents: Any) -> tuple[Any, None, None]:
    operands, dynamic, seeds, output, found, differentiated = residuals
    of_output, of_statistics = cotangents
    given = {
        name: cotangent.astype(jnp.float32)
        for name, cotangent in of_statistics.items()
        if name != "nonempty" and not isinstance(cotangent, SymbolicZero)
    }
    of_output = None if isinstance(of_output, SymbolicZero) else of_output
    return _backward(call, operands, dynamic, seeds, output, found, of_output, given, differentiated), None, None


_attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


def _named(call: Call, found: dict[str, Array]) -> dict[str, Array]:
    result = {name: found[name] for name in call.statistics}
    if "lse" in result:
        result["nonempty"] = jnp.isfinite(result["lse"])
    return result


def _forward(
    call: Call, operands: Operands, dynamic: dict[str, Any], seeds: Any, names: tuple[str, ...]
) -> tuple[Array, dict[str, Array]]:
    """Output [B, Nq, H, Dv] and statistics; ``received`` is a pass of its own."""
    in_rows = tuple(name for name in names if name not in OVER_KEYS)
    if "received" in names:
        in_rows = tuple(dict.fromkeys((*in_rows, *SOFTMAX)))
    settings = call.settings("forward", operands, in_rows)
    output, found = forward.forward(settings, call.arrays(settings, operands, dynamic, seeds, over_queries=False))
    if "group_output" in found:
        found["group_output"] = jnp.moveaxis(found["group_output"], 4, 2)
    if "received" in names:
        settings = call.settings("received", operands)
        arrays = call.arrays(settings, operands, dynamic, seeds, over_queries=True)
        softmax = tuple(found[name] for name in SOFTMAX)
        found["received"] = columns.received(settings, arrays, softmax, operands.weights)
    return jnp.transpose(output, (0, 3, 1, 2)), found


def _backward(
    call: Call,
    operands: Operands,
    dynamic: dict[str, Any],
    seeds: Any,
    output: Array,
    found: dict[str, Array],
    of_output: Array | None,
    given: dict[str, Array],
    differentiated: Differentiated,
) -> Operands:
    """Gradients of the operands; ``given`` are those of the statistics that have any."""
    softmax = tuple(found[name] for name in SOFTMAX)
    through, of_weights, of_received = None, None, given.get("received")
    if of_received is not None:
        settings = call.settings("received", operands)
        arrays = call.arrays(settings, operands, dynamic, seeds, over_queries=False)
        through = columns.found(settings, arrays, softmax, of_received)
        of_weights = jnp.swapaxes(through.sum(1), 1, 2)
    rows, terms = row_terms(found, given, output, of_output, operands.weights, through)
    above = None if of_output is None else jnp.transpose(of_output, (0, 2, 3, 1))[:, :, None]
    parts = given.get("group_output")
    if parts is not None:
        parts = jnp.moveaxis(parts, 2, 4)
        above = parts if above is None else parts + above
    above = None if above is None else above.astype(operands.value.dtype)
    upstream = backward.Upstream(rows, terms, above, of_received)

    def prepared(direction: str) -> tuple[Settings, Arrays]:
        settings = call.settings(direction, operands, () if parts is None else ("group_output",))
        return settings, call.arrays(settings, operands, dynamic, seeds, over_queries=direction != "of_queries")

    of_query = backward.of_queries(*prepared("of_queries"), upstream)
    of_query = jnp.transpose(of_query, (0, 3, 1, 2))
    of_key, of_value = (jnp.swapaxes(array, 1, 2) for array in backward.of_keys(*prepared("of_keys"), upstream))
    scale = call.scale if call.scale is not None else operands.scale.astype(jnp.float32)
    of_scale = of_bias = None
    if differentiated.scale:
        of_scale = jnp.sum(of_query * operands.query).astype(operands.scale.dtype).reshape(operands.scale.shape)
    if differentiated.bias:
        of_bias = jnp.swapaxes(backward.of_bias(*prepared("of_keys"), upstream), 2, 3).astype(operands.bias.dtype)
    return Operands(
        (of_query * scale).astype(operands.query.dtype),
        (of_key * scale).astype(operands.key.dtype),
        of_value.astype(operands.value.dtype),
        of_scale,
        of_bias,
        None if of_weights is None else of_weights.astype(operands.weights.dtype),
    )
