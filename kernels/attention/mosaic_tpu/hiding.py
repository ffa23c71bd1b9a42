"""How a masked step hides keys from queries: by the matrix unit, wherever that has room.

A head 64 wide takes half of the rows of the matrix unit. Into the other half a masked step puts columns that say of
each key which group it is of, or that it is hidden, and rows that say of each query what it must not see:

                                      [ Q            ]  D
    z = [ K | k_0 k_1 .. | hidden ]   [ p_0 p_1 ..   ]  p_g = 0 where the query sees group g, else PENALTY
          D   a 1 in one of these     [ PENALTY      ]

so that a score is what it was where the key is seen, and PENALTY where not, beside which float32 rounds it away. Where
the columns do not fit, or more is done to a product before the softmax, words are compared, score by score; position
and segments always are.

Hidden tokens, and memory past the last token, may hold anything. What a masked step sums over is therefore cleaned
before it is multiplied, 0 there, once for all chunks; sums over scores need no mask then.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from kernels.attention.mosaic_tpu.launch import Launch, Named
from kernels.attention.mosaic_tpu.steps import Grid, Words

LANES = 128
# Rows of 32 bits in a vector.
SUBLANES = 8
# Below HIDDEN, and a power of two: exact in bfloat16, which is what products of float32 are made of too.
PENALTY = -(2.0**100)
# What is summed over keys, and over queries.
OF_KEYS, OF_QUERIES = ("key", "value"), ("query", "of_output")


def spare_rows(groups: int, width: int, dtype: Any) -> int:
    """How many rows below a query hide keys from it, in whole vectors; 0 where words are to be compared instead."""
    unit = SUBLANES * _packed(dtype)
    rows = -(-(groups + 1) // unit) * unit
    return rows if width % unit == 0 and rows <= -width % LANES else 0


def add_inputs(launch: Launch, grid: Grid, words: Words, width: int, spare: int, dtype: Any) -> None:
    """Puts into a launch the rows below queries, and the bits of ``_key_bits``."""
    if spare:
        groups = len(grid.key_ranges)
        number = np.arange(spare)[:, None]
        sees = (number < groups) & (jnp.asarray(words.queries) >> np.minimum(number, groups - 1) & 1 != 0)
        rows = jnp.where(sees, 0, PENALTY).astype(dtype)
        launch.input(
            "spare_rows", rows, (1, spare, grid.rows), lambda at: (at.sample if len(rows) > 1 else 0, 0, at.row)
        )
    bits = _key_bits(grid, words.keys, width, spare, dtype)
    launch.input(
        "key_bits", bits, (1, 1, grid.columns // _packed(dtype), bits.shape[3]),
        lambda at: (at.sample if len(bits) > 1 else 0, jnp.maximum(at.group, 0) if grid.split else 0, at.column, 0),
    )  # fmt: skip


def _key_bits(grid: Grid, words: Any, width: int, spare: int, dtype: Any) -> Array:
    """What is left of keys, and what is beside them, as they lie in vectors: int32 [samples, 1 or G, tokens, lanes].

    In the lanes of a key's own numbers all bits, or none where it is hidden; in the next ones its columns. A token here
    is as many keys as 32 bits hold. There is a table for every group where a step is confined to one.
    """
    groups, packed = len(grid.key_ranges), _packed(dtype)
    lane = np.arange(-(-width // LANES) * LANES)
    # Facts about a key: it is not hidden, it is of a group, it is hidden; and the one that a lane is about. A product
    # takes it there: XLA is slow at spreading tokens over sublanes.
    about = np.where((lane < width) | (not spare), 0, lane - width + 1)
    fact = np.arange(groups + 2)[:, None]
    chosen = jnp.asarray(about == fact, jnp.bfloat16)
    one = np.ones((), dtype).view(f"uint{32 // packed}")
    bits = np.where(about == 0, np.iinfo(one.dtype).max, one).astype(np.uint32).view(np.int32)
    parts = np.array([1 << group for group in range(groups)], np.int32)[:, None] if grid.split else np.int32(-1)
    result = []
    for place in range(packed):
        word = (jnp.asarray(words)[:, :, place::packed] & parts)[:, :, None]
        member = word >> np.clip(fact - 1, 0, groups - 1) & 1 != 0
        facts = jnp.where(fact == 0, word != 0, jnp.where(fact <= groups, member, word == 0))
        found = jnp.einsum("sgft,fl->sgtl", facts.astype(jnp.bfloat16), chosen)
        result.append(jnp.where(found > 0, bits, 0) << place * (32 // packed))
    return functools.reduce(jnp.bitwise_or, result)


def add_scratch(launch: Launch, names: tuple[str, ...]) -> None:
    """Where a masked step keeps what ``clean`` makes of its blocks of these names."""
    for name in names:
        if name in launch.inputs:
            array, block, _ = launch.inputs[name]
            lanes = launch.inputs["key_bits"][1][3] if name == "key" else block[-1]
            launch.scratch[f"clean_{name}"] = ((*block[:-1], lanes), array.dtype)


def clean(here: Named, names: tuple[str, ...]) -> None:
    """Makes blocks 0 in hidden tokens, and puts columns beside keys, for all that have scratch memory for it."""
    for name in names:
        if f"clean_{name}" in here:
            at = (0,) * (len(here[name].shape) - 2)
            if name == "key":
                found = _with_columns(here.key[at], here.key_bits[0, 0])
            else:
                words = here.key_words if name in OF_KEYS else here.query_words
                # In float32, since masks of words fit no narrower vectors on every TPU.
                found = jnp.where(words[0] != 0, here[name][at].astype(jnp.float32), 0).astype(here[name].dtype)
            here[f"clean_{name}"][at] = found


def cleaned(here: Named) -> Named:
    """With the blocks that are clean in place of the others."""
    clean = {name: here[f"clean_{name}"] for name in (*OF_KEYS, *OF_QUERIES) if f"clean_{name}" in here}
    return Named(here | clean)


def filled(array: Array, words: Any, axis: int) -> Array:
    """An array with tokens along an axis, filled up to the whole blocks of ``words``; 0 where these are."""
    more = words.shape[axis] - array.shape[axis]
    array = jnp.pad(array, [(0, more if place == axis else 0) for place in range(array.ndim)])
    return jnp.where(words != 0, array, 0)


def _with_columns(key: Array, bits: Array) -> Array:
    """Keys [k, D] to [k, lanes], by bits."""
    own = pltpu.bitcast(key, jnp.int32)
    beside = jnp.full((own.shape[0], bits.shape[1] - own.shape[1]), -1, jnp.int32)
    return pltpu.bitcast(jnp.concatenate([own, beside], 1) & bits, key.dtype)


def _packed(dtype: Any) -> int:
    """Numbers in 32 bits."""
    return 4 // jnp.dtype(dtype).itemsize
