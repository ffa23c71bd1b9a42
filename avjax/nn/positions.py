"""Positions that are not learned, to be added to tokens; for learned ones see avjax.nn.dense.learned_tokens."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LONGEST = 10000.0


def sinusoidal(count: int, width: int) -> Float[Array, "N C"]:
    """Vaswani et al. 2017, section 3.5: PE[p, 2i] = sin(p / 10000^(2i/C)), PE[p, 2i+1] = cos(p / 10000^(2i/C)).

    Raises:
      ValueError: for an odd width.
    """
    angles = _angles(jnp.arange(count), _share(width, 2, "sinusoidal"))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(count, width)


def sinusoidal_2d(rows: int, columns: int, width: int) -> Float[Array, "N C"]:
    """Sines and cosines of the row in one half of the channels, of the column in the other (as in MAE, He et al. 2022).

    PE[(r, c)] = [sin r w | cos r w | sin c w | cos c w], w_i = 10000^(-4i/C) for i < C/4; tokens row by row.

    Raises:
      ValueError: for a width that 4 does not divide.
    """
    quarter = _share(width, 4, "sinusoidal_2d")
    parts = []
    for place in (jnp.repeat(jnp.arange(rows), columns), jnp.tile(jnp.arange(columns), rows)):
        angles = _angles(place, quarter)
        parts += [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts, axis=-1)


def counted_sinusoidal(valid: Bool[Array, "B N"], width: int) -> Float[Array, "B N C"]:
    """MulT's positions (Tsai et al. 2019, as released): [sin | cos] halves, from 1, zero for padding.

    PE[p] = [sin p w | cos p w], w_i = 10000^(-i/(C/2 - 1)) for i < C/2, where p counts the valid tokens up to and with
    the token itself. For padding at the end that is its place; that padding elsewhere moves nothing is ours.

    Raises:
      ValueError: for an odd width.
    """
    half = _share(width, 2, "counted_sinusoidal")
    frequencies = jnp.exp(-math.log(LONGEST) / max(half - 1, 1) * jnp.arange(half))
    angles = jnp.cumsum(valid, axis=1)[..., None] * frequencies
    return jnp.where(valid[..., None], jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1), 0)


def _angles(place: Array, count: int) -> Array:
    """place * 10000^(-i/count) for i < count."""
    return place[:, None] * jnp.exp(-math.log(LONGEST) / count * jnp.arange(count))


def _share(width: int, parts: int, name: str) -> int:
    if width % parts:
        raise ValueError(f"{name}: width {width} is not a multiple of {parts}; choose one that is")
    return width // parts
