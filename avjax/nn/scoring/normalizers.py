"""Normalisers: from scores to weights, without total variation (total_variation.py) and shrinkage (shrinkage.py).

Every normaliser maps (scores [..., Nk], valid) to weights [..., Nk]; ``valid`` is a bool array that broadcasts to the
scores, or None. What is hidden may be anything, gets weight 0 and takes part in no gradient; a row with nothing valid
is all zeros. Sums are float32 at least, and the weights have the dtype of the scores. Settings are keyword arguments:
``functools.partial(entmax, alpha=1.3)`` is a normaliser too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Valid = Bool[Array, "..."] | None
Normalize = Callable[..., jax.Array]


def visible(scores: jax.Array, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Scores in float32 at least, 0 where hidden, and the mask at their shape."""
    valid = jnp.broadcast_to(True if valid is None else valid, scores.shape)
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    return jnp.where(valid, scores, 0).astype(wide), valid


def hide(weights: jax.Array, valid: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(valid, weights, 0).astype(dtype)


def below_maximum(scores: jax.Array, valid: jax.Array, hidden: float) -> jax.Array:
    """Scores less the greatest valid one of their row, ``hidden`` where hidden; 0 at most."""
    greatest = jnp.max(jnp.where(valid, scores, -jnp.inf), axis=-1, keepdims=True)
    greatest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(greatest), greatest, 0))
    return jnp.where(valid, scores - greatest, hidden)


def softmax(scores: Float[Array, "*rows Nk"], valid: Valid = None) -> Float[Array, "*rows Nk"]:
    """p_j = exp(z_j) / sum_k exp(z_k)."""
    z, there = visible(scores, valid)
    exponential = jnp.where(there, jnp.exp(below_maximum(z, there, 0.0)), 0)
    total = exponential.sum(-1, keepdims=True)
    return hide(exponential / jnp.where(total > 0, total, 1), there, scores.dtype)


def sparsemax(scores: Float[Array, "*rows Nk"], valid: Valid = None) -> Float[Array, "*rows Nk"]:
    """p = argmin over the simplex of |p - z|^2 = max(z - t, 0) (Martins & Astudillo 2016).

    With z sorted downwards and k the last at which 1 + k z_k > sum_{j <= k} z_j, t = (sum_{j <= k} z_j - 1) / k. The
    Jacobian is diag(s) - s s^T / sum(s) with s = 1[p > 0].
    """
    z, there = visible(scores, valid)
    # One below the greatest score nothing has weight, so two below hides a key.
    return hide(_sparsemax(below_maximum(z, there, -2.0)), there, scores.dtype)


def entmax(scores: Float[Array, "*rows Nk"], valid: Valid = None, *, alpha: float = 1.5) -> Float[Array, "*rows Nk"]:
    """p = max((a - 1) z - t, 0)^(1 / (a - 1)) that sums to 1: argmax of p.z + Tsallis entropy (Peters et al. 2019).

    a = 2 is sparsemax; a towards 1 is softmax. t is bisected (their algorithm 1). The Jacobian is
    diag(s) - s s^T / sum(s) with s = p^(2 - a) where p > 0, which knows nothing of the bisection.

    Args:
      alpha: a, greater than 1.
    """
    if alpha <= 1:
        raise ValueError(f"entmax needs alpha > 1, and was given {alpha}; use softmax for alpha = 1")
    z, there = visible(scores, valid)
    # As in sparsemax, after the scale: one below the greatest nothing has weight.
    return hide(_entmax(below_maximum(z, there, -2 / (alpha - 1)), alpha), there, scores.dtype)


def relu_l1(
    scores: Float[Array, "*rows Nk"], valid: Valid = None, *, threshold: float = 0.0
) -> Float[Array, "*rows Nk"]:
    """Weights of positive sample propagation (Zhou et al. 2021, PSP).

    b = max(z, 0) / sum max(z, 0); c = b 1[b > threshold]; p = c / sum c. A row without a positive score, or with none
    above the threshold, is all zeros. The release uses 0.099 with labels by segment, 0.095 with labels by video.
    """
    z, there = visible(scores, valid)
    share = _to_sum_one(jax.nn.relu(z))
    return hide(_to_sum_one(jnp.where(share > threshold, share, 0)), there, scores.dtype)


def tanh(scores: Float[Array, "*rows Nk"], valid: Valid = None) -> Float[Array, "*rows Nk"]:
    """p = tanh(z), as in the joint correlation of Praveen et al. 2022; may be negative, and sums to nothing certain."""
    z, there = visible(scores, valid)
    return hide(jnp.tanh(z), there, scores.dtype)


