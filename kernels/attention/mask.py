"""Who attends to whom: modality groups, visibility between them, and what is missing in a sample.

Half of a mask is static (groups, who sees whom, causality, window) and half dynamic (validity, presence,
segments). The static half becomes a few (query range, key ranges) pairs before anything is traced, and every
implementation loops over the pairs: what is never seen costs nothing. The dynamic half becomes, pair by pair,
one additive term over keys and one multiplier over rows, since a ``where`` on the scores would break XLA's
fusion of softmax with its two products on CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Added to the score of a hidden key. Finite, so that a row that sees nothing stays free of NaN; far below any score,
# so that float32 rounds score + HIDDEN to HIDDEN and exp() of it to exactly 0.
HIDDEN = -1e30

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Modality groups in token order. Static and hashable.

    ``Layout(("audio", "video"), (512, 196))``, or the same as ``Layout.of(audio=512, video=196)``.
    """

    names: tuple[str, ...]
    lengths: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "lengths", tuple(int(length) for length in self.lengths))
        if len(self.names) != len(self.lengths) or not self.names:
            raise ValueError(
                f"Layout: {len(self.names)} names {self.names} for {len(self.lengths)} lengths {self.lengths}: "
                "give each length one name."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"Layout: group names must differ, got {self.names}.")
        if min(self.lengths) < 0:
            raise ValueError(f"Layout: lengths must be 0 or more tokens, got {self.lengths} for {self.names}.")

    @classmethod
    def of(cls, **lengths: int) -> Layout:
        """Groups as keywords, in token order."""
        return cls(tuple(lengths), tuple(lengths.values()))

    @property
    def length(self) -> int:
        """Number of tokens of all groups."""
        return sum(self.lengths)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """First token and end of each group."""
        ends = tuple(itertools.accumulate(self.lengths))
        return tuple((end - length, end) for end, length in zip(ends, self.lengths, strict=True))

    @classmethod
    def joined(cls, layouts: Sequence[Layout]) -> Layout:
        """One layout after the other."""
        names, lengths = zip(*((of.names, of.lengths) for of in layouts), strict=True)
        return cls(tuple(itertools.chain(*names)), tuple(itertools.chain(*lengths)))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["query_valid", "key_valid", "presence", "segments"],
    meta_fields=["queries", "keys", "sees", "causal", "window"],
)
@dataclasses.dataclass(frozen=True)
class Mask:
    """Who attends to whom. A pytree: the first five fields are static, the rest arrays.

    A query that sees no key at all is an empty row: output 0, lse -inf, every other statistic 0, gradients 0.
    What lies in hidden tokens must be finite.

    Attributes:
      queries, keys: the groups of queries and of keys.
      sees: pairs (query group, key group) by name that may attend; None is everyone to everyone.
      causal: query token i sees key tokens j <= i only. Positions count from 0 over the whole layout.
      window: (left, right): query token i sees i - left <= j <= i + right; None on a side is unbounded, one number
        stands for both sides.
      query_valid: bool [B, Nq]; False is an empty row.
      key_valid: bool [B, Nk]; False hides the key.
      presence: bool [B, G], G the groups of ``keys``; False hides the keys of the group in that sample, and makes
        empty rows of the queries of the group of the same name, where there is one.
      segments: (int [B, Nq], int [B, Nk]): a query sees keys of its own segment number only (packed sequences).
    """

    queries: Layout
    keys: Layout
    sees: Collection[tuple[str, str]] | None = None
    causal: bool = False
    window: Any = None
    # Any: JAX rebuilds pytrees with placeholders, shape structures or partition specs in place of the arrays.
    query_valid: Any = None
    key_valid: Any = None
    presence: Any = None
    segments: Any = None

    def __post_init__(self):
        if self.sees is not None:
            pairs = {(str(query), str(key)) for query, key in self.sees}
            for query, key in sorted(pairs):
                if query not in self.queries.names or key not in self.keys.names:
                    raise ValueError(
                        f"Mask.sees: no pair ({query!r}, {key!r}): query groups are {self.queries.names}, "
                        f"key groups are {self.keys.names}."
                    )
            object.__setattr__(self, "sees", tuple(sorted(pairs)))  # one form, so that equal masks hash equally
        if self.window is not None:
            window = (self.window, self.window) if isinstance(self.window, int) else tuple(self.window)
            if len(window) != 2 or any(side is not None and side < 0 for side in window):
                raise ValueError(f"Mask.window: needs (left, right), each 0 or more tokens or None, got {self.window}.")
            object.__setattr__(self, "window", window)

    def replace(self, **changes: Any) -> Mask:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def divided(self, parts: Mapping[str, Layout]) -> Mask:
        """The same sight of the same tokens, with some groups in parts, which statistics then tell apart.

        Args:
          parts: group -> its parts, in token order; a group of another length stays whole.

        Raises:
          ValueError: where a part has the name of another group.
        """
        queries, keys = _in_parts(self.queries, parts), _in_parts(self.keys, parts)
        sees, presence, query_valid = self.sees, self.presence, self.query_valid
        if sees is not None:
            asking, asked = (
                dict(zip(of.names, into, strict=True)) for of, into in ((self.queries, queries), (self.keys, keys))
            )
            sees = [pair for query, key in sees for pair in itertools.product(asking[query].names, asked[key].names)]
        if presence is not None:
            # Of queries it goes by names, and parts of them need not be parts of keys.
            there = [
                presence[:, self.keys.names.index(name)]
                if name in self.keys.names
                else jnp.ones(presence.shape[0], bool)
                for name in self.queries.names
            ]
            rows = jnp.repeat(jnp.stack(there, axis=1), np.array(self.queries.lengths), axis=1)
            query_valid = rows if query_valid is None else query_valid & rows
            presence = jnp.repeat(presence, np.array([len(into.names) for into in keys]), axis=1)
        return self.replace(
            queries=Layout.joined(queries), keys=Layout.joined(keys), sees=sees, presence=presence,
            query_valid=query_valid,
        )  # fmt: skip

    @property
    def band(self) -> tuple[int | None, int | None]:
        """(left, right) of window and causality together."""
        left, right = self.window or (None, None)
        if self.causal:
            right = 0 if right is None else min(right, 0)
        return left, right

    def check(self, batch: int, queries: int, keys: int) -> None:
        """Raises ValueError where the mask does not fit arrays of these sizes."""
        for name, layout, length in (("queries", self.queries, queries), ("keys", self.keys, keys)):
            if layout.length != length:
                raise ValueError(
                    f"Mask.{name}: groups {layout.names} with lengths {layout.lengths} make {layout.length} tokens, "
                    f"but the arrays have {length}: make the layout fit."
                )
        groups = len(self.keys.names)
        expected = {"query_valid": (batch, queries), "key_valid": (batch, keys), "presence": (batch, groups)}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and (tuple(array.shape) != shape or array.dtype != jnp.bool_):
                raise ValueError(f"Mask.{name}: needs bool {list(shape)}, got {array.dtype} {list(array.shape)}.")
        if self.segments is not None:
            if not isinstance(self.segments, tuple) or len(self.segments) != 2:
                raise ValueError(
                    "Mask.segments: needs a tuple (segments of queries [B, Nq], segments of keys [B, Nk])."
                )
            for name, array, shape in zip(
                ("queries", "keys"), self.segments, ((batch, queries), (batch, keys)), strict=True
            ):
                if tuple(array.shape) != shape or not jnp.issubdtype(array.dtype, jnp.integer):
                    raise ValueError(
                        f"Mask.segments of {name}: needs integers {list(shape)}, got {array.dtype} {list(array.shape)}."
                    )


