"""Segments: tokens of all modalities on one time axis, for models that compare what is heard and seen at one time."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.nn.dense import widened
from avjax.streams import Stream


def aligned(tokens: Mapping[str, Stream], count: int, cells: Mapping[str, int] | None = None) -> dict[str, Stream]:
    """Every modality as ``count`` segments of equal length, which begin and end together.

    A segment is the mean of the valid tokens that begin in it, and is valid where there is one. Segments span the time
    from the first token of any modality of a clip to the end of the longest one, so modalities that were sampled apart,
    or at other rates, meet where they belong.

    Args:
      tokens: modality -> [B, N, C], tokens in time-major order; a modality that is nowhere valid has no time.
      cells: modality -> S, where S tokens lie side by side at one time: cells of a picture. Each keeps its place, so
        that the segments are [B, count, S, C], valid [B, count, S].
    """
    cells = cells or {}
    begin = jnp.stack([jnp.where(s.valid.any(1), s.start, jnp.inf) for s in tokens.values()]).min(0)
    begin = jnp.where(jnp.isfinite(begin), begin, 0)
    length = max(stream.values.shape[1] / stream.rate for stream in tokens.values()) / count
    return {name: _segments(stream, begin, length, count, cells.get(name)) for name, stream in tokens.items()}


def _segments(stream: Stream, begin: Float[Array, " B"], length: float, count: int, cells: int | None) -> Stream:
    rows, width, beside = stream.values.shape[0], stream.values.shape[-1], cells or 1
    values, valid = stream.values.reshape(rows, -1, beside, width), stream.valid.reshape(rows, -1, beside)
    seconds = stream.start[:, None] + jnp.arange(valid.shape[1]) / (stream.rate / beside) - begin[:, None]
    # A token on a border belongs behind it, whatever rounding makes of its time.
    place = jnp.floor(seconds / length + 1e-4).astype(jnp.int32)
    member = jax.nn.one_hot(place, count, dtype=jnp.float32)
    number = jnp.einsum("bnt,bns->bts", member, valid.astype(jnp.float32))
    values = widened(jnp.where(valid[..., None], values, 0))
    total = jnp.einsum("bnt,bnsc->btsc", member, values, precision="highest")
    mean = (total / jnp.maximum(number, 1)[..., None]).astype(stream.values.dtype)
    shape = (rows, count) if cells is None else (rows, count, beside)
    return Stream(mean.reshape(*shape, width), number.reshape(shape) > 0, start=begin, rate=1 / length)
