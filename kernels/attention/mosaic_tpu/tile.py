"""What every kernel does with one block of scores: products, mask, weights, and the gradient of the scores.

Scores stand on end, keys by queries: sums over keys then run over sublanes, and all that belongs to a query (its
highest score, its sums, its statistics) is a single row of lanes. So queries, values and outputs lie in memory with
tokens last, [D, N], keys as usual, [N, D], and no product needs a transpose of anything large.

A block is worked on in chunks of queries, and the scores of the next chunk are asked for before the last ones are used:
the compiler then fills the time of the matrix unit with the arithmetic of the softmax.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

from kernels.attention.dropout import survives
from kernels.attention.mask import HIDDEN
from kernels.attention.mosaic_tpu import hiding
from kernels.attention.mosaic_tpu.hiding import LANES
from kernels.attention.mosaic_tpu.launch import Launch, Named
from kernels.attention.mosaic_tpu.steps import FIRST, VISITED, WHOLE, Grid, Words

LOG2E, LN2 = math.log2(math.e), math.log(2)


class Sizes(NamedTuple):
    """Of blocks and chunks, in tokens.

    Attributes:
      rows, columns: queries and keys of a block.
      row_chunk: queries worked on at once.
      column_chunk: keys worked on at once, after the highest score of all is known.
    """

    rows: int
    columns: int
    row_chunk: int
    column_chunk: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is static in a kernel.

    Attributes:
      heads: H.
      scale: of the products; None where it is an array.
      folded: whether scores are kept without the scale, which exp2() multiplies by anyway. In these units they are z.
      statistics: to be returned, by the names of the contract and of forward.py.
      columns: of ``received_weights``.
      spare: rows below queries that hide keys from them, see hiding.py.
      interpret: as ``pallas_call`` takes it.
    """

    grid: Grid
    sizes: Sizes
    heads: int
    scale: float | None
    folded: bool
    softcap: float | None
    rate: float
    statistics: tuple[str, ...]
    columns: int
    precision: Any
    spare: int
    interpret: Any

    @property
    def unit(self) -> float:
        """What z is multiplied by to give scores."""
        return self.scale if self.folded else 1.0

    @property
    def groups(self) -> int:
        return len(self.grid.key_ranges)

    def row_chunks(self) -> list[pl.Slice]:
        return [pl.ds(at, self.sizes.row_chunk) for at in range(0, self.sizes.rows, self.sizes.row_chunk)]

    def column_chunks(self) -> list[slice]:
        size = self.sizes.column_chunk
        return [slice(at, at + size) for at in range(0, self.sizes.columns, size)]


class Arrays(NamedTuple):
    """The arrays of a call as kernels take them; * marks what may be None.

    Attributes:
      query: [B, H, D, Nq].
      key: [B, Hkv, Nk, D].
      value: [B, Hkv, Dv, Nk].
      scale: * [1], where it is an array.
      bias: * [#B, #H, #Nk, #Nq].
      seeds: * of dropout, uint32 [B, H].
      words: see steps.py.
    """

    query: Any
    key: Any
    value: Any
    scale: Any
    bias: Any
    seeds: Any
    words: Words


def add_inputs(launch: Launch, settings: Settings, arrays: Arrays) -> None:
    """Puts the arrays of a call into a launch."""
    rows, columns = settings.sizes.rows, settings.sizes.columns
    width, value_width = arrays.query.shape[2], arrays.value.shape[2]
    launch.input("query", arrays.query, (1, 1, width, rows), lambda at: (at.sample, at.head, 0, at.row))
    launch.input("key", arrays.key, (1, 1, columns, width), lambda at: (at.sample, at.shared, at.column, 0))
    launch.input("value", arrays.value, (1, 1, value_width, columns), lambda at: (at.sample, at.shared, 0, at.column))
    if arrays.bias is not None:
        launch.input("bias", arrays.bias, bias_block(settings, arrays), lambda at: bias_index(arrays, at))
    for name, array, size, axis in (
        ("query_words", arrays.words.queries, rows, "row"),
        ("key_words", arrays.words.keys, columns, "column"),
        ("query_segments", arrays.words.query_segments, rows, "row"),
        ("key_segments", arrays.words.key_segments, columns, "column"),
    ):
        if array is not None:
            several = array.shape[0] > 1
            launch.input(
                name, array, (1, 1, size),
                lambda at, several=several, axis=axis: (at.sample if several else 0, 0, at[axis]),
            )  # fmt: skip
    hiding.add_inputs(launch, settings.grid, arrays.words, width, settings.spare, arrays.key.dtype)
    if arrays.scale is not None:
        launch.scalars["scale"] = arrays.scale
    if arrays.seeds is not None:
        launch.scalars["seeds"] = jax.lax.bitcast_convert_type(arrays.seeds.astype(jnp.uint32), jnp.int32).reshape(-1)


