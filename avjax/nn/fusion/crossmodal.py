"""Layers in which one modality asks another: both ways, one way, in parallel.

All of them leave a stream as it is in a row where it finds nobody to ask, and clean what is not valid before they
compute. Hendricks et al. 2021 compare: merged attention (CrossAttentionFusion), a single stream (MergedFusion), single
modalities (UnimodalLayer), mixed (a Stack of UnimodalLayer, then one CrossAttentionFusion), asymmetric attention
(AsymmetricFusion) and co-attention (CoAttentionFusion).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from avjax.nn.attention import cross_mask
from avjax.nn.convolution import masked
from avjax.nn.dense import layer_norm
from avjax.nn.fusion.layers import Bottleneck, Layer, Tokens
from avjax.nn.transformer import Block, MultiHeadAttention
from avjax.streams import Array, Stream
from kernels.attention import Layout


def cleaned(tokens: Tokens) -> dict[str, Stream]:
    """The same, with 0 in place of whatever the invalid tokens hold."""
    return {m: stream.replace(values=masked(stream.values, stream.valid)) for m, stream in tokens.items()}


def keys_of(names: Sequence[str], tokens: Tokens) -> tuple[Array, Array, Layout]:
    """Tokens [B, M, C] of several modalities side by side, their validity and their groups."""
    values = jnp.concatenate([tokens[m].values for m in names], axis=1)
    valid = jnp.concatenate([tokens[m].valid for m in names], axis=1)
    return values, valid, Layout(tuple(names), tuple(tokens[m].values.shape[1] for m in names))


def others(modality: str, modalities: Sequence[str]) -> tuple[str, ...]:
    return tuple(m for m in modalities if m != modality)


class CoAttentionFusion(Layer):
    """Co-attention (ViLBERT, Lu et al. 2019; Hendricks et al. 2021): X_m <- Block_m(X_m, X_others).

    Queries are of one modality, keys and values of the others alone. With ``residual`` X_m <- X_m + Block_m(X_m,
    X_others), as AVT-CA's release has it. Ours: a row without any other modality keeps X_m.

    Args:
      blocks: modality -> its own block.
      modalities: their order.
    """

    def __init__(self, blocks: Mapping[str, Block], modalities: Sequence[str], *, residual: bool = False):
        self.blocks = nnx.Dict(blocks)
        self.modalities = tuple(modalities)
        self.residual = residual

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens, fused = cleaned(tokens), {}
        for m in self.modalities:
            x = tokens[m].values
            y, valid, keys = keys_of(others(m, self.modalities), tokens)
            asked = self.blocks[m](x, cross_mask(Layout((m,), x.shape[1:2]), keys, valid), y)
            fused[m] = _where_any(valid, tokens[m], x + asked if self.residual else asked)
        return fused, bottleneck


class AsymmetricFusion(Layer):
    """Asymmetric attention (Hendricks et al. 2021): X_m <- Block_m(X_m, X_others) for one modality m alone.

    The others attend to themselves, X_o <- Block_o(X_o), where they have a block (ours), and otherwise stay as they
    are: a stack of such layers asks the layer-0 features of the others at every layer, as MulT does. Ours: a row
    without any other modality keeps X_m.

    Args:
      attending: m.
      blocks: modality -> its own block; m has one.
      modalities: their order.
      causal: token i of X_m sees token j of the others where j - i <= |N_m - N_others| (MulT).
    """

    def __init__(self, attending: str, blocks: Mapping[str, Block], modalities: Sequence[str], *, causal: bool = False):
        self.attending = attending
        self.blocks = nnx.Dict(blocks)
        self.modalities = tuple(modalities)
        self.causal = causal

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens = cleaned(tokens)
        fused = dict(tokens)
        for m in self.blocks:
            x = tokens[m].values
            y, valid, keys = keys_of(others(m, self.modalities) if m == self.attending else [m], tokens)
            mask = cross_mask(Layout((m,), x.shape[1:2]), keys, valid)
            if self.causal and m == self.attending:
                mask = mask.replace(window=(None, abs(y.shape[1] - x.shape[1])))
            fused[m] = _where_any(valid, tokens[m], self.blocks[m](x, mask, y))
        return fused, bottleneck


class ParallelCrossAttention(Layer):
    """A' = A + MHA_a(A, V), V' = V + MHA_v(V, A): every modality asks the others at once, and nothing follows.

    Our reading of the dual attention of DCM (Lee et al. 2020), whose decoder is given A' and V', and, with
    ``post_norm``, A' = LN(A + MHA_a(A, V)), of the parallel cross-modal attention of HMATN (Moorthy and Moon 2025).
    Ours: where there is nothing to ask, MHA(A, V) is 0.

    Args:
      keys: of the others; of the modality itself (``own``: self-attention beside it); or of all (``union``).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        modalities: Sequence[str],
        *,
        keys: Literal["others", "own", "union"] = "others",
        post_norm: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(modalities)
        self.keys = keys
        self.attention = nnx.Dict({m: MultiHeadAttention(width, heads, rngs=rngs) for m in modalities})
        self.norm = nnx.data(nnx.Dict({m: layer_norm(width, rngs) for m in modalities}) if post_norm else None)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens, fused = cleaned(tokens), {}
        for m in self.modalities:
            asked = {"own": (m,), "union": self.modalities, "others": others(m, self.modalities)}[self.keys]
            values = tokens[m].values + self.dropout(relation(self.attention[m], m, tokens, asked))
            fused[m] = tokens[m].replace(values=values if self.norm is None else self.norm[m](values))
        return fused, bottleneck


def relation(attention: MultiHeadAttention, modality: str, tokens: Tokens, asked: Sequence[str]) -> Array:
    """MHA(X_m, [X_k ...]) for k in ``asked``, [B, N, C]; 0 in rows with nothing to ask. Invalid tokens hold zeros."""
    x = tokens[modality].values
    y, valid, keys = keys_of(asked, tokens)
    return masked(attention(x, cross_mask(Layout((modality,), x.shape[1:2]), keys, valid), y), valid.any(axis=1))


def _where_any(valid: Array, before: Stream, after: Array) -> Stream:
    """``after`` in the rows where anything is valid."""
    return before.replace(values=jnp.where(valid.any(axis=1)[:, None, None], after, before.values))
