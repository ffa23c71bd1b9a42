"""Joint attention: every modality against the joint features of all, features by features (Praveen et al.).

The weights along time are [L, L], so the number of segments L is fixed; modalities may differ in width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, TOKEN, Dense
from avjax.nn.fusion.crossmodal import cleaned
from avjax.nn.fusion.layers import Bottleneck, Layer, Tokens
from avjax.streams import Stream


class JointCrossAttention(Layer):
    """Joint cross-attention (Praveen et al. 2022 and 2023), for any number of modalities.

    J = [X_1; X_2; ...] [L, d],  C_m = tanh(X_m^T Wj_m J / sqrt(d)) [d_m, d],
    H_m = ReLU(W_m X_m + Wc_m C_m^T) [k, d_m],  X_m <- Wh_m H_m + X_m [L, d_m].

    Segments that are not valid are 0 on the way in and out, and with them whatever a missing modality would have given
    to the others.

    Args:
      widths: modality -> d_m; their order is that of J.
      length: L, number of segments.
      hidden: k.
    """

    def __init__(self, widths: Mapping[str, int], length: int, *, hidden: int = 32, rngs: nnx.Rngs):
        self.modalities = tuple(widths)
        joint = sum(widths.values())
        self.joint = nnx.Dict(_tables(widths, (length, length), (TOKEN, None), rngs))
        self.own = nnx.Dict(_tables(widths, (hidden, length), (HIDDEN, TOKEN), rngs))
        self.correlation = nnx.Dict(_tables(widths, (hidden, joint), (HIDDEN, EMBED), rngs))
        self.out = nnx.Dict(_tables(widths, (length, hidden), (TOKEN, HIDDEN), rngs))

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens = cleaned(tokens)
        joint, fused = _joint(tokens, self.modalities), {}
        for m in self.modalities:
            x = tokens[m].values
            weights = {name: getattr(self, name)[m][...] for name in ("joint", "own", "correlation", "out")}
            c = _correlation(x, weights["joint"], joint)
            h = nnx.relu(weights["own"] @ x + jnp.einsum("kj,bdj->bkd", weights["correlation"], c))
            fused[m] = tokens[m].replace(values=masked(weights["out"] @ h + x, tokens[m].valid))
        return fused, bottleneck


class RecursiveJointAttention(Layer):
    """One recursion of recursive joint attention (Praveen et al. 2023; RJCMA, 2024); l of them are a Stack of l.

    J' = J Wq [L, d],  S_m = tanh(X_m^T Wk_m J' / sqrt(d)) [d_m, d],  U_m = ReLU(tanh((X_m Wv_m) DP(S_m))) [L, d],
    X_m <- X_m + DP(ReLU(U_m W_m)), with biases where features are projected (Wq, Wv, W), sizes the same on both sides.

    RJCMA's release computes J' but goes on with J. Segments that are not valid are 0 on the way in and out. Ours: J' is
    0 in segments that no modality has.

    Args:
      widths: modality -> d_m; their order is that of J.
      length: L, number of segments.
    """

    def __init__(self, widths: Mapping[str, int], length: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.modalities = tuple(widths)
        joint = sum(widths.values())
        self.query = Dense(joint, joint, axes=(EMBED, HIDDEN), rngs=rngs)
        self.key = nnx.Dict(_tables(widths, (length, length), (TOKEN, None), rngs))
        self.value = nnx.Dict({m: Dense(width, width, axes=(EMBED, HIDDEN), rngs=rngs) for m, width in widths.items()})
        self.out = nnx.Dict({m: Dense(joint, width, axes=(HIDDEN, EMBED), rngs=rngs) for m, width in widths.items()})
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens = cleaned(tokens)
        anything = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        joint, fused = masked(self.query(_joint(tokens, self.modalities)), anything), {}
        for m in self.modalities:
            x = tokens[m].values
            s = self.dropout(_correlation(x, self.key[m][...], joint))
            u = nnx.relu(jnp.tanh(self.value[m](x) @ s))
            added = self.dropout(nnx.relu(self.out[m](u)))
            fused[m] = tokens[m].replace(values=masked(x + added, tokens[m].valid))
        return fused, bottleneck


def _joint(tokens: Tokens, modalities: tuple[str, ...]) -> Float[Array, "B L C"]:
    return jnp.concatenate([tokens[m].values for m in modalities], axis=-1)


def _correlation(
    x: Float[Array, "B L Cm"], weights: Float[Array, "L L"], joint: Float[Array, "B L C"]
) -> Float[Array, "B Cm C"]:
    """tanh(X^T W J / sqrt(d)): features of one modality with those of all."""
    scores = jnp.einsum("bld,ble->bde", x, weights @ joint) / math.sqrt(joint.shape[-1])
    return jnp.tanh(scores)


def _tables(
    widths: Mapping[str, int], shape: tuple[int, int], axes: tuple[str | None, str | None], rngs: nnx.Rngs
) -> dict[str, nnx.Param]:
    """A matrix for every modality."""
    initial = nnx.initializers.xavier_uniform()
    return {m: nnx.Param(initial(rngs.params(), shape), axes=axes) for m in widths}