def run(
    launch: Launch, name: str, kernel: Callable[[Named], None], settings: Settings, *, over_queries: bool
) -> dict[str, Array]:
    """Launches a kernel whose arrays are all there; its outputs by name.

    Args:
      over_queries: whether it sums over queries. Where it does not, none is touched by what another one is.
    """
    hiding.add_scratch(launch, hiding.OF_KEYS + (hiding.OF_QUERIES if over_queries else ()))
    return launch.run(name, kernel, settings.interpret)


def bias_block(settings: Settings, arrays: Arrays) -> tuple[int, ...]:
    """Of the bias, which stands on end like the scores."""
    shape = arrays.bias.shape
    return (1, 1, settings.sizes.columns if shape[2] > 1 else 1, settings.sizes.rows if shape[3] > 1 else 1)


def bias_index(arrays: Arrays, at: Named) -> tuple:
    """Which block of the bias belongs to a step."""
    whole = zip((at.sample, at.head, at.column, at.row), arrays.bias.shape, strict=True)
    return tuple(number if extent > 1 else 0 for number, extent in whole)


def clear(here: Named, *names: str) -> None:
    """Scratch memory is 0 where a block begins to be added to."""

    @pl.when((here.at.flags & FIRST) != 0)
    def _() -> None:
        for name in names:
            here[name][...] = jnp.zeros(here[name].shape, here[name].dtype)


def dot(left: Array, right: Array, contract: tuple[int, int], settings: Settings) -> Array:
    """A product over one axis of either side, added up in float32."""
    return jax.lax.dot_general(
        left, right, (((contract[0],), (contract[1],)), ((), ())),
        precision=settings.precision, preferred_element_type=jnp.float32,
    )  # fmt: skip


def scores(here: Named, settings: Settings, chunk: pl.Slice, masked: bool) -> tuple[Array, Array | None]:
    """z [keys, chunk], unmasked, and the derivative of the softcap, None without one."""
    query = here.query[0, 0, :, chunk]
    if masked and settings.spare:
        query = jnp.concatenate([query, here.spare_rows[0, :, chunk]], 0)
    z, slope = dot(here.key[0, 0, :, : query.shape[0]], query, (1, 0), settings), None
    if not settings.folded:
        z = z * (here.scale[0] if settings.scale is None else settings.scale)
    if settings.softcap is not None:
        bent = jnp.tanh(z / settings.softcap)
        z, slope = settings.softcap * bent, 1 - bent * bent
    if "bias" in here:
        part = here.bias[0, 0, :, chunk] if here.bias.shape[3] > 1 else here.bias[0, 0]
        z = z + part.astype(jnp.float32)
    return z, slope


def visible(here: Named, settings: Settings, chunk: pl.Slice) -> Array | None:
    """Which keys each query of a chunk sees, bool [keys, chunk], as far as its spare rows do not say so."""
    conditions = []
    if not settings.spare:
        words = wide(here.upright_key_words, chunk.size)
        if settings.grid.split:
            words = words & (1 << here.at.group)
        conditions.append((words & here.query_words[0, :, chunk]) != 0)
    left, right = settings.grid.band
    distance = key_tokens(here, settings) - query_tokens(here, settings, chunk)
    if left is not None:
        conditions.append(distance >= -left)
    if right is not None:
        conditions.append(distance <= right)
    if "query_segments" in here:
        conditions.append(wide(here.upright_key_segments, chunk.size) == here.query_segments[0, :, chunk])
    return functools.reduce(jnp.logical_and, conditions) if conditions else None


def standing(row: Array) -> Array:
    """[1, n] to [n, LANES], the same in every lane: spreading one lane over the others anew costs more each time."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T


def wide(upright: Array, size: int) -> Array:
    """[n, LANES] from ``standing`` to [n, size]."""
    return jnp.concatenate([upright] * -(-size // LANES), 1)[:, :size]


def key_tokens(here: Named, settings: Settings) -> Array:
    """Token numbers of a block's keys, int32 [keys, 1]."""
    size = settings.sizes.columns
    return here.at.column * size + jax.lax.broadcasted_iota(jnp.int32, (size, 1), 0)


