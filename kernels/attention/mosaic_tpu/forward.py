"""The forward kernel: output and all statistics of rows in one pass over the blocks of keys.

The sums over keys so far are relative to the highest score so far, m; with a = exp(m - m') where it rises to m',
e = exp(S - m') and d = m - m':

    l   <- a l + sum e                       M_g <- a M_g + sum over g of e
    T   <- a (T + d l) + sum e (S - m')      T_g <- a (T_g + d M_g) + sum over g of e (S - m')
    r   <- a^2 r + sum e^2                   O   <- a O + V e

and at the end lse = m + log l, mass = M_g / l, entropy = log l - T / l, entropy within a group = log M_g - T_g / M_g,
second moment = r / l^2, peak = 1 / l. Exponentials are powers of two here, and T is in units of log 2.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from kernels.attention.block import LOWEST
from kernels.attention.mask import HIDDEN
from kernels.attention.mosaic_tpu.launch import Launch, Named
from kernels.attention.mosaic_tpu.steps import FIRST, LAST, by_rows
from kernels.attention.mosaic_tpu.tile import (
    LN2,
    LOG2E,
    Arrays,
    Rows,
    Settings,
    add_inputs,
    dot,
    keep,
    key_tokens,
    masked_scores,
    members,
    over_chunks,
    run,
    when_visited,
)

# Statistics with a number a row, or one a row and group; in the order in which they are rows of one array. ``highest``
# (of z) and ``inverse`` (1 / sum exp) are what the backward pass makes weights from, ``peak_at`` is a token's number.
OF_ROWS = ("highest", "inverse", "lse", "entropy", "second_moment", "peak", "peak_at")
OF_GROUPS = ("mass", "group_entropy")


def forward(settings: Settings, arrays: Arrays) -> tuple[Array, dict[str, Array]]:
    """Output [B, H, Dv, Nq], and the statistics of ``settings`` that belong to rows.

    Returns:
      output, {name: [B, H, Nq] float32, or [B, H, Nq, G] of OF_GROUPS, or [B, H, G, Dv, Nq] for group_output}.
    """
    grid, sizes, wanted = settings.grid, settings.sizes, settings.statistics
    batch, heads, _, queries = arrays.query.shape
    shared, width = arrays.key.shape[1], arrays.value.shape[2]
    by_group = not {"mass", "group_entropy"}.isdisjoint(wanted) and settings.groups > 1
    launch = Launch(by_rows(grid, arrays.words, batch, heads, shared, mixed_is_whole=not by_group))
    add_inputs(launch, settings, arrays)

    rows = Rows.of(
        {name: settings.groups if name in OF_GROUPS else 1 for name in (*OF_ROWS, *OF_GROUPS) if name in wanted}
    )
    launch.output(
        "output", (batch, heads, width, queries), arrays.value.dtype, (1, 1, width, sizes.rows),
        lambda at: (at.sample, at.head, 0, at.row),
    )  # fmt: skip
    if rows.total:
        launch.output(
            "rows", (batch, heads, rows.total, queries), jnp.float32, (1, 1, rows.total, sizes.rows),
            lambda at: (at.sample, at.head, 0, at.row),
        )  # fmt: skip
    parts = "group_output" in wanted
    if parts:
        launch.output(
            "parts", (batch, heads, settings.groups, width, queries), jnp.float32,
            (1, 1, settings.groups, width, sizes.rows), lambda at: (at.sample, at.head, 0, 0, at.row),
        )  # fmt: skip
    sums = _sums(settings)
    launch.scratch |= {
        "highest": ((1, sizes.rows), jnp.float32),
        "sums": ((sums.total, sizes.rows), jnp.float32),
        "total": ((settings.groups if parts else 1, width, sizes.rows), jnp.float32),
    }
    if "peak_at" in wanted:
        launch.scratch["peak_at"] = ((1, sizes.rows), jnp.float32)
    kernel = functools.partial(_kernel, settings, sums, rows)
    results = run(launch, "attention_forward", kernel, settings, over_queries=False)
    found = {}
    for name in rows.starts:
        part = results["rows"][:, :, rows.slice(name)]
        found[name] = jnp.swapaxes(part, 2, 3) if name in OF_GROUPS else part[:, :, 0]
    if parts:
        found["group_output"] = results["parts"]
    return results["output"], found


def _sums(settings: Settings) -> Rows:
    """What is added up of every row: l, M_g, T or T_g, r."""
    wanted, groups = settings.statistics, settings.groups
    counts = {"total": 1}
    if {"mass", "group_entropy"} & set(wanted):
        counts["masses"] = groups
    if "group_entropy" in wanted:
        counts["shifts"] = groups
    elif "entropy" in wanted:
        counts["shift"] = 1
    if "second_moment" in wanted:
        counts["squares"] = 1
    return Rows.of(counts)


def _kernel(settings: Settings, sums: Rows, rows: Rows, here: Named) -> None:
    @pl.when((here.at.flags & FIRST) != 0)
    def _() -> None:
        here.highest[...] = jnp.full(here.highest.shape, HIDDEN, jnp.float32)
        here.sums[...] = jnp.zeros(here.sums.shape, jnp.float32)
        here.total[...] = jnp.zeros(here.total.shape, jnp.float32)
        if "peak_at" in here:
            here.peak_at[...] = jnp.zeros(here.peak_at.shape, jnp.float32)

    def visit(here: Named, masked: bool) -> None:
        over_chunks(
            settings,
            lambda chunk: masked_scores(here, settings, chunk, masked)[0],
            lambda chunk, z: _add(here, settings, sums, chunk, z, masked),
        )

    when_visited(here, settings, visit)

    @pl.when((here.at.flags & LAST) != 0)
    def _() -> None:
        _finish(here, settings, sums, rows)


def _add(here: Named, settings: Settings, sums: Rows, chunk: pl.Slice, z: Array, masked: bool) -> None:
    """Adds the keys of a block to the sums of a chunk of queries."""
    power = settings.unit * LOG2E
    before = here.highest[:, chunk]
    highest = jnp.maximum(before, z.max(0, keepdims=True))
    # From a row that has seen nothing yet it is beyond every bound, and times a sum no number any more.
    fall = jnp.maximum((before - highest) * power, LOWEST)
    shrink = jnp.exp2(fall)
    here.highest[:, chunk] = highest
    if "peak_at" in here:
        tokens = key_tokens(here, settings).astype(jnp.float32)
        at = jnp.where(z == highest, tokens, jnp.inf).min(0, keepdims=True)
        here.peak_at[:, chunk] = jnp.where(highest > before, at, here.peak_at[:, chunk])

    added: dict[str, Any] = dict.fromkeys(sums.starts, 0.0)
    product: Any = 0.0
    for columns in settings.column_chunks():
        shifted = (z[columns] - highest) * power
        weights = jnp.exp2(shifted)
        terms = {"total": weights, "masses": weights}
        if "shift" in sums or "shifts" in sums:
            terms["shift"] = terms["shifts"] = weights * shifted
        if "squares" in sums:
            terms["squares"] = weights * weights
        for name in sums.starts:
            added[name] += _summed(here, settings, sums.counts[name], terms[name], columns, masked)
        kept = weights
        if settings.rate:
            kept = jnp.where(keep(here, settings, chunk, columns), weights, 0)
        value = here.value[0, 0, :, columns]
        product += dot(value, kept.astype(value.dtype), (1, 0), settings)

    old = {name: here.sums[sums.slice(name), chunk] for name in sums.starts}
    if not masked:
        for name in sums.starts:
            if sums.counts[name] > 1:
                # All keys of the block are of one group.
                group = jax.lax.broadcasted_iota(jnp.int32, (sums.counts[name], 1), 0)
                added[name] = jnp.where(group == here.at.group, added[name], 0)
    for shift, total in (("shift", "total"), ("shifts", "masses")):
        if shift in sums:
            old[shift] = old[shift] + fall * old[total]
    for name in sums.starts:
        factor = shrink * shrink if name == "squares" else shrink
        here.sums[sums.slice(name), chunk] = factor * old[name] + added[name]
    if "parts" in here:
        for group in range(settings.groups):
            here.total[group, :, chunk] = shrink * here.total[group, :, chunk]
        here.total[here.at.group, :, chunk] = here.total[here.at.group, :, chunk] + product
    else:
        here.total[0, :, chunk] = shrink * here.total[0, :, chunk] + product


def _summed(here: Named, settings: Settings, count: int, terms: Array, columns: slice, masked: bool) -> Array:
    """Sums over keys, [1, chunk], or one for each group [G, chunk] where the block may have keys of several."""
    if count == 1 or not masked:
        return terms.sum(0, keepdims=True)
    parts = [jnp.where(member, terms, 0).sum(0, keepdims=True) for _, member in members(here, settings, columns)]
    return jnp.concatenate(parts, 0)


def _finish(here: Named, settings: Settings, sums: Rows, rows: Rows) -> None:
    """Writes what comes of the sums of a block of queries."""
    highest = here.highest[...]
    # What was made of a hidden query may be anything.
    alive = (highest > HIDDEN / 2) & (here.query_words[0] != 0)
    total = jnp.where(alive, here.sums[sums.slice("total"), :], 1)
    inverse = jnp.where(alive, 1 / total, 0)
    share = inverse / (1 - settings.rate)
    if "parts" in here:
        here.parts[0, 0] = jnp.where(alive, here.total[...] * share, 0)
    output = here.total[...].sum(0) * share
    here.output[0, 0] = jnp.where(alive, output, 0).astype(here.output.dtype)

    def of(name: str) -> Array:
        return here.sums[sums.slice(name), :]

    for name in rows.starts:
        if name == "highest":
            # In a row that sees nothing every exponential is to be 0, and none may overflow.
            row = jnp.where(alive, highest, -HIDDEN)
        elif name == "inverse" or name == "peak":
            row = inverse
        elif name == "lse":
            row = jnp.where(alive, settings.unit * highest + jnp.log(total), -jnp.inf)
        elif name == "entropy":
            shift = of("shift") if "shift" in sums else of("shifts").sum(0, keepdims=True)
            row = jnp.where(alive, jnp.log(total) - LN2 * shift * inverse, 0)
        elif name == "second_moment":
            row = jnp.where(alive, of("squares") * inverse * inverse, 0)
        elif name == "peak_at":
            row = jnp.where(alive, here.peak_at[...], 0)
        elif name == "mass":
            row = jnp.where(alive, of("masses") * inverse, 0)
        else:
            some = alive & (of("masses") > 0)
            mass = jnp.where(some, of("masses"), 1)
            row = jnp.where(some, jnp.log(mass) - LN2 * of("shifts") / mass, 0)
        here.rows[0, 0, rows.slice(name), :] = row
