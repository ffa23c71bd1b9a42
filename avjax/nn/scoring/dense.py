"""Attention whose weights are written out: the one primitive for all that the kernels do not do."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import attend
from avjax.nn.convolution import masked
from avjax.nn.scoring.normalizers import Normalize, softmax
from avjax.nn.scoring.scores import Scores, scaled_dot
from kernels.attention import Mask


def attend_dense(
    query: Float[Array, "B Nq H Dq"],
    key: Float[Array, "B Nk H Dk"],
    value: Float[Array, "B Nk H Dv"],
    *,
    scores: Scores = scaled_dot,
    normalize: Normalize = softmax,
    valid: Bool[Array, "B Nk"] | Bool[Array, "#B #H #Nq Nk"] | None = None,
    bias: Float[Array, "#B #H #Nq #Nk"] | None = None,
) -> tuple[Float[Array, "B Nq H Dv"], Float[Array, "B H Nq Nk"]]:
    """output = p v with weights p = normalize(scores(q, k) + bias), and those weights in float32 at least.

    Softmax of scaled products belongs to ``avjax.nn.attention.attend``: the kernels never write out the B H Nq Nk
    weights, and report their statistics. This is for other scores (scores.py), other normalisers, and for methods that
    need the weights themselves.

    Args:
      scores: (query, key) to [B, H, Nq, Nk].
      normalize: (scores, valid) to weights.
      valid: which keys there are, or which query sees which key. Keys and values that nobody sees, and queries that
        see nothing, may be anything; the output of the latter is 0. Queries are hidden by the second form.
      bias: added to the scores.
    """
    if valid is not None:
        pairs = valid[:, None, None] if valid.ndim == 2 else valid
        rows, keys = query.shape[0], key.shape[1]
        seen = jnp.broadcast_to(pairs.any((1, 2)), (rows, keys))
        asks = jnp.broadcast_to(pairs.any((1, 3)), query.shape[:2])
        query, key, value = masked(query, asks), masked(key, seen), masked(value, seen)
        valid = pairs
    found = scores(query, key)
    if bias is not None:
        found = found + bias.astype(found.dtype)
    weights = normalize(found, valid)
    output = jnp.einsum("bhqk,bkhv->bqhv", weights, value.astype(weights.dtype), precision="highest")
    return output.astype(value.dtype), weights


def residual_scores(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk H D"],
    residual_query: Float[Array, "B Nq H Dr"],
    residual_key: Float[Array, "B Nk H Dr"],
) -> tuple[Float[Array, "B Nq H Dsum"], Float[Array, "B Nk H Dsum"]]:
    """Queries and keys whose scaled product is q.k / sqrt(D) + q_r.k_r / sqrt(D_r): a correction of the scores.

    [sqrt((D + D_r) / D) q ; sqrt((D + D_r) / D_r) q_r] and [k ; k_r] have it after the kernel's 1 / sqrt(D + D_r).
    """
    width, more = query.shape[-1], residual_query.shape[-1]
    parts = [query * math.sqrt((width + more) / width), residual_query * math.sqrt((width + more) / more)]
    return jnp.concatenate(parts, axis=-1), jnp.concatenate([key, residual_key], axis=-1)


def attend_residual(
    query: Float[Array, "B Nq H D"],
    key: Float[Array, "B Nk H D"],
    value: Float[Array, "B Nk H D"],
    residual_query: Float[Array, "B Nq H Dr"],
    residual_key: Float[Array, "B Nk H Dr"],
    mask: Mask | None = None,
    *,
    site: str | None = None,
) -> Float[Array, "B Nq H D"]:
    """Residual attention softmax(Q K^T / sqrt(D) + R) V with R = Q_r K_r^T / sqrt(D_r), as one call of the kernels.

    The form of R is ours; that a residual is added to the scores is the survey's section 3.2.5.
    """
    query, key = residual_scores(query, key, residual_query, residual_key)
    return attend(query, key, value, mask, site=site)
