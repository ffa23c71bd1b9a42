"""Graphs whose nodes are tokens: attention between all of them, and pooling to the nodes that count most."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import BatchNorm, masked
from avjax.nn.dense import EMBED, HIDDEN, Dense, widened
from avjax.nn.scoring import attend_dense


class GraphAttention(nnx.Module):
    """h_i <- SELU(BN(W_1 sum_j a_ij h_j + W_2 h_i)), a_ij = softmax_j(w^T tanh(W (h_i * h_j)) / temperature).

    Our reading of the graph attention layers of AASIST (Jung et al. 2022): every node is a neighbour of every other and
    of itself. Takes memory B N N ``outputs``.

    Args:
      inputs, outputs: widths of the nodes before and after.
      temperature: of the softmax.
    """

    def __init__(self, inputs: int, outputs: int, *, temperature: float = 1.0, rngs: nnx.Rngs):
        self.temperature = temperature
        self.pairs = Dense(inputs, outputs, axes=(EMBED, HIDDEN), rngs=rngs)
        self.score = Dense(outputs, 1, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)
        self.attended = Dense(inputs, outputs, axes=(EMBED, HIDDEN), rngs=rngs)
        self.own = Dense(inputs, outputs, axes=(EMBED, HIDDEN), rngs=rngs)
        self.norm = BatchNorm(outputs, rngs=rngs)

    def scores(self, query: Float[Array, "B N 1 C"], key: Float[Array, "B M 1 C"]) -> Float[Array, "B 1 N M"]:
        """w^T tanh(W (h_i * h_j)) / temperature."""
        products = query * jnp.swapaxes(key, 1, 2)
        scores = self.score(jnp.tanh(self.pairs(products)))[..., 0] / self.temperature
        return widened(scores[:, None])

    def __call__(self, x: Float[Array, "B N Cin"], valid: Bool[Array, "B N"]) -> Float[Array, "B N Cout"]:
        """0 where it is not valid."""
        x = masked(x, valid)
        nodes = x[:, :, None]
        heard, _ = attend_dense(nodes, nodes, nodes, scores=self.scores, valid=valid)
        return masked(nnx.selu(self.norm(self.attended(heard[:, :, 0]) + self.own(x), valid)), valid)


class GraphPool(nnx.Module):
    """The nodes of the largest s_i = sigmoid(w^T h_i + b), as s_i h_i in the order of s (Gao and Ji 2019).

    Without the graph's edges, as in AASIST (Jung et al. 2022). Of N places ceil(share N) are left; a row with fewer
    valid nodes keeps all of those (ours).
    """

    def __init__(self, width: int, *, share: float = 0.5, rngs: nnx.Rngs):
        self.share = share
        self.score = Dense(width, 1, axes=(EMBED, HIDDEN), rngs=rngs)

    def __call__(
        self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]
    ) -> tuple[Float[Array, "B M C"], Bool[Array, "B M"]]:
        x = masked(x, valid)
        scores = nnx.sigmoid(self.score(x)[..., 0])
        # A sigmoid is above -1.
        top, place = jax.lax.top_k(jnp.where(valid, scores, -1), math.ceil(self.share * x.shape[1]))
        there = top >= 0
        chosen = jnp.take_along_axis(x, place[..., None], axis=1) * top[..., None]
        return masked(chosen, there), there
