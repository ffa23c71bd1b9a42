"""Adaptive shrinkage: scores below a threshold that is computed from the scores themselves vanish."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.convolution import BatchNorm
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.scoring.normalizers import Normalize, Valid, hide, softmax, visible


class AdaptiveShrinkage(nnx.Module):
    """p = normalize(scale y), where y is z without what is small (Wang et al. 2025, AICANet, ACA).

    t_i = mean_j |z_ij| sigmoid(W_2 relu(BN(W_1 [max_i |z_i.| ; max_j |z_.j|])))_i, a threshold for every query i
    soft: y = sign(z) max(|z| - t, 0)        hard: y = z 1[|z| >= t]

    The release has the hard threshold, whose gradient never reaches W_1 and W_2; the soft one of shrinkage networks
    (Zhao et al. 2020) learns them, and is what is done unless told. The normaliser is a softmax and its scale 10.

    Args:
      queries, keys: their numbers, which W_1 fixes.
      hidden: width between W_1 and W_2; ``queries`` unless given.
      scale: of the scores before they are normalised.
      soft: which threshold.
    """

    def __init__(
        self,
        queries: int,
        keys: int,
        *,
        hidden: int | None = None,
        scale: float = 10.0,
        soft: bool = True,
        normalize: Normalize = softmax,
        rngs: nnx.Rngs,
    ):
        hidden = queries if hidden is None else hidden
        self.up = Dense(queries + keys, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.norm = BatchNorm(hidden, rngs=rngs)
        self.down = Dense(hidden, queries, axes=(HIDDEN, EMBED), rngs=rngs)
        self.scale, self.soft, self.normalize = scale, soft, normalize

    def __call__(self, scores: Float[Array, "B H Nq Nk"], valid: Valid = None) -> Float[Array, "B H Nq Nk"]:
        return self.normalize(self.scale * self.shrink(scores, valid), valid)

    def shrink(self, scores: Float[Array, "B H Nq Nk"], valid: Valid = None) -> Float[Array, "B H Nq Nk"]:
        """y, 0 where hidden."""
        z, there = visible(scores, valid)
        size = jnp.abs(z)
        mean = size.sum(-1) / jnp.maximum(there.sum(-1), 1)
        features = jnp.concatenate([size.max(-2), size.max(-1)], axis=-1)
        hidden = jax.nn.relu(self.norm(self.up(features), there.any((-2, -1))))
        threshold = (mean * jax.nn.sigmoid(self.down(hidden)))[..., None]
        shrunken = jnp.sign(z) * jax.nn.relu(size - threshold) if self.soft else jnp.where(size >= threshold, z, 0)
        return hide(shrunken, there, scores.dtype)