def _in_parts(layout: Layout, parts: Mapping[str, Layout]) -> list[Layout]:
    """What each group becomes under ``Mask.divided``."""
    found = []
    for name, length in zip(layout.names, layout.lengths, strict=True):
        alone = Layout((name,), (length,))
        own = parts.get(name, alone)
        found.append(own if own.length == length else alone)
    return found


def everything(queries: int, keys: int) -> Mask:
    """The mask that hides nothing: one group of queries, one of keys."""
    return Mask(Layout.of(tokens=queries), Layout.of(tokens=keys))


@dataclasses.dataclass(frozen=True)
class Pair:
    """A range of queries and the ranges of keys that all of it may see. Static.

    Columns are the keys of the ranges, one range after the other.

    Attributes:
      queries: first query and end.
      keys: ranges of keys, ascending, neither overlapping nor adjacent.
      groups: for every key group of the layout, its first column and end; (0, 0) where it is not seen.
      band: (left, right) where position still hides some of the pair, else None.
      gaps: True where position alone leaves some query of the range without any key.
    """

    queries: Range
    keys: tuple[Range, ...]
    groups: tuple[Range, ...]
    band: tuple[int | None, int | None] | None
    gaps: bool

    @property
    def columns(self) -> np.ndarray:
        """Key token of every column."""
        return np.concatenate([np.arange(*keys) for keys in self.keys])

    @property
    def scores(self) -> int:
        """Number of scores of one sample and head."""
        return (self.queries[1] - self.queries[0]) * len(self.columns)

    def take_queries(self, array: Array, axis: int) -> Array:
        """The rows of the pair."""
        return jax.lax.slice_in_dim(array, *self.queries, axis=axis)

    def take_keys(self, array: Array, axis: int) -> Array:
        """The columns of the pair: a slice, or a concatenation where there are several ranges."""
        parts = [jax.lax.slice_in_dim(array, *keys, axis=axis) for keys in self.keys]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)