def query_tokens(here: Named, settings: Settings, chunk: pl.Slice) -> Array:
    """Token numbers of a chunk's queries, int32 [1, chunk]."""
    return here.at.row * settings.sizes.rows + chunk.start + jax.lax.broadcasted_iota(jnp.int32, (1, chunk.size), 1)


def keep(here: Named, settings: Settings, chunk: pl.Slice, columns: slice) -> Array:
    """Which weights of some keys survive dropout, bool [keys, chunk]."""
    seed = here.seeds[here.at.sample * settings.heads + here.at.head].astype(jnp.uint32)
    tokens = key_tokens(here, settings)[columns]
    return survives(
        settings.rate, seed, query_tokens(here, settings, chunk).astype(jnp.uint32), tokens.astype(jnp.uint32)
    )


def members(here: Named, settings: Settings, columns: slice) -> Iterator[tuple[int, Array]]:
    """Every group, and which of some keys belong to it, bool [keys, 1]."""
    tokens = key_tokens(here, settings)[columns]
    for group, (begin, end) in enumerate(settings.grid.key_ranges):
        yield group, (tokens >= begin) & (tokens < end)


def when_visited(
    here: Named, settings: Settings, body: Callable[[Named, bool], None], *, keys_stay: bool = False
) -> None:
    """Runs ``body(here, masked)`` where the step is visited: without masks where nothing of the block is hidden.

    Args:
      keys_stay: from FIRST to LAST. They are cleaned at FIRST then, and otherwise by every masked step.
    """
    flags = here.at.flags
    whole = VISITED | WHOLE
    if keys_stay:
        pl.when((flags & FIRST) != 0)(lambda: hiding.clean(here, hiding.OF_KEYS))
    pl.when((flags & whole) == whole)(lambda: body(here, False))

    @pl.when((flags & whole) == VISITED)
    def _() -> None:
        # Cleaned and turned once for all chunks.
        hiding.clean(here, hiding.OF_QUERIES if keys_stay else hiding.OF_KEYS + hiding.OF_QUERIES)
        names = ("key_segments",) if settings.spare else ("key_words", "key_segments")
        upright = {f"upright_{name}": standing(here[name][0]) for name in names if name in here}
        body(Named(hiding.cleaned(here) | upright), True)


def over_chunks(settings: Settings, first: Callable[[pl.Slice], Any], second: Callable[[pl.Slice, Any], None]) -> None:
    """``second(chunk, first(chunk))`` for every chunk of queries, with ``first`` one chunk ahead."""
    waiting = None
    for chunk in settings.row_chunks():
        made = first(chunk)
        if waiting is not None:
            second(*waiting)
        waiting = (chunk, made)
    second(*waiting)


class Rows(NamedTuple):
    """Names of rows of one array: where each begins, and how many it has."""

    starts: dict[str, int]
    counts: dict[str, int]

    @classmethod
    def of(cls, counts: dict[str, int]) -> Rows:
        starts, total = {}, 0
        for name, count in counts.items():
            starts[name] = total
            total += count
        return cls(starts, counts)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def __contains__(self, name: object) -> bool:
        return name in self.starts

    def slice(self, name: str) -> slice:
        return slice(self.starts[name], self.starts[name] + self.counts[name])


def masked_scores(here: Named, settings: Settings, chunk: pl.Slice, masked: bool) -> tuple[Array, Array | None]:
    """z, far below any score where nothing is seen, and the derivative of the softcap."""
    z, slope = scores(here, settings, chunk, masked)
    seen = visible(here, settings, chunk) if masked else None
    return z if seen is None else jnp.where(seen, z, HIDDEN), slope


def made_weights(here: Named, settings: Settings, rows: Rows, chunk: pl.Slice, z: Array) -> tuple[Array, Array]:
    """P [keys, chunk], made again from z and the rows ``highest`` and ``inverse``, and log2(P / inverse)."""
    shifted = (z - term(here, rows, "highest", chunk)) * (settings.unit * LOG2E)
    return jnp.exp2(shifted) * term(here, rows, "inverse", chunk), shifted


def term(here: Named, rows: Rows, name: str, chunk: pl.Slice, offset: Any = 0) -> Array:
    """A row [1, chunk] of ``terms``."""
    return here.terms[0, 0, pl.ds(rows.starts[name] + offset, 1), chunk]
