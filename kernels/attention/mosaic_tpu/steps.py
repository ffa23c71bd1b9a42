"""Which blocks of scores are visited, and in what order: the tables that a kernel's grid follows.

Every token has a word: that of a key has the bit of its group, or none where the key is hidden; that of a query the
bits of all groups that it sees. A key is seen where the words share a bit. Half of a table is static: blocks in which
no words can meet, or that lie outside the window, are no steps of the grid at all. The other half is worked out on the
device, per sample: steps whose keys or queries are all hidden in that sample (an absent modality, padding) are passed
over, and do not even load their block; and a step in which everything is seen needs no mask.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kernels.attention.mask import Mask, Range, presence_of_tokens
from kernels.attention.mosaic_tpu.launch import Named, Walk

# Of a step: it is the first or the last of the block that it adds to; it is visited; nothing in it is hidden.
FIRST, LAST, VISITED, WHOLE = 1, 2, 4, 8
# The group of a step whose keys are of several groups.
MIXED = -1
# Bits of a word, sign left out; and a word that has them all.
MOST_GROUPS = 31
ALL_GROUPS = -1
# Tables lie in scalar memory. Where those of all samples would not fit, steps are passed over for all of them or none.
MOST_ENTRIES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Grid:
    """The static half: sizes of the blocks, and what of the mask is known while tracing.

    Attributes:
      words: of the query groups, in order; bits are numbers of key groups.
      rows, columns: tokens of a block of queries and of keys.
      split: a step for every group of keys in a block, so that no step is MIXED.
    """

    query_ranges: tuple[Range, ...]
    key_ranges: tuple[Range, ...]
    words: tuple[int, ...]
    band: tuple[int | None, int | None]
    rows: int
    columns: int
    split: bool = False

    @classmethod
    def of(cls, mask: Mask, rows: int, columns: int, *, split: bool = False) -> Grid:
        """The grid of a mask."""
        names = mask.keys.names
        sees = mask.sees if mask.sees is not None else [(q, k) for q in mask.queries.names for k in names]
        words = tuple(sum(1 << names.index(key) for query, key in sees if query == name) for name in mask.queries.names)
        return cls(mask.queries.ranges, mask.keys.ranges, words, mask.band, rows, columns, split)

    @property
    def queries(self) -> int:
        return self.query_ranges[-1][1]

    @property
    def keys(self) -> int:
        return self.key_ranges[-1][1]

    @property
    def row_blocks(self) -> int:
        return max(1, -(-self.queries // self.rows))

    @property
    def column_blocks(self) -> int:
        return max(1, -(-self.keys // self.columns))

    def query_words(self, past: int = 0) -> np.ndarray:
        """[row_blocks * rows], ``past`` where there is no query any more."""
        result = np.full(self.row_blocks * self.rows, past, np.int32)
        for (begin, end), word in zip(self.query_ranges, self.words, strict=True):
            result[begin:end] = word
        return result

    def key_words(self) -> np.ndarray:
        """[column_blocks * columns], 0 past the end."""
        result = np.zeros(self.column_blocks * self.columns, np.int32)
        for group, (begin, end) in enumerate(self.key_ranges):
            result[begin:end] = 1 << group
        return result

    @functools.cached_property
    def met(self) -> np.ndarray:
        """[row_blocks, column_blocks]: whether anything of a block may be seen, by groups and by position."""
        words = _any_bits(self.query_words(), self.rows)[:, None] & _any_bits(self.key_words(), self.columns)[None, :]
        nearest, farthest = self._distances()
        left, right = self.band
        met = words != 0
        if left is not None:
            met &= farthest >= -left
        if right is not None:
            met &= nearest <= right
        return met

    @functools.cached_property
    def banded(self) -> np.ndarray:
        """[row_blocks, column_blocks]: whether position hides something of the block."""
        nearest, farthest = self._distances()
        left, right = self.band
        hidden = np.zeros(nearest.shape, bool)
        if left is not None:
            hidden |= nearest < -left
        if right is not None:
            hidden |= farthest > right
        return hidden

    def _distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest key number less query number, over the tokens that exist."""
        row, column = np.arange(self.row_blocks) * self.rows, np.arange(self.column_blocks) * self.columns
        last_row = np.minimum(row + self.rows, max(1, self.queries)) - 1
        last_column = np.minimum(column + self.columns, max(1, self.keys)) - 1
        return column[None, :] - last_row[:, None], last_column[None, :] - row[:, None]

    def groups_of(self, column: int) -> list[int]:
        """Numbers of the groups that have keys in a block."""
        begin, end = column * self.columns, (column + 1) * self.columns
        return [g for g, (first, last) in enumerate(self.key_ranges) if first < min(last, end) and last > begin]

    def group_of(self, column: int) -> int:
        """The group of the keys of a block, or MIXED."""
        groups = self.groups_of(column)
        return groups[0] if len(groups) == 1 else MIXED

    @functools.cached_property
    def steps(self) -> np.ndarray:
        """[S, 5] of (row block, column block, group, first, last), a row block after the other.

        A row block that meets nothing has one step, which is never visited: its results must be written all the same.
        """
        result = []
        for row in range(self.row_blocks):
            blocks = [
                (column, group)
                for column in np.flatnonzero(self.met[row]).tolist()
                for group in self._parts(row, column)
            ]
            blocks = blocks or [(0, MIXED)]
            for number, (column, group) in enumerate(blocks):
                result.append((row, column, group, number == 0, number == len(blocks) - 1))
        return np.array(result, np.int32)

    def column_steps(self, heads: int) -> np.ndarray:
        """[S, 6] of (column block, row block, group, first, last, head), a column block after the other."""
        result = []
        for column in range(self.column_blocks):
            blocks = [
                (row, group, head)
                for head in range(heads)
                for row in np.flatnonzero(self.met[:, column]).tolist()
                for group in self._parts(row, column)
            ]
            blocks = blocks or [(0, MIXED, 0)]
            for number, (row, group, head) in enumerate(blocks):
                result.append((column, row, group, number == 0, number == len(blocks) - 1, head))
        return np.array(result, np.int32)

    def _parts(self, row: int, column: int) -> list[int]:
        if not self.split:
            return [self.group_of(column)]
        seen = int(np.bitwise_or.reduce(self.query_words()[row * self.rows : (row + 1) * self.rows]))
        return [group for group in self.groups_of(column) if seen >> group & 1]


