"""Attention over time windows of both modalities, each through a transformer of its own.

Ghaleb, Niehues, Asteriadis: Multimodal Attention-Mechanism for Temporal Emotion Recognition, ICIP 2020; the same
authors: Joint Modelling of Audio-Visual Cues Using Attention Mechanisms for Emotion Recognition, Multimedia Tools and
Applications 2023. For T windows of a clip:

    H_m    = LN(Block_L(... Block_1(X_m + P_m)))                       an encoder for each modality
    h_t    = [H_1; ...; H_M]_t
    z      = sum_t alpha_t h_t,   alpha = softmax_t(w^T tanh(W h_t))    which windows tell the emotion
    logits = W_z DP(z),   logits_m = W_m DP(sum_t alpha^m_t H_m,t)

The papers', from their abstracts: time windows of two modalities, sequences of embeddings into a transformer's encoder
each, and that attention brings the modalities' certainties closer. The sources could not be read in full; the form
above is ours, sizes and pooling with it; windows do not overlap. A window that a modality lacks is 0 in h_t.

Train with ``Classification(auxiliary=2.0)``: CE(fused) + CE(audio) + CE(video), of two modalities. With ``decisions``
the logits are the log of the mean probability of the fused vector's classifier and those of the modalities.
``aux["entropy"]`` holds the entropy of each modality's prediction, ``head/modality`` -> [B], and
``aux["attention_over_time"]`` alpha [B, T].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import DecisionFusion, Tokens, present
from avjax.nn.gates import AttentionPool, weighted_sum
from avjax.nn.heads import PerModalityHeads
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier
from avjax.nn.segments import aligned
from avjax.nn.temporal import TemporalTransformer
from avjax.nn.transformer import Size
from avjax.streams import Output, Stream

SYSTEM = System(
    name="Ghaleb et al.",
    source="Ghaleb et al. 2020 [88], 2023 [7]",
    mechanism="self",
    fusion="hybrid",
    architecture="Transformer",
    task="emotion recognition",
    corpora=("CREMA-D", "RAVDESS"),
    metrics=("accuracy",),
    use="short clips of which some windows tell the emotion and most do not; the weights show which",
    avoid="cues of one modality that come at another time than the other's: a window is weighed for both",
    ours="sizes, pooling and windows; only the idea could be read",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of classes.
      size: of each modality's transformer.
      windows: T.
      decisions: the modalities' own decisions have a say in the logits.
      dropout: of the transformers and before the classifiers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = Size(128, 2, 4)
    windows: int = 8
    decisions: bool = False
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """CREMA-D in a setting of ours: VGGish features of sound, 512 features of faces."""
        return cls((Precomputed("audio", (8, 128)), Precomputed("video", (64, 512))), {"emotion": 6})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 6))
        return cls((audio, video), {"emotion": 3}, Size(8, 1, 2), windows=3, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> Ghaleb:
        return Ghaleb(self, rngs=rngs)


class Ghaleb(AudioVisualModel):
    """A transformer a modality and attention over windows; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size, dropout = config.size, config.dropout
        super().__init__(config.modalities, size.width, rngs=rngs)
        names, joint = self.modalities, len(self.modalities) * size.width
        self.windows = config.windows
        self.temporal = nnx.Dict(
            {m: TemporalTransformer(size, config.windows, dropout=dropout, name=m, rngs=rngs) for m in names}
        )
        self.pool = AttentionPool(joint, size.width, rngs=rngs)
        self.pool_own = nnx.Dict({m: AttentionPool(size.width, size.width, rngs=rngs) for m in names})
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classify = Classifier(joint, config.classes, rngs=rngs)
        self.classify_own = PerModalityHeads(names, size.width, config.classes, shared=False, rngs=rngs)
        rules = {h: DecisionFusion("average", ("fused", *names), n, rngs=rngs) for h, n in config.classes.items()}
        self.rules = nnx.Dict(rules if config.decisions else {})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From features to the logits, and those of each modality."""
        tokens = {m: self._within(m, s) for m, s in aligned(self.hidden(tokens, keep), self.windows).items()}
        there = present(tokens)
        h = jnp.concatenate([tokens[m].values for m in self.modalities], axis=-1)
        anything = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        alpha = self.pool.weights(h, anything)
        logits = self.classify(self.dropout(weighted_sum(alpha, h)))
        vectors = {m: self.dropout(self.pool_own[m](tokens[m].values, tokens[m].valid)) for m in self.modalities}
        own = self.classify_own(vectors, there)
        for head, rule in self.rules.items():
            voters = {"fused": logits[head], **{m: own[m][head] for m in own}}
            logits[head] = rule(voters, {"fused": anything.any(axis=1), **there})
        logits |= {f"{head}/{m}": own[m][head] for head in tuple(logits) for m in own}
        entropies = {name: entropy(values) for name, values in logits.items() if "/" in name}
        return Output(logits=logits, tokens=tokens, aux={"attention_over_time": alpha, "entropy": entropies})

    def _within(self, modality: str, stream: Stream) -> Stream:
        return stream.replace(values=self.temporal[modality](stream.values, stream.valid))


def entropy(logits: jax.Array) -> jax.Array:
    """-sum_k p_k log p_k of softmax(logits), in nats."""
    return -(jax.nn.softmax(logits) * jax.nn.log_softmax(logits)).sum(axis=-1)
