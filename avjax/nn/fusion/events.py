"""Blocks of audio-visual event localisation: T segments of a clip, each with S cells of a picture.

Cells are a Stream of values [B, T, S, C] that is valid by segment [B, T] or by cell [B, T, S]. What is not valid is 0
on the way in and out, and has no share in any mean or softmax; a segment that only one modality has is treated as if
there were no other. That is ours throughout: the papers have no missing modality.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.attention import attend, cross_mask
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense, layer_norm
from avjax.nn.fusion.crossmodal import cleaned, keys_of, relation
from avjax.nn.fusion.layers import Bottleneck, Layer, Tokens
from avjax.nn.gates import softmax_over_valid
from avjax.nn.scoring import attend_dense, relu_l1, scaled_dot, side_by_side
from avjax.nn.scoring.scores import Scores
from avjax.nn.transformer import MultiHeadAttention, PostNormBlock, Size
from avjax.streams import Stream
from kernels.attention import Layout


class AudioGuidedAttention(nnx.Module):
    """Audio-guided visual attention (AVGA; Tian et al. 2018).

    u_k = ReLU(U v_k), g = ReLU(G a);  z_k = w^T tanh(W_v u_k + W_g g);  v = sum_k softmax_k(z) v_k.

    In a segment without sound W_g g is 0.

    Args:
      visual, audio: widths of the cells and of the sound.
      hidden, attention: widths of u and g, and of what w weighs.
    """

    def __init__(self, visual: int, audio: int, *, hidden: int = 512, attention: int = 49, rngs: nnx.Rngs):
        self.visual = Dense(visual, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.audio = Dense(audio, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.visual_key = Dense(hidden, attention, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)
        self.audio_key = Dense(hidden, attention, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)
        self.score = Dense(attention, 1, axes=(EMBED, HIDDEN), bias=False, rngs=rngs)

    def __call__(self, cells: Stream, audio: Stream) -> Stream:
        """Cells [B, T, S, C] and sound [B, T, Ca] to the picture [B, T, C]."""
        cells, audio = cleaned({"cells": cells, "audio": audio}).values()
        guide = masked(self.audio_key(nnx.relu(self.audio(audio.values))), audio.valid)
        keys = self.visual_key(nnx.relu(self.visual(cells.values)))
        return weighted_cells(self.score(jnp.tanh(keys + guide[:, :, None]))[..., 0], cells)


class SpatialChannelAttention(nnx.Module):
    """Audio-guided attention to channels, then to cells (CMRAN; Xu et al. 2020).

    c = sigmoid(W ReLU(W_b mean_k(ReLU(W_a a) * ReLU(W_v v_k)))),  v_k <- v_k * (1 + c),
    v = sum_k softmax_k(tanh(w^T(ReLU(W_a' a) * ReLU(W_v' v_k)))) v_k.

    In a segment without sound the factors of a are 1.

    Args:
      visual, audio: widths of the cells and of the sound.
      hidden, bottleneck: widths of the products over channels, and of what follows W_b and in front of w.
      spatial: (cells, sound) to the scores [B, T, S] of the cells, in place of tanh(w^T(...)).
    """

    def __init__(
        self,
        visual: int,
        audio: int,
        *,
        hidden: int = 512,
        bottleneck: int = 256,
        spatial: nnx.Module | None = None,
        rngs: nnx.Rngs,
    ):
        self.channel_visual = Dense(visual, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.channel_audio = Dense(audio, hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.bottleneck = Dense(hidden, bottleneck, axes=(HIDDEN, EMBED), rngs=rngs)
        self.channel = Dense(bottleneck, visual, axes=(EMBED, HIDDEN), rngs=rngs)
        self.spatial = nnx.data(spatial)
        if spatial is None:
            self.spatial_visual = Dense(visual, bottleneck, axes=(EMBED, HIDDEN), rngs=rngs)
            self.spatial_audio = Dense(audio, bottleneck, axes=(EMBED, HIDDEN), rngs=rngs)
            self.score = Dense(bottleneck, 1, axes=(HIDDEN, EMBED), rngs=rngs)

    def __call__(self, cells: Stream, audio: Stream) -> Stream:
        """Cells [B, T, S, C] and sound [B, T, Ca] to the picture [B, T, C]."""
        cells = self.channels(cells, audio)
        return weighted_cells(self.scores(cells, audio), cells)

    def channels(self, cells: Stream, audio: Stream) -> Stream:
        """The cells, each channel times 1 + c."""
        cells, audio = cleaned({"cells": cells, "audio": audio}).values()
        product = _guided(self.channel_visual(cells.values), self.channel_audio(audio.values), audio.valid)
        valid = by_cell(cells)
        mean = masked(product, valid).sum(axis=2) / jnp.maximum(valid.sum(axis=2), 1)[..., None].astype(product.dtype)
        c = nnx.sigmoid(self.channel(nnx.relu(self.bottleneck(mean))))
        return cells.replace(values=cells.values * (1 + c[:, :, None]))

    def scores(self, cells: Stream, audio: Stream) -> Float[Array, "B T S"]:
        """What the softmax over cells is of."""
        cells, audio = cleaned({"cells": cells, "audio": audio}).values()
        if self.spatial is not None:
            return self.spatial(cells, audio)
        product = _guided(self.spatial_visual(cells.values), self.spatial_audio(audio.values), audio.valid)
        return jnp.tanh(self.score(product)[..., 0])


class CrossModalRelationAttention(nnx.Module):
    """Cross-modal relation attention (CMRAN; Xu et al. 2020): a post-norm block whose keys are [other | own].

    q <- LN(q + MHA(q, [X_other | q])), q <- LN(q + FFN(q)), ReLU in the feed-forward layer.

    Args:
      query, other: names, for what is reported of the attention.
      scores: (queries [B, N, H, D], keys of the other modality [B, M, H, D]) to [B, H, N, M] in place of their scaled
        products: avjax.nn.scoring.dense_shift makes it DMIN's (Liu et al. 2022). One softmax spans both halves still,
        but attention then reports no statistics.
    """

    def __init__(
        self,
        size: Size,
        *,
        query: str,
        other: str,
        scores: Scores | None = None,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.query, self.other = query, other
        self.scores = scores
        self.block = PostNormBlock(size, dropout=dropout, activation=nnx.relu, rngs=rngs)

    def __call__(self, query: Stream, other: Stream) -> Stream:
        """Queries [B, N, C] about the memory of the other modality [B, M, C] and themselves."""
        tokens = cleaned({self.query: query, self.other: other})
        x = tokens[self.query].values
        y, valid, keys = keys_of((self.other, self.query), tokens)
        projected = self.block.project(x, y)
        if self.scores is None:
            mask = cross_mask(Layout((self.query,), x.shape[1:2]), keys, valid)
            attended = attend(*projected, mask=mask, value_norms=self.block.value_norms)
        else:
            scores = side_by_side(self.scores, scaled_dot, at=other.values.shape[1])
            attended, _ = attend_dense(*projected, scores=scores, valid=valid)
        return query.replace(values=masked(self.block.residuals(x, attended), query.valid))


class AudioVisualInteraction(nnx.Module):
    """Audio-visual interaction (CMRAN; Xu et al. 2020): g = h_v * h_a, LN(g + MHA(g, [h_a | h_v])).

    In a segment that only one modality has g is that one's features.
    """

    def __init__(self, width: int, heads: int, modalities: Sequence[str], *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.modalities = tuple(modalities)
        self.attention = MultiHeadAttention(width, heads, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.norm = layer_norm(width, rngs)

    def __call__(self, tokens: Tokens) -> Stream:
        """Segments [B, T, C] of every modality to one stream [B, T, C], valid where any is."""
        tokens = cleaned({m: tokens[m] for m in self.modalities})
        first = tokens[self.modalities[0]]
        valid = jnp.stack([stream.valid for stream in tokens.values()]).any(axis=0)
        product = jnp.ones_like(first.values)
        for stream in tokens.values():
            product = product * jnp.where(stream.valid[..., None], stream.values, 1)
        g = first.replace(values=masked(product, valid), valid=valid)
        added = self.dropout(relation(self.attention, "interaction", {"interaction": g} | tokens, self.modalities))
        return g.replace(values=masked(self.norm(g.values + added), valid))


class PositiveSamplePropagation(Layer):
    """Positive sample propagation (PSP; Zhou et al. 2021).

    v1, v2, a1, a2 = DP(ReLU(W x));
    beta_va = ReLU(v2 a1^T / sqrt(d)), beta_av its transpose, rows divided by their sum;
    gamma = beta where beta > threshold, else 0, rows divided by their sum again;
    v <- LN(DP(ReLU(W_v(v + gamma_va a2)))),  a <- LN(DP(ReLU(W_a(a + gamma_av v1)))).

    A row of which nothing is left propagates nothing.

    Args:
      width: d, of the segments of both.
      audio, visual: names of the streams.
      threshold: of beta; the release has 0.099 for full supervision, 0.095 for weak.
    """

    def __init__(
        self,
        width: int,
        *,
        audio: str = "audio",
        visual: str = "video",
        threshold: float = 0.099,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.audio, self.visual = audio, visual
        self.threshold = threshold

        def dense() -> Dense:
            return Dense(width, width, axes=(EMBED, HIDDEN), rngs=rngs)

        self.branches = nnx.Dict({name: dense() for name in ("a1", "a2", "v1", "v2")})
        self.out = nnx.Dict({m: dense() for m in (audio, visual)})
        self.norm = nnx.Dict({m: layer_norm(width, rngs) for m in (audio, visual)})
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens = cleaned(tokens)
        audio, visual = tokens[self.audio], tokens[self.visual]
        a1, a2, v1, v2 = (
            self.dropout(nnx.relu(self.branches[name](stream.values)))[:, :, None]
            for name, stream in (("a1", audio), ("a2", audio), ("v1", visual), ("v2", visual))
        )
        normalize = functools.partial(relu_l1, threshold=self.threshold)
        to_visual, _ = attend_dense(v2, a1, a2, normalize=normalize, valid=audio.valid)
        to_audio, _ = attend_dense(a1, v2, v1, normalize=normalize, valid=visual.valid)
        return tokens | {
            m: tokens[m].replace(values=self._updated(m, tokens[m], positive[:, :, 0]))
            for m, positive in ((self.visual, to_visual), (self.audio, to_audio))
        }, bottleneck

    def _updated(self, modality: str, stream: Stream, positive: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        values = self.dropout(nnx.relu(self.out[modality](stream.values + positive)))
        return masked(self.norm[modality](values), stream.valid)


class DualResidual(Layer):
    """Dual multimodal residual block (DMRN; Tian et al. 2018): m = mean_k U_k(h_k), h_k <- tanh(h_k + m).

    U = FC, tanh, FC. The mean is over the modalities that a segment has.

    Args:
      width: of the segments of every modality.
      hidden: width between the two layers of U.
    """

    def __init__(self, width: int, modalities: Sequence[str], *, hidden: int = 256, rngs: nnx.Rngs):
        self.modalities = tuple(modalities)
        self.up = nnx.Dict({m: Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs) for m in modalities})
        self.down = nnx.Dict({m: Dense(hidden, width, axes=(HIDDEN, EMBED), rngs=rngs) for m in modalities})

    def mix(self, tokens: Tokens, bottleneck: Bottleneck) -> tuple[dict[str, Stream], Bottleneck]:
        tokens = cleaned(tokens)
        total, number = 0.0, 0
        for m in self.modalities:
            stream = tokens[m]
            total = total + masked(self.down[m](jnp.tanh(self.up[m](stream.values))), stream.valid)
            number = number + stream.valid
        mean = total / jnp.maximum(number, 1).astype(total.dtype)[..., None]
        return tokens | {
            m: tokens[m].replace(values=masked(jnp.tanh(tokens[m].values + mean), tokens[m].valid))
            for m in self.modalities
        }, bottleneck


def _guided(
    visual: Float[Array, "B T S C"], audio: Float[Array, "B T C"], valid: Bool[Array, "B T"]
) -> Float[Array, "B T S C"]:
    """ReLU(visual) * ReLU(audio), the second 1 where there is no sound."""
    return nnx.relu(visual) * jnp.where(valid[..., None], nnx.relu(audio), 1)[:, :, None]


def by_cell(cells: Stream) -> Bool[Array, "B T S"]:
    """Which cells there are."""
    shape = cells.values.shape[:-1]
    return jnp.broadcast_to(cells.valid.reshape(*cells.valid.shape, *[1] * (3 - cells.valid.ndim)), shape)


def weighted_cells(scores: Float[Array, "B T S"], cells: Stream) -> Stream:
    """Mean of the cells [B, T, S, C] by softmax of their scores: [B, T, C]; a segment is there where a cell is."""
    valid = by_cell(cells)
    weights = softmax_over_valid(scores, valid).astype(cells.values.dtype)
    values = jnp.einsum("bts,btsc->btc", weights, masked(cells.values, valid))
    return cells.replace(values=values, valid=valid.any(axis=2))