def pairs(mask: Mask) -> tuple[Pair, ...]:
    """The static half of a mask as pairs; query ranges ascend, and queries in no pair see nothing."""
    return _pairs(mask.queries, mask.keys, mask.sees, mask.band)


@functools.lru_cache(maxsize=1024)
def _pairs(queries: Layout, keys: Layout, sees, band) -> tuple[Pair, ...]:
    left, right = band
    seen = [
        tuple(k for k, key in enumerate(keys.names) if sees is None or (query, key) in sees) for query in queries.names
    ]
    result = []
    for groups, members in itertools.groupby(range(len(seen)), key=seen.__getitem__):
        members = list(members)
        begin, end = queries.ranges[members[0]][0], queries.ranges[members[-1]][1]
        # Keys outside [low, high) are out of every query's window.
        low = 0 if left is None else max(0, begin - left)
        high = keys.length if right is None else min(keys.length, end + right)
        ranges: list[Range] = []
        columns, count = [(0, 0)] * len(keys.names), 0
        for group in groups:
            first, last = max(keys.ranges[group][0], low), min(keys.ranges[group][1], high)
            if first >= last:
                continue
            columns[group] = (count, count + last - first)
            count += last - first
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((first, last))
        if begin == end or not ranges:
            continue
        hides = (left is not None and end - 1 - left > ranges[0][0]) or (
            right is not None and begin + right < ranges[-1][1] - 1
        )
        gaps = hides and _gaps(begin, end, ranges, left, right)
        result.append(Pair((begin, end), tuple(ranges), tuple(columns), band if hides else None, gaps))
    return tuple(result)