def _any_bits(words: Any, size: int) -> Any:
    """Bits that any token of a block has: [..., n * size] to [..., n]."""
    blocks = words.reshape(*words.shape[:-1], -1, size)
    if isinstance(words, np.ndarray):
        return np.bitwise_or.reduce(blocks, -1)
    return jax.lax.reduce(blocks, jnp.int32(0), jax.lax.bitwise_or, (blocks.ndim - 1,))


def _all_bits(words: Any, size: int) -> Any:
    """Bits that every token of a block has."""
    return ~_any_bits(~words, size)


class Words(NamedTuple):
    """The words of all tokens, filled up to whole blocks, and the segments where there are any.

    Attributes:
      queries, keys: int32 [samples, 1, blocks * size]; one sample where the mask is static.
      query_segments, key_segments: likewise, or None.
    """

    queries: Any
    keys: Any
    query_segments: Any
    key_segments: Any

    @classmethod
    def of(cls, grid: Grid, mask: Mask, *, over_queries: bool) -> Words:
        """The words of a mask, dynamic half included.

        Args:
          over_queries: whether the kernel adds up over queries. Where it does not, what it makes of rows past the last
            query is never written, and these need no mask.
        """
        queries, keys = grid.query_words(0 if over_queries else ALL_GROUPS)[None], grid.key_words()[None]
        of_queries, of_keys = [], []
        if mask.query_valid is not None:
            of_queries.append(mask.query_valid)
        if mask.key_valid is not None:
            of_keys.append(mask.key_valid)
        if mask.presence is not None:
            rows, columns = presence_of_tokens(mask)
            of_keys.append(columns)
            of_queries += [] if rows is None else [rows]
        for there in of_queries:
            queries = jnp.where(_fill(there, queries.shape[1], not over_queries), queries, 0)
        for there in of_keys:
            keys = jnp.where(_fill(there, keys.shape[1]), keys, 0)
        segments = (None, None)
        if mask.segments is not None:
            segments = tuple(
                _fill(numbers.astype(jnp.int32), array.shape[1])[:, None]
                for numbers, array in zip(mask.segments, (queries, keys), strict=True)
            )
        return cls(queries[:, None], keys[:, None], *segments)


