"""Hierarchies: cells into segments into a video, frames into clips into a video; and fusion from level to level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import cross_mask
from avjax.nn.convolution import masked
from avjax.nn.dense import layer_norm
from avjax.nn.transformer import MultiHeadAttention
from kernels.attention import Layout


class Level(nnx.Module):
    """One level above another: x_g = pool of the g-th ``group`` of consecutive tokens; then ``model`` over all x_g.

    A pooled token is valid where any of its group is. A last group that is short counts what it has.

    Args:
      pool: ([B, G, C], valid [B, G]) -> [B, C'], as avjax.nn.pooling.mean_pool or avjax.nn.gates.AttentionPool.
      group: G, tokens of the level below that make one; None for all of them.
      model: ([B, N, C'], valid [B, N]) -> [B, N, C''], as those of avjax.nn.temporal.
    """

    def __init__(
        self,
        pool: Callable[..., Array],
        *,
        group: int | None = None,
        model: nnx.Module | None = None,
    ):
        self.pool, self.group = pool, group
        self.model = nnx.data(model)

    def __call__(
        self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]
    ) -> tuple[Float[Array, "B M _"], Bool[Array, "B M"]]:
        group = self.group or x.shape[1]
        count = math.ceil(x.shape[1] / group)
        rest = count * group - x.shape[1]
        x = jnp.pad(masked(x, valid), ((0, 0), (0, rest), (0, 0))).reshape(-1, group, x.shape[-1])
        groups = jnp.pad(valid, ((0, 0), (0, rest))).reshape(-1, group)
        pooled = self.pool(x, groups).reshape(valid.shape[0], count, -1)
        above = groups.any(axis=1).reshape(valid.shape[0], count)
        pooled = masked(pooled, above)
        return (pooled if self.model is None else self.model(pooled, above)), above


class Hierarchy(nnx.Module):
    """Levels one above the other: x^0 is given, x^k = Level_k(x^(k-1)).

    Cells of a map in time-major order with ``group`` cells a segment become segments, segments a video.
    """

    def __init__(self, levels: Sequence[Level]):
        self.levels = nnx.List(levels)

    def __call__(
        self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]
    ) -> list[tuple[Float[Array, "B _ _"], Bool[Array, "B _"]]]:
        """(tokens, valid) of every level, from the given tokens up."""
        found = [(masked(x, valid), valid)]
        for level in self.levels:
            found.append(level(*found[-1]))
        return found


class ProgressiveAttention(nnx.Module):
    """Level by level into one state: h <- MHA_k(LN h, LN x^k) + h, for k = 1 ... K.

    The idea is that of HALNet's hierarchical fusion, from local to global; this equation and its pre-norms are ours.
    A row that has nothing of a level keeps its h.

    Args:
      width: of h and of every level.
      levels: K.
    """

    def __init__(self, width: int, heads: int, levels: int, *, rngs: nnx.Rngs):
        self.attention = nnx.List([MultiHeadAttention(width, heads, rngs=rngs) for _ in range(levels)])
        self.norms = nnx.List([layer_norm(width, rngs) for _ in range(levels)])
        self.norms_of_levels = nnx.List([layer_norm(width, rngs) for _ in range(levels)])

    def __call__(
        self,
        h: Float[Array, "B N C"],
        valid: Bool[Array, "B N"],
        levels: Sequence[tuple[Float[Array, "B _ C"], Bool[Array, "B _"]]],
    ) -> Float[Array, "B N C"]:
        h = masked(h, valid)
        for k, (x, there) in enumerate(levels):
            mask = cross_mask(Layout.of(state=h.shape[1]), Layout.of(**{f"level_{k}": x.shape[1]}), there)
            normed = self.norms[k](h), self.norms_of_levels[k](masked(x, there))
            attended = self.attention[k](normed[0], mask, normed[1], site=f"level_{k}")
            h = h + masked(attended, valid & there.any(axis=1, keepdims=True))
        return h