def identity(scores: Float[Array, "*rows Nk"], valid: Valid = None) -> Float[Array, "*rows Nk"]:
    """p = z: linear attention, and that of spikes, whose products need no normalising (He et al. 2025, S-CMRL)."""
    z, there = visible(scores, valid)
    return hide(z, there, scores.dtype)


def focal(
    scores: Float[Array, "*rows Nq Nk"],
    valid: Valid = None,
    *,
    scale: float = 20.0,
    relevance: Literal["equal", "probability"] = "equal",
) -> Float[Array, "*rows Nq Nk"]:
    """Bidirectional focal attention, one direction (Liu et al. 2019, BFAN): irrelevant keys get nothing.

    Pre-assignment: s = leaky_relu(z, 0.1), brought to length 1 over the queries of each key; a = softmax_j(scale s).
    Relevance: F_j = sum_k (a_j - a_k) g_k with g = 1 (``equal``: F_j > 0 is a_j above the mean) or g_k = sqrt(a_k)
    (``probability``). Re-assignment: p = a 1[F > 0] / sum a 1[F > 0]; the mask is a constant for the gradient. Where F
    is nowhere positive, as for a single key, p = a (ours). The score's own scale is lost to the length over queries.
    """
    z, there = visible(scores, valid)
    # Of hidden keys z is 0, and leaky_relu(0) = 0.
    s = jax.nn.leaky_relu(z, 0.1)
    square = jnp.square(s).sum(-2, keepdims=True)
    s = jnp.where(square > 0, s * jax.lax.rsqrt(jnp.where(square > 0, square, 1)), 0)
    assigned = softmax(scale * s, there)
    above = jax.lax.stop_gradient(_relevant(assigned, there, relevance))
    above = above | ~above.any(-1, keepdims=True)
    return hide(_to_sum_one(jnp.where(above, assigned, 0)), there, scores.dtype)


def _relevant(assigned: jax.Array, there: jax.Array, relevance: str) -> jax.Array:
    # The constant 1 counts valid keys alone; a hidden key's weight is 0.
    g = there.astype(assigned.dtype) if relevance == "equal" else jnp.sqrt(assigned)
    return assigned * g.sum(-1, keepdims=True) > (assigned * g).sum(-1, keepdims=True)


def _to_sum_one(x: jax.Array) -> jax.Array:
    total = x.sum(-1, keepdims=True)
    return jnp.where(total > 0, x / jnp.where(total > 0, total, 1), 0)


@jax.custom_jvp
def _sparsemax(z: jax.Array) -> jax.Array:
    ordered = jnp.flip(jnp.sort(z, axis=-1), axis=-1)
    sums = jnp.cumsum(ordered, axis=-1)
    count = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    inside = 1 + count * ordered > sums
    size = inside.sum(-1, keepdims=True).astype(z.dtype)
    threshold = (jnp.where(inside, ordered, 0).sum(-1, keepdims=True) - 1) / size
    return jnp.maximum(z - threshold, 0)


@_sparsemax.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    p = _sparsemax(*primals)
    return p, _centred(jnp.where(p > 0, 1, 0).astype(p.dtype), tangents[0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _entmax(z: jax.Array, alpha: float) -> jax.Array:
    """For z whose greatest is 0."""
    z = (alpha - 1) * z

    def weights(threshold: jax.Array) -> jax.Array:
        return jnp.maximum(z - threshold, 0) ** (1 / (alpha - 1))

    def halve(_: jax.Array, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        heavy = weights(middle).sum(-1, keepdims=True) >= 1
        return jnp.where(heavy, middle, low), jnp.where(heavy, high, middle)

    # At -1 the greatest score alone has weight 1; at -Nk^(1 - alpha) all weights together have 1 at most.
    low = jnp.full_like(z[..., :1], -1)
    high = jnp.full_like(low, -(z.shape[-1] ** (1.0 - alpha)))
    bits = jnp.finfo(z.dtype).nmant + 2
    low, _ = jax.lax.fori_loop(0, bits, halve, (low, high))
    return _to_sum_one(weights(low))


@_entmax.defjvp
def _(alpha: float, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    p = _entmax(*primals, alpha)
    inside = p > 0
    return p, _centred(jnp.where(inside, jnp.where(inside, p, 1) ** (2 - alpha), 0), tangents[0])


def _centred(s: jax.Array, tangent: jax.Array) -> jax.Array:
    """(diag(s) - s s^T / sum(s)) tangent."""
    return s * (tangent - (s * tangent).sum(-1, keepdims=True) / s.sum(-1, keepdims=True))