def _fill(array: Array, length: int, value: bool = False) -> Array:
    return jnp.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=value)


def by_rows(grid: Grid, words: Words, batch: int, heads: int, shared: int, *, mixed_is_whole: bool) -> Walk:
    """Sample, query head, step: a block of queries is kept while the blocks of keys that it meets pass by.

    Args:
      heads, shared: H and Hkv.
      mixed_is_whole: whether a step whose keys are of several groups may count as one that needs no mask.
    """
    row, column, group, first, last = grid.steps.T
    flags, passing = _flags(grid, words, row, column, group, first, last, column, mixed_is_whole)
    scalars = {"row": row, "group": group, "column": passing, "flags": flags}
    size, several = len(row), flags.shape[0] > len(row)

    def locate(numbers: tuple, at: dict[str, Any]) -> Named:
        sample, head, step = numbers
        place = sample * size + step if several else step
        return Named(
            sample=sample, head=head, shared=_over(head, heads // shared), row=at["row"][step],
            column=at["column"][place], group=at["group"][step], flags=at["flags"][place],
        )  # fmt: skip

    return Walk((batch, heads, size), 2, _scalars(scalars), locate)


def by_columns(
    grid: Grid, words: Words, batch: int, heads: int, shared: int, *, mixed_is_whole: bool, each_head: bool = False
) -> Walk:
    """Sample, key head, step: a block of keys is kept while the queries that it meets pass by, head after head.

    With ``each_head`` it is sample, query head, step, and a block of keys is kept for one query head at a time.
    """
    multiple = heads // shared
    within = 1 if each_head else multiple
    column, row, group, first, last, head = grid.column_steps(within).T
    flags, passing = _flags(grid, words, row, column, group, first, last, row, mixed_is_whole)
    scalars = {"column": column, "head": head, "group": group, "row": passing, "flags": flags}
    size, several = len(row), flags.shape[0] > len(row)

    def locate(numbers: tuple, at: dict[str, Any]) -> Named:
        sample, outer, step = numbers
        place = sample * size + step if several else step
        head = outer * within + at["head"][step]
        return Named(
            sample=sample, head=head, shared=_over(outer, multiple) if each_head else outer, row=at["row"][place],
            column=at["column"][step], group=at["group"][step], flags=at["flags"][place],
        )  # fmt: skip

    return Walk((batch, heads if each_head else shared, size), 2, _scalars(scalars), locate)


def by_blocks(
    grid: Grid, words: Words, batch: int, heads: int, shared: int, kept: tuple[bool, ...], *, mixed_is_whole: bool
) -> Walk:
    """Every block of scores; those over whose samples, heads, columns or rows is summed (not ``kept``) lie together."""
    extents = (batch, heads, grid.column_blocks, grid.row_blocks)
    order = sorted(range(4), key=lambda axis: not kept[axis])
    groups = len(grid.key_ranges) if grid.split else 1
    walked = (*(extents[axis] for axis in order), groups)
    row, column = (axis.reshape(-1) for axis in np.indices((grid.row_blocks, grid.column_blocks)))
    group = np.array([grid.group_of(number) for number in range(grid.column_blocks)])
    none = np.zeros(len(row), np.int32)
    flags, _ = _flags(grid, words, row, column, group[column], none, none, column, mixed_is_whole)
    if grid.split:
        flags = flags & ~WHOLE
    several = flags.shape[0] > len(row)
    summed = sum(kept)

    def locate(numbers: tuple, at: dict[str, Any]) -> Named:
        sample, head, column, row = (numbers[order.index(axis)] for axis in range(4))
        place = row * grid.column_blocks + column + (sample * (grid.row_blocks * grid.column_blocks) if several else 0)
        inner = list(zip(numbers[summed:], walked[summed:], strict=True))
        first = functools.reduce(jnp.logical_and, [number == 0 for number, _ in inner])
        last = functools.reduce(jnp.logical_and, [number == extent - 1 for number, extent in inner])
        flags, group = at["flags"][place], at["group"][column]
        if grid.split:
            # One step a group; those that the block has nothing of find nothing seen.
            group = numbers[4]
        return Named(
            sample=sample, head=head, shared=_over(head, heads // shared), row=row, column=column, group=group,
            flags=flags + jnp.asarray(first, jnp.int32) * FIRST + jnp.asarray(last, jnp.int32) * LAST,
        )  # fmt: skip

    return Walk(walked, summed, _scalars({"group": group, "flags": flags}), locate)


def _over(head: Any, multiple: int) -> Any:
    """Number of the key head; lax.div since ``//`` asks for the sign of what is never negative."""
    return head if multiple == 1 else jax.lax.div(head, jnp.int32(multiple))


def _scalars(tables: dict[str, Any]) -> dict[str, Array]:
    return {name: jnp.asarray(array, jnp.int32) for name, array in tables.items()}


def _flags(
    grid: Grid,
    words: Words,
    row: Any,
    column: Any,
    group: Any,
    first: Any,
    last: Any,
    passing: Any,
    mixed_is_whole: bool,
) -> tuple[Any, Any]:
    """Flags of every step, and the block that it loads: one row of each, or one a sample."""
    samples = max(1 if array is None else array.shape[0] for array in words)
    if samples * len(row) > MOST_ENTRIES:
        met, whole = _static(grid, words)
    else:
        met, whole = _dynamic(grid, words)
    met, whole = met[:, row, column] & grid.met[row, column], whole[:, row, column]
    if grid.split:
        whole = whole & ~_several(grid)[column]
    if not mixed_is_whole:
        whole = whole & (group != MIXED)
    flags = first * FIRST + last * LAST + met * VISITED + (whole & met) * WHOLE
    return flags.reshape(-1), _beside(met, passing).reshape(-1)


def _several(grid: Grid) -> np.ndarray:
    """[column_blocks]: whether a block has keys of several groups."""
    return np.array([len(grid.groups_of(column)) > 1 for column in range(grid.column_blocks)])


def _static(grid: Grid, words: Words) -> tuple[np.ndarray, np.ndarray]:
    """Which blocks may be met and which are whole, [1, row_blocks, column_blocks], for any sample."""
    bare = Words(grid.query_words()[None, None], grid.key_words()[None, None], None, None)
    met, whole = _dynamic(grid, bare)
    hidden = any(isinstance(array, jax.Array) for array in words)
    return met, whole & (not hidden)


def _dynamic(grid: Grid, words: Words) -> tuple[Any, Any]:
    """Which blocks are met and which are whole, [samples, row_blocks, column_blocks], by words and segments."""
    queries, keys = words.queries[:, 0], words.keys[:, 0]
    there = queries * (np.arange(queries.shape[1]) < grid.queries)
    any_query, all_queries = _any_bits(there, grid.rows), _all_bits(queries, grid.rows)
    any_key = _any_bits(keys, grid.columns)
    no_key_hidden = (keys != 0).reshape(keys.shape[0], -1, grid.columns).all(-1)
    met = (any_query[:, :, None] & any_key[:, None, :]) != 0
    whole = no_key_hidden[:, None, :] & ((any_key[:, None, :] & ~all_queries[:, :, None]) == 0) & ~grid.banded
    if words.query_segments is not None:
        lowest, highest = zip(
            *(
                (blocks.min(-1), blocks.max(-1))
                for blocks in (
                    words.query_segments[:, 0].reshape(words.query_segments.shape[0], -1, grid.rows),
                    words.key_segments[:, 0].reshape(words.key_segments.shape[0], -1, grid.columns),
                )
            ),
            strict=True,
        )
        met = met & (lowest[0][:, :, None] <= highest[1][:, None]) & (lowest[1][:, None] <= highest[0][:, :, None])
        one = (lowest[0] == highest[0])[:, :, None] & (lowest[1] == highest[1])[:, None]
        whole = whole & one & (lowest[0][:, :, None] == lowest[1][:, None])
    return met, whole


def _beside(visited: Any, passing: np.ndarray) -> Any:
    """The passing block of every step, or where it is not visited that of the last one before it that is."""
    if isinstance(visited, np.ndarray):
        return passing[np.maximum.accumulate(np.where(visited, np.arange(len(passing)), 0), 1)]
    steps = jnp.where(visited, jnp.arange(len(passing)), 0)
    return jnp.asarray(passing)[jax.lax.cummax(steps, axis=1)]
