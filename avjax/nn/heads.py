"""Heads: from vectors and tokens to what a task asks for. The classifier of a vector is in pooling.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from avjax.nn.attention import cross_mask
from avjax.nn.convolution import masked
from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense, layer_norm, learned_tokens, named, widened
from avjax.nn.pooling import Classifier, l2_normalise, max_pool, mean_pool
from avjax.nn.transformer import FeedForward, MultiHeadAttention, Size
from avjax.streams import Stream
from kernels.attention import Layout, Mask


class RegressionHead(nnx.Module):
    """y = W_2 relu(W_1 x), or y = W x without a hidden layer.

    With bounds (lo, hi) the numbers are (lo + hi) / 2 + (hi - lo) / 2 tanh(y).

    Args:
      values: head -> how many numbers.
      bounds: (lo, hi), which the numbers never leave; None lets them be any.
      hidden: units of the hidden layer; 0 is none.
      dropout: of the hidden layer, or of x where there is none.
    """

    def __init__(
        self,
        width: int,
        values: Mapping[str, int],
        *,
        bounds: tuple[float, float] | None = None,
        hidden: int = 0,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.bounds = bounds
        self.hidden = nnx.data(Dense(width, hidden, axes=(EMBED, HIDDEN), rngs=rngs) if hidden else None)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        axes = (HIDDEN if hidden else EMBED, CLASSES)
        self.heads = nnx.Dict({head: Dense(hidden or width, n, axes=axes, rngs=rngs) for head, n in values.items()})

    def __call__(self, x: Float[Array, "*batch C"]) -> dict[str, Float[Array, "*batch _"]]:
        """Numbers in float32: head -> [..., n]."""
        x = self.dropout(x if self.hidden is None else nnx.relu(self.hidden(x)))
        numbers = {head: widened(dense(x)) for head, dense in self.heads.items()}
        if self.bounds is None:
            return numbers
        low, high = self.bounds
        return {head: (low + high) / 2 + (high - low) / 2 * jnp.tanh(y) for head, y in numbers.items()}


class SegmentHead(nnx.Module):
    """Events in time, supervised: e_t = w^T h_t says whether there is one, c = W max_t h_t which one the clip is about.

    The two heads of cross-modal relation-aware networks (Xu et al. 2020); ``localise`` puts their answers together.

    Args:
      classes: K, without the background.
    """

    def __init__(self, width: int, classes: int, *, rngs: nnx.Rngs):
        self.event = Dense(width, 1, axes=(EMBED, CLASSES), rngs=rngs)
        self.classify = Dense(width, classes, axes=(EMBED, CLASSES), rngs=rngs)

    def __call__(self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"]) -> dict[str, Float[Array, "B _"]]:
        """``event`` [B, T], 0 where it is not valid, and ``video`` [B, K], 0 where a row has nothing valid; float32."""
        x = masked(x, valid)
        event = masked(self.event(x)[..., 0], valid)
        video = masked(self.classify(max_pool(x, valid)), valid.any(1))
        return {"event": widened(event), "video": widened(video)}


def localise(event: Float[Array, "B T"], video: Float[Array, "B K"], valid: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """The class of every segment: that of the video where sigmoid(e_t) > 1/2, else K, the background."""
    background = video.shape[1]
    return jnp.where(valid & (event > 0), video.argmax(1)[:, None], background)


class WeakSegmentHead(nnx.Module):
    """Events in time from labels of clips: l_t = W h_t + b, and the clip's logits are mean or max over t of l_t.

    Multiple-instance learning as in the weakly supervised setting of Tian et al. 2018.

    Args:
      classes: K, with the background where that is a class.
      pool: over the valid segments.
    """

    def __init__(self, width: int, classes: int, *, pool: Literal["mean", "max"] = "mean", rngs: nnx.Rngs):
        self.pool = pool
        self.classify = Dense(width, classes, axes=(EMBED, CLASSES), rngs=rngs)

    def __call__(self, x: Float[Array, "B T C"], valid: Bool[Array, "B T"]) -> dict[str, Float[Array, "B ..."]]:
        """``segment`` [B, T, K], 0 where it is not valid, and ``video`` [B, K]; float32."""
        segment = widened(masked(self.classify(masked(x, valid)), valid))
        video = mean_pool(segment, valid) if self.pool == "mean" else max_pool(segment, valid)
        return {"segment": segment, "video": video}


class CTCHead(nnx.Module):
    """Logits of labels for every token, for connectionist temporal classification (Graves et al. 2006).

    Class 0 is the blank, as in ``optax.ctc_loss``; label k of the vocabulary is class k + 1.

    Args:
      labels: size of the vocabulary, without the blank.
    """

    def __init__(self, width: int, labels: int, *, rngs: nnx.Rngs):
        self.classify = Dense(width, labels + 1, axes=(EMBED, CLASSES), rngs=rngs)

    def __call__(self, x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B N K"]:
        """[B, N, labels + 1] in float32, 0 where it is not valid."""
        return widened(masked(self.classify(masked(x, valid)), valid))


class DecoderLayer(nnx.Module):
    """Pre-norm layer of a decoder with one attention a context, side by side in the channels.

    s <- s + MHA(LN s), s <- s + W [MHA_1(LN s, H_1); ...; MHA_M(LN s, H_M)], s <- s + FFN(LN s).

    Two contexts are our reading of the dual cross-modality attention of Lee et al. 2020; with one it is the decoder of
    Vaswani et al. 2017, pre-norm.
    """

    def __init__(self, size: Size, contexts: Sequence[str], *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.contexts = tuple(contexts)
        width = size.width
        self.norm_self = layer_norm(width, rngs)
        self.attend_self = MultiHeadAttention(width, size.heads, rngs=rngs)
        self.norm_context = layer_norm(width, rngs)
        self.attend_context = nnx.List([MultiHeadAttention(width, size.heads, rngs=rngs) for _ in contexts])
        self.join = Dense(len(self.contexts) * width, width, axes=(HIDDEN, EMBED), rngs=rngs)
        self.norm_feed_forward = layer_norm(width, rngs)
        self.feed_forward = FeedForward(size, dropout=dropout, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, s: Float[Array, "B N C"], own: Mask, contexts: Mapping[str, Stream]) -> Float[Array, "B N C"]:
        """``own`` is the causal mask of s; what is not valid in a context must be 0."""
        s = s + self.dropout(self.attend_self(self.norm_self(s), own, site="decoder"))
        normed, heard = self.norm_context(s), []
        for name, attention in zip(self.contexts, self.attend_context, strict=True):
            memory = contexts[name]
            mask = cross_mask(own.queries, Layout((name,), (memory.values.shape[1],)), memory.valid)
            heard.append(attention(normed, mask, memory.values, site=f"decoder_{name}"))
        s = s + self.dropout(self.join(jnp.concatenate(heard, axis=-1)))
        return s + self.feed_forward(self.norm_feed_forward(s))


class AttentionDecoder(nnx.Module):
    """Autoregressive transformer decoder: logits of label i + 1 from labels 0 to i and the contexts.

    s_i = E[label_i] + p_i, ``size.depth`` layers of DecoderLayer, logits = W LN s_i + b. Position i sees positions
    j <= i alone, so one call with the true labels (teacher forcing) gives what a search would get label by label.

    Args:
      size: of the layers.
      vocabulary: number of labels, start and end among them.
      contexts: names of the encoded sequences, in order; all of the decoder's width.
      length: most labels of a sequence.
    """

    def __init__(
        self,
        size: Size,
        vocabulary: int,
        contexts: Sequence[str],
        *,
        length: int,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.contexts = tuple(contexts)
        initialize = named(nnx.initializers.normal(0.02), CLASSES, EMBED)
        self.embed = nnx.Embed(vocabulary, size.width, embedding_init=initialize, rngs=rngs)
        self.positions = learned_tokens(length, size.width, rngs)
        self.layers = nnx.List([DecoderLayer(size, contexts, dropout=dropout, rngs=rngs) for _ in range(size.depth)])
        self.norm = layer_norm(size.width, rngs)
        self.classify = Dense(size.width, vocabulary, axes=(EMBED, CLASSES), rngs=rngs)

    def __call__(
        self,
        labels: Int[Array, "B N"],
        contexts: Mapping[str, Stream],
        valid: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B N K"]:
        """Logits in float32.

        Args:
          labels: what came before, from the start label on; see ``shift_right``.
          contexts: name -> encoded sequence; a missing one is heard by nobody.
          valid: which labels are there; by default all.
        """
        valid = jnp.ones(labels.shape, bool) if valid is None else valid
        layout = Layout.of(labels=labels.shape[1])
        own = Mask(layout, layout, causal=True, key_valid=valid)
        clean = {m: contexts[m].replace(values=masked(contexts[m].values, contexts[m].valid)) for m in self.contexts}
        # Its own call would make float32 of whatever the table is.
        table = self.embed.embedding[...]
        s = table[jnp.where(valid, labels, 0)] + self.positions[...][: labels.shape[1]]
        s = s.astype(clean[self.contexts[0]].values.dtype)
        for layer in self.layers:
            s = layer(s, own, clean)
        return widened(self.classify(self.norm(s)))


def shift_right(labels: Int[Array, "B N"], start: int) -> Int[Array, "B N"]:
    """[start, label_0, ..., label_{N-2}]: what a decoder is given when it is taught label_0, ..., label_{N-1}."""
    return jnp.concatenate([jnp.full_like(labels[:, :1], start), labels[:, :-1]], axis=1)


class MatchingHead(nnx.Module):
    """s_n = exp(tau) cos(x, y_n): how well each candidate matches, with a learned scale (Radford et al. 2021, CLIP).

    A softmax over the candidates is a choice between them, a sigmoid of one a verification.

    Args:
      scale: exp(tau) at first.
    """

    def __init__(self, *, scale: float = 10.0):
        self.log_scale = nnx.Param(jnp.log(jnp.full(1, scale)), axes=(None,))

    def __call__(
        self, x: Float[Array, "B C"], candidates: Float[Array, "B N C"], valid: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B N"]:
        """Float32; -1e30 for a candidate that is not ``valid``, so that no softmax chooses it."""
        if valid is not None:
            x, candidates = masked(x, valid.any(1)), masked(candidates, valid)
        x, candidates = l2_normalise(widened(x)), l2_normalise(widened(candidates))
        cosine = jnp.einsum("bc,bnc->bn", x, candidates, precision="highest")
        scores = jnp.exp(widened(self.log_scale[...])) * cosine
        return scores if valid is None else jnp.where(valid, scores, -1e30)


class PerModalityHeads(nnx.Module):
    """A classifier of each modality's vector, the same one or one each: logits for fusion of decisions.

    Args:
      modalities: names and order.
      classes: head -> number of classes.
      shared: one set of weights for all modalities, as in MBT.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        width: int,
        classes: Mapping[str, int],
        *,
        shared: bool = True,
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(modalities)
        one = Classifier(width, classes, rngs=rngs) if shared else None
        self.classify = nnx.Dict({m: one or Classifier(width, classes, rngs=rngs) for m in self.modalities})

    def __call__(
        self, vectors: Mapping[str, Float[Array, "B C"]], present: Mapping[str, Bool[Array, " B"]] | None = None
    ) -> dict[str, dict[str, Float[Array, "B _"]]]:
        """modality -> head -> [B, K]; 0 where the modality is missing."""
        if present is None:
            return {m: self.classify[m](vectors[m]) for m in self.modalities}
        logits = {m: self.classify[m](masked(vectors[m], present[m])) for m in self.modalities}
        return {m: jax.tree.map(lambda x, m=m: masked(x, present[m]), logits[m]) for m in self.modalities}
