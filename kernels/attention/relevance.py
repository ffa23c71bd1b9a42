"""Products with the attention weights P that never make P, and the relevance of tokens that follows from them.

P v is attention with v for values; P^T w is the statistic ``received``. Here are the third product, P^T weighted by a
gradient, and the recursions over the layers of a transformer: rollout (Abnar and Zuidema, ACL 2020) and the relevance
of Chefer, Gur and Wolf (ICCV 2021, one set of tokens, rule 6), both with vectors where they have N x N matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kernels.attention import blockwise, pairwise, reference
from kernels.attention.api import AnyArray, attention, check, default_precision, default_scale
from kernels.attention.mask import Mask

_OF_PAIR = {"blockwise": blockwise.relevance_of_pair, "reference": reference.of_pair}


class Layer(NamedTuple):
    """What a self-attention layer of a transformer was called with.

    Attributes:
      query, key: [B, N, H, D].
      value: [B, N, H, Dv]; for Chefer's relevance alone.
      gradient: of the score that is explained, at the layer's output before its last projection, [B, N, H, Dv];
        likewise.
      mask, bias, scale: as in ``attention``.
    """

    query: Array
    key: Array
    value: Array | None = None
    gradient: Array | None = None
    mask: Mask | None = None
    bias: Array | None = None
    scale: Any = None


def relevance(
    query: Float[AnyArray, "B Nq H D"],
    key: Float[AnyArray, "B Nk Hkv D"],
    value: Float[AnyArray, "B Nk Hkv Dv"],
    gradient: Float[AnyArray, "B Nq H Dv"],
    weights: Float[AnyArray, "B Nq R"],
    *,
    bias: Float[AnyArray, "#B #H #Nq #Nk"] | None = None,
    mask: Mask | None = None,
    scale: float | AnyArray | None = None,
    softcap: float | None = None,
    precision: jax.lax.PrecisionLike = None,
    implementation: str = "blockwise",
) -> Float[Array, "B H Nk R"]:
    """sum_i w_ir relu(P_ij <dO_i, V_j>): attention received, where it raised what ``gradient`` is the gradient of.

    P_ij <dO_i, V_j> is what weight P_ij contributes to that score to first order.

    Raises:
      ValueError: if there is no such implementation, or arguments do not fit together.
    """
    if implementation not in _OF_PAIR:
        raise ValueError(
            f"implementation: there is no {implementation!r} of relevance; there are {', '.join(_OF_PAIR)}."
        )
    arrays = (query, key, value, gradient, weights)
    query, key, value, gradient, weights = (jnp.asarray(array) for array in arrays)
    bias, mask = None if bias is None else jnp.asarray(bias), jax.tree.map(jnp.asarray, mask)
    check(query, key, value, bias, mask, softcap, None, ("received",), weights)
    output = (*query.shape[:3], value.shape[3])
    if gradient.shape != output:
        raise ValueError(f"gradient: needs the shape of the output, {list(output)}, got {list(gradient.shape)}.")
    _, found = pairwise.attend(
        _OF_PAIR[implementation], query, key, value, bias=bias, mask=mask,
        scale=default_scale(query) if scale is None else scale, softcap=softcap, dropout=None,
        statistics=("relevance",), received_weights=weights, upstream=gradient,
        precision=default_precision(query.dtype) if precision is None else precision,
    )  # fmt: skip
    return found["relevance"]


def rollout(
    layers: Sequence[Layer], start: Float[AnyArray, "B N R"], implementation: str | None = None
) -> Float[Array, "B N R"]:
    """How much of every token is in those that ``start`` reads, by attention rollout.

    r <- (mean_h P_h^T r + r) / 2 from the last layer to the first: rows of the product of (P + I) / 2 over all layers.

    Args:
      layers: from the first to the last.
      start: one column a result: weights of the tokens that are read (a one at the class token).
    """
    for layer in reversed(layers):
        # The output is not asked for: one column of it, of anything.
        found = attention(
            layer.query, layer.key, layer.key[..., :1], mask=layer.mask, bias=layer.bias, scale=layer.scale,
            statistics=("received",), received_weights=start, implementation=implementation,
        ).statistics  # fmt: skip
        start = (found["received"].mean(1).astype(start.dtype) + start) / 2
    return start


def rollout_shares(
    layers: Sequence[Layer], start: Float[AnyArray, "B N G"], implementation: str | None = None
) -> Float[Array, "B N G"]:
    """What every token is made of after the last layer, by attention rollout: U <- (mean_h P_h U + U) / 2.

    Args:
      layers: from the first to the last.
      start: what tokens are before the first layer; one-hot in their modality for the shares of modalities.
    """
    for layer in layers:
        shared = layer.key.shape[2]
        value = jnp.broadcast_to(start[:, :, None], (*start.shape[:2], shared, start.shape[2]))
        # In the precision of the shares: rounded to that of the keys at every layer, they would no longer add up.
        query, key = (array.astype(start.dtype) for array in (layer.query, layer.key))
        mixed = attention(
            query, key, value, mask=layer.mask, bias=layer.bias, scale=layer.scale,
            implementation=implementation,
        ).output  # fmt: skip
        start = (mixed.mean(2).astype(start.dtype) + start) / 2
    return start


def chefer(
    layers: Sequence[Layer], start: Float[AnyArray, "B N R"], implementation: str = "blockwise"
) -> Float[Array, "B N R"]:
    """Relevance of every token for the score whose gradients the layers hold.

    r <- r + mean_h relu(P_h * dP_h)^T r from the last layer to the first: rows of R <- R + mean_h relu(P_h * dP_h) R
    from the identity, dP_h = dO_h V_h^T.

    Args:
      layers: from the first to the last, with values and gradients.
      start: one column a result: a one at the token from which the score is read.
    """
    for layer in reversed(layers):
        arguments = (layer.query, layer.key, layer.value, layer.gradient, start)
        options = {"mask": layer.mask, "bias": layer.bias, "scale": layer.scale}
        found = relevance(*arguments, **options, implementation=implementation)
        start = start + found.mean(1).astype(start.dtype)
    return start
