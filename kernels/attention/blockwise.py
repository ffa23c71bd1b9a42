"""Attention in O(N) memory for XLA: a loop over blocks of queries, recomputed in the backward pass.

A block (block.py) sees all keys of its pair at once, so its softmax is an ordinary one, whose scores stay in cache. The
backward pass is given the row statistics of the forward pass and makes the weights again, block by block. Statistics
that nobody differentiates cost nothing there.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from kernels.attention import block as one_block
from kernels.attention import mask as masks
from kernels.attention import pairwise
from kernels.attention.block import NEEDED, SOFTMAX
from kernels.attention.blocks import Blocks
from kernels.attention.pairwise import Differentiated, Operands, Settings, wide
from kernels.attention.statistics import OVER_KEYS, output_product

# Of scores, in float32: up to here the dense computation is the faster one. Measured on CPU (two cores of AMD EPYC,
# November 2026): at 4 MiB it takes 0.8 of the time, at 16 MiB 1.5, forward and backward. On one NVIDIA H200 (November
# 2026) it took 0.45 to 0.73 of it at 0.1 and at 1 GiB; above that nothing was measured, and memory counts.
DENSE_BYTES = {"cpu": 8 * 2**20, "gpu": 2**30}


def relevance_of_pair(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    """``of_pair`` for the statistic ``relevance``, in plain JAX."""
    return _forward(Blocks.of(settings, operands, sight, seeds), settings.statistics)


def unable(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why a call cannot be served, or None."""
    if jnp.ndim(options["scale"]):
        return f"its scale must be one number, not an array of shape {jnp.shape(options['scale'])}"
    return None


def slower(query: Array, key: Array, value: Array, **options: Any) -> str | None:
    """Why the dense computation is faster for a call, or None."""
    mask = options["mask"] or masks.everything(query.shape[1], key.shape[1])
    scores = 4 * query.shape[0] * query.shape[2] * sum(pair.scores for pair in masks.pairs(mask))
    most = DENSE_BYTES.get(jax.default_backend(), DENSE_BYTES["cpu"])
    if scores <= most:
        return f"dense is faster up to {most / 2**20:.0f} MiB of scores, and these are {scores / 2**20:.2g}"
    return None


# ---------------------------------------------------------------------------------------------- the derivative


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def of_pair(
    settings: Settings, operands: Operands, sight: masks.Sight, seeds: Array | None
) -> tuple[Array, dict[str, Array]]:
    """Output [B, q, H, Dv] and statistics of one range of queries, with a derivative of its own."""
    blocks = Blocks.of(settings, operands, sight, seeds, alone=not settings.statistics)
    return _forward(blocks, settings.statistics)


def _attend_forward(settings: Settings, operands: Any, sight: Any, seeds: Any) -> tuple[Any, Any]:
    differentiated = Differentiated.of(operands)
    operands, sight, seeds = jax.tree.map(
        lambda x: x.value, (operands, sight, seeds), is_leaf=lambda x: hasattr(x, "perturbed")
    )
    asked = settings.statistics
    # The gradient of a group's entropy takes its mass too, that of a product of outputs the outputs by group.
    more = [of for name, of in (("group_entropy", "mass"), ("output_product", "group_output")) if name in asked]
    names = tuple(dict.fromkeys((*asked, *more, *SOFTMAX)))
    output, found = _forward(Blocks.of(settings, operands, sight, seeds), names)
    named = {*asked, *(("nonempty",) if "lse" in asked else ())}
    result = {name: array for name, array in found.items() if name in named}
    kept = {name: found[name] for name in (*SOFTMAX, *NEEDED, *more) if name in found}
    return (output, result), (operands, sight, seeds, kept, differentiated)


def _attend_backward(settings: Settings, residuals: Any, cotangents: Any) -> tuple[Any, None, None]:
    operands, sight, seeds, found, differentiated = residuals
    of_output, of_statistics = cotangents
    dtype = wide(operands.query.dtype)
    given = {
        name: cotangent.astype(dtype)
        for name, cotangent in of_statistics.items()
        if name != "nonempty" and not isinstance(cotangent, SymbolicZero)
    }
    if "output_product" in given:
        _, pull = jax.vjp(output_product, found["group_output"])
        given["group_output"] = pull(given.pop("output_product"))[0] + given.get("group_output", 0)
    of_output = None if isinstance(of_output, SymbolicZero) else of_output
    if "received" not in given:
        operands = operands._replace(weights=None)
    blocks = Blocks.of(settings, operands, sight, seeds)
    return _backward(blocks, found, of_output, given, differentiated), None, None


of_pair.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)
attend = functools.partial(pairwise.attend, of_pair)


# ---------------------------------------------------------------------------------------------- forward


