"""Scores: how well a query and a key go together, before anything is normalised.

Every score maps (query [B, Nq, H, D], key [B, Nk, H, D]) to [B, H, Nq, Nk], in float32 at least. A hidden key must be
clean (``avjax.nn.scoring.attend_dense`` sees to it).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.dense import EMBED, HIDDEN, Dense, widened

Scores = Callable[[jax.Array, jax.Array], jax.Array]


def scaled_dot(query: Float[Array, "B Nq H D"], key: Float[Array, "B Nk H D"]) -> Float[Array, "B H Nq Nk"]:
    """q.k / sqrt(D) (Vaswani et al. 2017, equation 1)."""
    return _products(query, key) / math.sqrt(query.shape[-1])


def cosine(
    query: Float[Array, "B Nq H D"], key: Float[Array, "B Nk H D"], *, temperature: float = 1.0
) -> Float[Array, "B H Nq Nk"]:
    """q.k / (|q| |k| temperature); 0 where either is zero. A temperature of 0.1 multiplies the cosine by ten."""
    return _products(_unit(query), _unit(key)) / temperature


def dense_shift(
    query: Float[Array, "B Nq H D"], key: Float[Array, "B Nk H D"], *, share: float = 0.5
) -> Float[Array, "B H Nq Nk"]:
    """Dense similarity: every feature of the query meets every feature of the key (Liu et al. 2022, DMIN).

    With q scaled by 1 / sqrt(D), the mean over the D cyclic shifts of roll_s(q).k, weighted l = ``share`` for s = 0 and
    (1 - l) / (D - 1) for each other shift. As a closed form (ours; the release sums shift by shift):

    (1 / D) [ l q.k + (1 - l) / (D - 1) ((sum_i q_i) (sum_j k_j) - q.k) ]
    """
    width = query.shape[-1]
    if width < 2:
        raise ValueError(f"dense_shift needs heads of at least 2 features to shift, and was given {width}")
    products = scaled_dot(query, key)
    sums = _products(query.sum(-1, keepdims=True), key.sum(-1, keepdims=True)) / math.sqrt(width)
    return (share * products + (1 - share) / (width - 1) * (sums - products)) / width


def side_by_side(first: Scores, second: Scores, *, at: int) -> Scores:
    """``first`` for the keys before ``at`` and ``second`` for the others, so that one softmax runs over both.

    DMIN: ``side_by_side(dense_shift, scaled_dot, at=N)`` for keys [other modality | own modality].
    """

    def scores(query: Float[Array, "B Nq H D"], key: Float[Array, "B Nk H D"]) -> Float[Array, "B H Nq Nk"]:
        return jnp.concatenate([first(query, key[:, :at]), second(query, key[:, at:])], axis=-1)

    return scores


class Additive(nnx.Module):
    """w.tanh(W_q q + W_k k), without biases (Bahdanau et al. 2015, appendix A.1.2).

    Audio-guided visual attention (Tian et al. 2018) is this with the sound as the one query and the cells of a frame as
    keys, 49 hidden units. All heads share the weights. Takes memory B H Nq Nk hidden.

    Args:
      query_width, key_width: features of a head.
      hidden: width of the hidden layer.
    """

    def __init__(self, query_width: int, key_width: int, hidden: int, *, rngs: nnx.Rngs):
        self.query = Dense(query_width, hidden, axes=(EMBED, HIDDEN), bias=False, rngs=rngs)
        self.key = Dense(key_width, hidden, axes=(EMBED, HIDDEN), bias=False, rngs=rngs)
        self.weight = Dense(hidden, 1, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)

    def __call__(self, query: Float[Array, "B Nq H Dq"], key: Float[Array, "B Nk H Dk"]) -> Float[Array, "B H Nq Nk"]:
        query = jnp.swapaxes(self.query(query), 1, 2)[:, :, :, None]
        key = jnp.swapaxes(self.key(key), 1, 2)[:, :, None]
        scores = self.weight(jnp.tanh(query + key))[..., 0]
        return widened(scores)


class Bilinear(nnx.Module):
    """q^T W k times ``scale`` (Luong et al. 2015, "general").

    The joint correlation of Praveen et al. 2022, C_a = tanh(X_a^T W_ja J / sqrt(d)), is this with features as tokens
    and time as their width: query X_a^T [B, d_a, 1, L], key J^T [B, d, 1, L], scale 1 / sqrt(d), then
    ``normalizers.tanh``. All heads share W.

    Args:
      query_width, key_width: features of a head.
      scale: 1 / sqrt(key_width) unless given.
    """

    def __init__(self, query_width: int, key_width: int, *, scale: float | None = None, rngs: nnx.Rngs):
        self.weight = Dense(query_width, key_width, axes=(EMBED, HIDDEN), bias=False, rngs=rngs)
        self.scale = 1 / math.sqrt(key_width) if scale is None else scale

    def __call__(self, query: Float[Array, "B Nq H Dq"], key: Float[Array, "B Nk H Dk"]) -> Float[Array, "B H Nq Nk"]:
        return _products(self.weight(query), key) * self.scale


def _products(query: jax.Array, key: jax.Array) -> jax.Array:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    return jnp.einsum("bqhd,bkhd->bhqk", query, key, precision="highest", preferred_element_type=wide)


def _unit(x: jax.Array) -> jax.Array:
    """x / |x|, 0 for 0; neither the length of zero nor its gradient is taken."""
    x = widened(x)
    square = jnp.square(x).sum(-1, keepdims=True)
    nonzero = square > 0
    return jnp.where(nonzero, x * jax.lax.rsqrt(jnp.where(nonzero, square, 1)), 0)