def _gaps(begin: int, end: int, ranges: list[Range], left: int | None, right: int | None) -> bool:
    query = np.arange(begin, end)
    seen = np.zeros(len(query), bool)
    for first, last in ranges:
        low = np.full_like(query, first) if left is None else np.maximum(query - left, first)
        high = np.full_like(query, last) if right is None else np.minimum(query + right + 1, last)
        seen |= low < high
    return not seen.all()


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "rows", "segments"], meta_fields=["pair"])
@dataclasses.dataclass(frozen=True)
class Sight:
    """What a mask shows of one pair, in memory of its tokens; ``visible`` makes the table of any of its rows.

    Attributes:
      pair: the static half.
      keys: columns that are there, [B, k] bool; None is all of them.
      rows: rows that ask at all, [B, q] bool; None is all of them.
      segments: numbers [B, q] of the rows and [B, k] of the columns that must agree.
    """

    pair: Pair
    keys: Any
    rows: Any
    segments: Any

    @classmethod
    def of(cls, mask: Mask, pair: Pair) -> Sight:
        keys, rows, segments = [], [], None
        if mask.key_valid is not None:
            keys.append(pair.take_keys(mask.key_valid, 1))
        if mask.query_valid is not None:
            rows.append(pair.take_queries(mask.query_valid, 1))
        if mask.presence is not None:
            of_queries, of_keys = presence_of_tokens(mask)
            keys.append(pair.take_keys(of_keys, 1))
            if of_queries is not None:
                rows.append(pair.take_queries(of_queries, 1))
        if mask.segments is not None:
            of_queries, of_keys = mask.segments
            segments = (pair.take_queries(of_queries, 1), pair.take_keys(of_keys, 1))
        return cls(pair, _all(keys), _all(rows), segments)

    def visible(self, tokens: Any) -> Bool[Array, "#B #q k"] | None:
        """Which columns each row sees, by position, validity, presence and segment; None is all of them.

        Args:
          tokens: [q] numbers of the query tokens; ``rows`` and ``segments`` must be theirs.
        """
        parts = []
        if self.pair.band is not None:
            left, right = self.pair.band
            distance = jnp.asarray(self.pair.columns)[None, :] - jnp.asarray(tokens)[:, None]
            if left is not None:
                parts.append((distance >= -left)[None])
            if right is not None:
                parts.append((distance <= right)[None])
        if self.keys is not None:
            parts.append(self.keys[:, None, :])
        if self.segments is not None:
            of_rows, of_columns = self.segments
            parts.append(of_rows[:, :, None] == of_columns[:, None, :])
        return _all(parts)

    def nonempty(self, seen: Bool[Array, "#B #q k"] | None) -> Bool[Array, "#B #q"] | None:
        """Which rows have anything to attend to, of those that ``seen`` is about; None is all of them."""
        parts = [] if self.rows is None else [self.rows]
        if seen is not None and (self.keys is not None or self.segments is not None or self.pair.gaps):
            parts.append(seen.any(-1))
        return _all(parts)


def presence_of_tokens(mask: Mask) -> tuple[Bool[Array, "B Nq"] | None, Bool[Array, "B Nk"]]:
    """Which queries and keys are of a group that is present; None where no query group can be absent."""
    of_keys = _of_tokens(mask.presence, mask.keys, range(len(mask.keys.names)))
    names, always = mask.keys.names, len(mask.keys.names)
    if not set(mask.queries.names) & set(names):
        return None, of_keys
    # Query groups without a namesake among the keys are always there: column G of the padded presence.
    groups = [names.index(name) if name in names else always for name in mask.queries.names]
    present = jnp.pad(mask.presence, ((0, 0), (0, 1)), constant_values=True)
    return _of_tokens(present, mask.queries, groups), of_keys


def _all(parts: list[Array]) -> Array | None:
    return functools.reduce(jnp.logical_and, parts) if parts else None


def additive(seen: Bool[Array, "B q k"] | None, dtype: Any) -> Float[Array, "B 1 q k"] | None:
    """The term added to the scores: 0 where a column is seen, HIDDEN where not."""
    return None if seen is None else jnp.where(seen, 0.0, HIDDEN).astype(dtype)[:, None]


def _of_tokens(presence: Bool[Array, "B G"], layout: Layout, groups) -> Bool[Array, "B N"]:
    return presence[:, np.repeat(np.asarray(list(groups)), layout.lengths)]
