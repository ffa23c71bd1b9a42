"""The backward kernels: weights are made again from z and two numbers a row, and become the gradient of the scores.

    P_ij  = exp(S_ij - m_i) / l_i
    G_ij  = <dO_i + dO_ig, V_j> + a_ig - b_ig log P_ij + 2 dR_i P_ij + w_i dC_j          g the group of key j
    dS_ij = P_ij (G_ij - D_i) + dX_i X_i 1[j is the peak]

as in block.py, where the letters are explained. D_i, a_ig, b_ig and the like are rows, worked out before the kernels
start (terms.py). Three kernels go over the blocks: one adds up the gradient of the queries, one those of keys and
values, and one, where a bias is differentiated, that of the bias, which so is added up in float32 and never spread out.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from kernels.attention.block import LOWEST
from kernels.attention.mosaic_tpu import hiding
from kernels.attention.mosaic_tpu.launch import Launch, Named
from kernels.attention.mosaic_tpu.steps import LAST, by_blocks, by_columns, by_rows
from kernels.attention.mosaic_tpu.tile import (
    LN2,
    Arrays,
    Rows,
    Settings,
    add_inputs,
    bias_block,
    bias_index,
    clear,
    dot,
    keep,
    key_tokens,
    made_weights,
    masked_scores,
    members,
    over_chunks,
    run,
    term,
    when_visited,
)


@dataclasses.dataclass(frozen=True)
class Upstream:
    """What the backward kernels need beside the arrays of the call.

    Attributes:
      rows: names of the rows of ``terms``.
      terms: [B, H, rows, Nq] float32.
      output: dO [B, H, 1, Dv, Nq], or dO + dO_g for every group [B, H, G, Dv, Nq]; None where neither has a gradient.
      received: dC [B, H, Nk, R] float32, or None. With it the rows of ``terms`` have the weights of the queries.
    """

    rows: Rows
    terms: Array
    output: Array | None
    received: Array | None


def of_queries(settings: Settings, arrays: Arrays, upstream: Upstream) -> Array:
    """The gradient of the scaled queries, [B, H, D, Nq] float32."""
    batch, heads, width, queries = arrays.query.shape
    rows, shared = settings.sizes.rows, arrays.key.shape[1]
    simple = _simple(settings, upstream)
    launch = Launch(by_rows(settings.grid, arrays.words, batch, heads, shared, mixed_is_whole=simple))
    _add_inputs(launch, settings, arrays, upstream)
    launch.output(
        "of_query", (batch, heads, width, queries), jnp.float32, (1, 1, width, rows),
        lambda at: (at.sample, at.head, 0, at.row),
    )  # fmt: skip
    launch.scratch["added"] = ((width, rows), jnp.float32)

    def kernel(here: Named) -> None:
        clear(here, "added")

        def visit(here: Named, masked: bool) -> None:
            key = here.key[0, 0, :, :width]

            def add(chunk: pl.Slice, found: tuple) -> None:
                gradient, _ = _gradient(here, settings, upstream.rows, chunk, found, masked)
                here.added[:, chunk] += dot(key, gradient.astype(key.dtype), (0, 0), settings)

            over_chunks(settings, lambda chunk: _products(here, settings, chunk, masked), add)

        when_visited(here, settings, visit)

        @pl.when((here.at.flags & LAST) != 0)
        def _() -> None:
            # What was made of a row that sees nothing may be anything.
            alive = term(here, upstream.rows, "inverse", pl.ds(0, rows)) > 0
            here.of_query[0, 0] = jnp.where(alive, here.added[...], 0)

    return run(launch, "attention_of_queries", kernel, settings, over_queries=False)["of_query"]


def of_keys(settings: Settings, arrays: Arrays, upstream: Upstream) -> tuple[Array, Array]:
    """Gradients of the keys before the scale [B, Hkv, Nk, D] and of the values [B, Hkv, Nk, Dv], float32."""
    batch, heads, width, _ = arrays.query.shape
    shared, keys, value_width = arrays.key.shape[1], arrays.key.shape[2], arrays.value.shape[2]
    columns, simple = settings.sizes.columns, _simple(settings, upstream)
    launch = Launch(by_columns(settings.grid, arrays.words, batch, heads, shared, mixed_is_whole=simple))
    _add_inputs(launch, settings, arrays, upstream)
    for name, size in (("key", width), ("value", value_width)):
        launch.output(
            f"of_{name}", (batch, shared, keys, size), jnp.float32, (1, 1, columns, size),
            lambda at: (at.sample, at.shared, at.column, 0),
        )  # fmt: skip
        launch.scratch[f"added_{name}"] = ((columns, size), jnp.float32)

    def kernel(here: Named) -> None:
        clear(here, "added_key", "added_value")

        def visit(here: Named, masked: bool) -> None:
            def add(chunk: pl.Slice, found: tuple) -> None:
                gradient, weights = _gradient(here, settings, upstream.rows, chunk, found, masked)
                query = here.query[0, 0, :width, chunk]
                sums["key"].append((gradient.astype(query.dtype), query))
                if "of_output" in here:
                    above = here.of_output[0, 0, 0, :, chunk]
                    sums["value"].append((weights.astype(above.dtype), above))

            sums: dict[str, list] = {"value": [], "key": []}
            over_chunks(settings, lambda chunk: _products(here, settings, chunk, masked), add)
            for name, pairs in sums.items():
                if pairs:
                    left, right = (jnp.concatenate(arrays, 1) for arrays in zip(*pairs, strict=True))
                    here[f"added_{name}"][...] += dot(left, right, (1, 1), settings)

        when_visited(here, settings, visit, keys_stay=not settings.grid.split)

        @pl.when((here.at.flags & LAST) != 0)
        def _() -> None:
            here.of_key[0, 0] = here.added_key[...]
            here.of_value[0, 0] = here.added_value[...]

    found = run(launch, "attention_of_keys", kernel, settings, over_queries=True)
    return found["of_key"], found["of_value"]


def of_bias(settings: Settings, arrays: Arrays, upstream: Upstream) -> Array:
    """The gradient of the bias, [#B, #H, #Nk, #Nq] float32: summed over every axis that is 1 there.

    Of every block of the gradient all blocks of scores that it is the sum of are visited, one after the other.
    """
    batch, heads, _, _ = arrays.query.shape
    shape, block = arrays.bias.shape, bias_block(settings, arrays)
    launch = Launch(
        by_blocks(
            settings.grid, arrays.words, batch, heads, arrays.key.shape[1], tuple(size > 1 for size in shape),
            mixed_is_whole=_simple(settings, upstream),
        )
    )  # fmt: skip
    _add_inputs(launch, settings, arrays, upstream)
    launch.output("of_bias", shape, jnp.float32, block, lambda at: bias_index(arrays, at))
    launch.scratch["added"] = (block[2:], jnp.float32)

    def kernel(here: Named) -> None:
        clear(here, "added")

        def visit(here: Named, masked: bool) -> None:
            def add(chunk: pl.Slice, found: tuple) -> None:
                gradient, _ = _gradient(here, settings, upstream.rows, chunk, found, masked, before_cap=False)
                if shape[2] == 1:
                    gradient = gradient.sum(0, keepdims=True)
                if shape[3] == 1:
                    here.added[...] += gradient.sum(1, keepdims=True)
                else:
                    here.added[:, chunk] += gradient

            over_chunks(settings, lambda chunk: _products(here, settings, chunk, masked), add)

        when_visited(here, settings, visit)

        @pl.when((here.at.flags & LAST) != 0)
        def _() -> None:
            here.of_bias[0, 0] = here.added[...]

    return run(launch, "attention_of_bias", kernel, settings, over_queries=True)["of_bias"]


def _simple(settings: Settings, upstream: Upstream) -> bool:
    """Whether it is nothing to a kernel that the keys of a block are of several groups."""
    return settings.groups == 1 or {"of_groups", "slopes"}.isdisjoint(upstream.rows.starts)


def _add_inputs(launch: Launch, settings: Settings, arrays: Arrays, upstream: Upstream) -> None:
    add_inputs(launch, settings, arrays)
    rows, columns = settings.sizes.rows, settings.sizes.columns
    count, words = upstream.terms.shape[2], arrays.words
    terms = hiding.filled(upstream.terms, words.queries[:, None], 3)
    launch.input("terms", terms, (1, 1, count, rows), lambda at: (at.sample, at.head, 0, at.row))
    if upstream.output is not None:
        several, width = upstream.output.shape[2] > 1, upstream.output.shape[3]
        launch.input(
            "of_output", upstream.output, (1, 1, 1, width, rows),
            lambda at: (at.sample, at.head, jnp.maximum(at.group, 0) if several else 0, 0, at.row),
        )  # fmt: skip
    received = upstream.received
    if received is not None:
        received = hiding.filled(received, words.keys[..., None], 2)
    launch.input(
        "of_received", received, (1, 1, columns, settings.columns),
        lambda at: (at.sample, at.head, at.column, 0),
    )  # fmt: skip


def _products(here: Named, settings: Settings, chunk: pl.Slice, masked: bool) -> tuple:
    """z, the derivative of the softcap, and <dO, V>: what the matrix unit gives first."""
    z, slope = masked_scores(here, settings, chunk, masked)
    through = None
    if "of_output" in here:
        through = dot(here.value[0, 0], here.of_output[0, 0, 0, :, chunk], (0, 0), settings)
    return z, slope, through


def _gradient(
    here: Named,
    settings: Settings,
    rows: Rows,
    chunk: pl.Slice,
    found: tuple,
    masked: bool,
    *,
    before_cap: bool = True,
) -> tuple[Array, Array]:
    """The gradient of the scores [keys, chunk], before softcap and bias or after them, and the dropped weights."""
    z, slope, through = found
    row = functools.partial(term, here, rows, chunk=chunk)
    weights, shifted = made_weights(here, settings, rows, chunk, z)
    dropped, worth = weights, through
    if settings.rate:
        survives = keep(here, settings, chunk, slice(0, settings.sizes.columns))
        factor = 1 / (1 - settings.rate)
        dropped = jnp.where(survives, weights * factor, 0)
        worth = None if through is None else jnp.where(survives, through * factor, 0)
    worth = jnp.zeros_like(z) if worth is None else worth
    worth = worth - row("shift")
    if "of_groups" in rows:
        worth = worth + _by_group(here, settings, rows, "of_groups", chunk, masked)
    if "slope" in rows or "slopes" in rows:
        logarithm = jnp.maximum(LN2 * shifted + row("log_inverse"), LOWEST)
        slopes = row("slope") if "slope" in rows else _by_group(here, settings, rows, "slopes", chunk, masked)
        worth = worth - slopes * logarithm
    if "moment" in rows:
        worth = worth + row("moment") * weights
    if "of_received" in here:
        for column in range(settings.columns):
            worth = worth + row("weights", offset=column) * here.of_received[0, 0, :, column : column + 1]
    gradient = weights * worth
    if "peak" in rows:
        at = key_tokens(here, settings).astype(jnp.float32) == row("peak_at")
        if settings.grid.split:
            # Every group of the block has a step, and in those of other groups the peak is hidden.
            at = at & (weights > 0)
        gradient = gradient + jnp.where(at, row("peak"), 0)
    if slope is not None and before_cap:
        gradient = gradient * slope
    return gradient, dropped


def _by_group(here: Named, settings: Settings, rows: Rows, name: str, chunk: pl.Slice, masked: bool) -> Array:
    """A row for each group to the columns of that group."""
    if settings.groups == 1:
        return term(here, rows, name, chunk)
    if not masked:
        # All keys of the block are of one group. Its row is picked out, since none can be loaded by its number.
        every = here.terms[0, 0, rows.slice(name), chunk]
        group = jax.lax.broadcasted_iota(jnp.int32, (settings.groups, 1), 0)
        return jnp.where(group == here.at.group, every, 0).sum(0, keepdims=True)
    result = 0.0
    for group, member in members(here, settings, slice(0, settings.sizes.columns)):
        result = jnp.where(member, term(here, rows, name, chunk, group), result)
    return result
