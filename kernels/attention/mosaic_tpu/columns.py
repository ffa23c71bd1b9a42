"""Passes over weights that are made again: how much every key receives, and how much of something every query finds.

    C_jr = sum_i P_ij w_ir           y_ir = sum_j P_ij dC_jr

The first is the statistic ``received``, the second the gradient of its weights and a part of that of the scores.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from kernels.attention.mosaic_tpu import hiding
from kernels.attention.mosaic_tpu.launch import Launch, Named
from kernels.attention.mosaic_tpu.steps import LAST, by_columns, by_rows
from kernels.attention.mosaic_tpu.tile import (
    LANES,
    Arrays,
    Rows,
    Settings,
    add_inputs,
    clear,
    made_weights,
    masked_scores,
    over_chunks,
    run,
    term,
    when_visited,
)


def received(settings: Settings, arrays: Arrays, softmax: tuple[Array, Array], weights: Array) -> Array:
    """C [B, H, Nk, R] float32.

    Args:
      softmax: the rows ``highest`` and ``inverse`` of the forward kernel, [B, H, Nq].
      weights: w [B, Nq, R].
    """
    batch, heads, _, queries = arrays.query.shape
    shared, keys, columns = arrays.key.shape[1], arrays.key.shape[2], settings.columns
    rows = Rows.of({"highest": 1, "inverse": 1, "weights": columns})
    weights = jnp.broadcast_to(jnp.swapaxes(weights, 1, 2)[:, None], (batch, heads, columns, queries))
    terms = jnp.concatenate([jnp.stack(softmax, 2), weights.astype(jnp.float32)], 2)
    launch = Launch(by_columns(settings.grid, arrays.words, batch, heads, shared, mixed_is_whole=True, each_head=True))
    _add_inputs(launch, settings, arrays, terms)
    size = settings.sizes.columns
    launch.output(
        "received", (batch, heads, keys, columns), jnp.float32, (1, 1, size, columns),
        lambda at: (at.sample, at.head, at.column, 0),
    )  # fmt: skip
    # Added up lane by lane; the lanes are added up once, at the end.
    launch.scratch["added"] = ((columns, size, LANES), jnp.float32)

    def kernel(here: Named) -> None:
        clear(here, "added")

        def add(here: Named, chunk: pl.Slice, z: Array) -> None:
            made, _ = made_weights(here, settings, rows, chunk, z)
            for column in range(columns):
                shares = made * term(here, rows, "weights", chunk, column)
                lanes = [shares[:, at : at + LANES] for at in range(0, chunk.size, LANES)]
                here.added[column] += sum(lanes[1:], lanes[0])

        when_visited(here, settings, lambda here, masked: _visit(here, settings, add, masked), keys_stay=True)

        @pl.when((here.at.flags & LAST) != 0)
        def _() -> None:
            for column in range(columns):
                here.received[0, 0, :, column : column + 1] = here.added[column].sum(1, keepdims=True)

    return run(launch, "attention_received", kernel, settings, over_queries=True)["received"]


def found(settings: Settings, arrays: Arrays, softmax: tuple[Array, Array], of_received: Array) -> Array:
    """y [B, H, R, Nq] float32, of dC [B, H, Nk, R]."""
    batch, heads, _, queries = arrays.query.shape
    rows, columns = Rows.of({"highest": 1, "inverse": 1}), settings.columns
    shared, size = arrays.key.shape[1], settings.sizes.rows
    launch = Launch(by_rows(settings.grid, arrays.words, batch, heads, shared, mixed_is_whole=True))
    _add_inputs(launch, settings, arrays, jnp.stack(softmax, 2))
    launch.input(
        "of_received", hiding.filled(of_received, arrays.words.keys[..., None], 2),
        (1, 1, settings.sizes.columns, columns),
        lambda at: (at.sample, at.head, at.column, 0),
    )  # fmt: skip
    launch.output(
        "found", (batch, heads, columns, queries), jnp.float32, (1, 1, columns, size),
        lambda at: (at.sample, at.head, 0, at.row),
    )  # fmt: skip
    launch.scratch["added"] = ((columns, size), jnp.float32)

    def kernel(here: Named) -> None:
        clear(here, "added")

        def add(here: Named, chunk: pl.Slice, z: Array) -> None:
            made, _ = made_weights(here, settings, rows, chunk, z)
            for column in range(columns):
                worth = made * here.of_received[0, 0, :, column : column + 1]
                here.added[column : column + 1, chunk] += worth.sum(0, keepdims=True)

        when_visited(here, settings, lambda here, masked: _visit(here, settings, add, masked))

        @pl.when((here.at.flags & LAST) != 0)
        def _() -> None:
            # What was made of a row that sees nothing may be anything.
            here.found[0, 0] = jnp.where(term(here, rows, "inverse", pl.ds(0, size)) > 0, here.added[...], 0)

    return run(launch, "attention_found", kernel, settings, over_queries=False)["found"]


def _add_inputs(launch: Launch, settings: Settings, arrays: Arrays, terms: Array) -> None:
    add_inputs(launch, settings, arrays)
    # Of the values these passes need nothing.
    del launch.inputs["value"]
    terms = hiding.filled(terms, arrays.words.queries[:, None], 3)
    launch.input(
        "terms", terms, (1, 1, terms.shape[2], settings.sizes.rows), lambda at: (at.sample, at.head, 0, at.row)
    )


def _visit(here: Named, settings: Settings, add: Callable[[Named, pl.Slice, Array], None], masked: bool) -> None:
    over_chunks(
        settings, lambda chunk: masked_scores(here, settings, chunk, masked)[0],
        lambda chunk, z: add(here, chunk, z),
    )  # fmt: skip
