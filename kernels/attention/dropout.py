"""Attention dropout from a counter: the fate of weight (b, h, i, j) depends on (seed, b, h, i, j) and nothing else.

Not on the order in which blocks are visited, nor on how arrays are sharded, so forward and backward, and every
implementation, drop the same weights. The generator is Threefry-2x32 (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011): add, rotate and xor of 32-bit words, which every accelerator has.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

# The fewest rounds that pass every statistical test of the paper (its table 2).
ROUNDS = 13
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
# Second key words: the seeds of (b, h) and the draws of (i, j) are separate streams.
_SEEDS, _DRAWS = 0x5EED, 0xD20B


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any], rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Threefry-2x32: two random 32-bit words for a key and a counter of two words each; all broadcast together."""
    first, second = (jnp.asarray(word, jnp.uint32) for word in key)
    keys = (first, second, first ^ second ^ jnp.uint32(0x1BD11BDA))
    low, high = (jnp.asarray(word, jnp.uint32) for word in counter)
    low, high = low + keys[0], high + keys[1]
    for step in range(rounds):
        turn = _ROTATIONS[step % 8]
        low = low + high
        high = ((high << jnp.uint32(turn)) | (high >> jnp.uint32(32 - turn))) ^ low
        if step % 4 == 3:
            count = step // 4 + 1
            low = low + keys[count % 3]
            high = high + keys[(count + 1) % 3] + jnp.uint32(count)
    return low, high


def dropout_seeds(seed: int | np.integer | Array, batch: int, heads: int) -> UInt32[Array, "B H"]:
    """The seed of every sample and head that a scalar seed stands for.

    Inside ``jax.shard_map`` a scalar seed would give every shard the same draws, since each counts its own samples and
    heads from 0. Make these outside, pass them sharded like the batch and the heads, and hand them over as the seed.
    """
    if isinstance(seed, (int, np.integer)):
        seed = np.uint32(int(seed) % (1 << 32))
    sample, head = jnp.arange(batch, dtype=jnp.uint32), jnp.arange(heads, dtype=jnp.uint32)
    key = (jnp.asarray(seed).astype(jnp.uint32), _SEEDS)
    return threefry(key, (sample[:, None], head[None, :]))[0]


def kept(rate: float, seeds: UInt32[Array, "B H"], queries: Any, keys: Any) -> Bool[Array, "B H q k"]:
    """Which weights survive.

    Args:
      rate: probability of being dropped, 0 <= rate < 1.
      seeds: from ``dropout_seeds``.
      queries, keys: [q] and [k] token numbers.
    """
    tokens = (jnp.asarray(queries, jnp.uint32)[:, None], jnp.asarray(keys, jnp.uint32)[None, :])
    return survives(rate, seeds[:, :, None, None], *tokens)


def survives(rate: float, seed: Any, query: Any, key: Any) -> Bool[Array, "..."]:
    """``kept`` for a seed, numbers of queries and numbers of keys, uint32, that broadcast together."""
    return threefry((seed, _DRAWS), (query, key))[0] >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