def _forward(blocks: Blocks, names: tuple[str, ...]) -> tuple[Array, dict[str, Array]]:
    cut, operands = blocks.cut, blocks.operands

    def of_unit(_: None, unit: Array) -> tuple[None, tuple]:
        key, value = blocks.keys_of(unit)

        def of_block(totals: dict[str, Array], number: Array) -> tuple[dict[str, Array], tuple]:
            block = blocks.block(unit, number, key, value)
            output, found = one_block.forward(blocks.settings, block, names)
            return {name: total + found.pop(name) for name, total in totals.items()}, (output, found)

        totals = {}
        for name in OVER_KEYS:
            if name in names:
                shape = (cut.together * cut.multiple, cut.keys, operands.weights.shape[2])
                totals[name] = jnp.zeros(shape, wide(operands.query.dtype))
        totals, results = jax.lax.scan(of_block, totals, jnp.arange(cut.blocks))
        return None, (totals, results)

    _, (totals, (output, found)) = jax.lax.scan(of_unit, None, jnp.arange(cut.units))
    result = {name: cut.join_rows(array) for name, array in found.items()}
    result |= {name: total.reshape(cut.batch, -1, *total.shape[2:]) for name, total in totals.items()}
    return jnp.swapaxes(cut.join_rows(output), 1, 2), result


# ---------------------------------------------------------------------------------------------- backward


def _backward(
    blocks: Blocks,
    found: dict[str, Array],
    of_output: Array | None,
    given: dict[str, Array],
    differentiated: Differentiated,
) -> Operands:
    """Gradients of the operands; ``given`` are the cotangents of the statistics that have any."""
    cut, operands = blocks.cut, blocks.operands
    dtype = wide(operands.query.dtype)
    terms = one_block.row_terms(found, given)
    of_output = None if of_output is None else blocks.lay_rows(of_output)
    terms |= {"of_parts": given["group_output"]} if "group_output" in given else {}
    # In rows that are filled up scores are whatever the bias is, and no exp() of them must overflow.
    fills = {"highest": -masks.HIDDEN}
    terms = {name: cut.split_rows(array, fills.get(name, 0)) for name, array in terms.items()}
    of_received = given.get("received")
    if of_received is not None:
        of_received = of_received.reshape(cut.units, -1, *of_received.shape[2:])

    def of_unit(of_bias: Array | None, given: tuple) -> tuple[Array | None, tuple]:
        unit, terms, of_received = given
        key, value = blocks.keys_of(unit)

        def of_block(carry: tuple, given: tuple) -> tuple[tuple, tuple]:
            of_key, of_value, of_bias = carry
            number, terms = given
            block = blocks.block(unit, number, key, value)
            if of_output is not None:
                terms = {**terms, "of_output": blocks.rows_of(of_output, unit, number)}
            gradient = one_block.backward(blocks.settings, block, terms, of_received)
            if of_bias is not None:
                of_bias = blocks.add_bias(of_bias, gradient.bias, unit, number)
            return (of_key + gradient.key, of_value + gradient.value, of_bias), (gradient.query, gradient.weights)

        start = (*(jnp.zeros_like(jnp.swapaxes(array, 1, 2), dtype) for array in (key, value)), of_bias)
        (of_key, of_value, of_bias), (of_query, of_weights) = jax.lax.scan(
            of_block, start, (jnp.arange(cut.blocks), terms)
        )
        return of_bias, (of_query, of_key, of_value, of_weights)

    of_bias = jnp.zeros(operands.bias.shape, dtype) if differentiated.bias else None
    given = (jnp.arange(cut.units), terms, of_received)
    of_bias, (of_query, of_key, of_value, of_weights) = jax.lax.scan(of_unit, of_bias, given)
    # Without the scale: a product with the queries, it is the scale's own gradient.
    of_query = jnp.swapaxes(cut.join_rows(of_query), 1, 2)
    of_key, of_value = (jnp.moveaxis(cut.join_keys(array), 3, 1) for array in (of_key, of_value))
    scale = blocks.settings.scale_of(operands)
    of_key = of_key if blocks.folded else of_key * scale
    of_scale = jnp.sum(of_query * operands.query) if differentiated.scale else None
    if of_bias is not None and of_bias.shape[2] > 1:
        of_bias = of_bias[:, :, : cut.queries]
    return Operands(
        (of_query * scale).astype(operands.query.dtype),
        of_key.astype(operands.key.dtype),
        of_value.astype(operands.value.dtype),
        None if of_scale is None else of_scale.astype(operands.scale.dtype),
        None if of_bias is None else of_bias.astype(operands.bias.dtype),
        None if of_weights is None else cut.join_rows(of_weights).sum(1).astype(operands.weights.dtype),
    )
