"""Hierarchical cross-modal attention with two audio pathways.

Vamsidhar et al. 2025: text, pictures and two parallel views of sound, combined by a dynamic gate before modalities
meet.

    u_t    = g_t * A_t + (1 - g_t) * S_t,   g_t = sigmoid(W [A_t; S_t])      spectrogram and speech, by segment
    X_m    <- LN(Block_L(... Block_1(X_m + P_m)))                            level 1: within a modality
    X_m    <- Block_m(X_m, X_others)                                         level 2: across modalities
    h_m    = mean_n X_m,   h <- Block_l([h_1 | ... | h_M])                   level 3: one token a modality
    logits = W mean_m LN(h_m)

The paper's, from its abstract: BERT, ResNet-50, a convolutional network over a spectrogram and wav2vec 2.0; a dynamic
gate between the last two; a cross-modal self-attention layer behind them all. The source could not be read in full;
the form above is ours: three levels, what each does, and segments of equal length in which the pathways meet. Where
one pathway is missing the other passes; a missing modality is asked by nobody and has no token at level 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx

from avjax.models import System
from avjax.nn.dense import layer_norm
from avjax.nn.encoders import Encoder, Precomputed, ResNet, SpectrogramConv
from avjax.nn.fusion import CoAttentionFusion, MergedFusion, Tokens, present
from avjax.nn.gates import DynamicGate
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_of_present, mean_pool
from avjax.nn.segments import aligned
from avjax.nn.stack import Stack
from avjax.nn.temporal import TemporalTransformer
from avjax.nn.transformer import Block, Size
from avjax.streams import Output, Stream

SYSTEM = System(
    name="Vamsidhar et al.",
    source="Vamsidhar et al. 2025 [9]",
    mechanism="hierarchical",
    fusion="hybrid",
    architecture="CNN-Transformer",
    task="classification of text, pictures and sound",
    corpora=(),
    metrics=("accuracy", "F1"),
    use="sound says different things as a signal and as speech, and a pretrained model knows the latter",
    avoid="one view of sound is enough: the gate is then between a thing and noise",
    ours="the whole form but for two gated pathways and attention in levels",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders, those of both pathways among them.
      classes: head -> number of classes.
      pathways: the two modalities that are views of one; the result goes by the name of the first.
      size: of the transformers of level 1.
      segments: in which the pathways meet.
      across, summary: layers of levels 2 and 3.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    pathways: tuple[str, str] = ("audio", "speech")
    size: Size = Size(256, 2, 8)
    segments: int = 50
    across: int = 1
    summary: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        missing = [m for m in self.pathways if m not in [encoder.modality for encoder in self.modalities]]
        if missing:
            raise ValueError(f"there is no modality {missing[0]!r}, which is to be a pathway")

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 5 s of 64 mel bands, wav2vec 2.0 features at 50 Hz, BERT features, 8 frames; 7 classes."""
        audio = SpectrogramConv("audio", (500, 64), channels=(32, 64, 128), step=10)
        speech, text = Precomputed("speech", (250, 768)), Precomputed("text", (64, 768))
        video = ResNet("video", (8, 224, 224, 3), depth=50)
        return cls((audio, speech, video, text), {"emotion": 7})

    @classmethod
    def tiny(cls) -> Config:
        audio = SpectrogramConv("audio", (6, 4), channels=(8,), step=2)
        speech, video = Precomputed("speech", (4, 5)), Precomputed("video", (3, 6))
        return cls((audio, speech, video), {"emotion": 3}, size=Size(8, 1, 2), segments=3, summary=1, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> Vamsidhar:
        return Vamsidhar(self, rngs=rngs)


class Vamsidhar(AudioVisualModel):
    """A gate between two pathways, then three levels of attention; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size, dropout = config.size, config.dropout
        super().__init__(config.modalities, size.width, rngs=rngs)
        self.pathways, self.segments = config.pathways, config.segments
        lengths = {encoder.modality: encoder.tokens for encoder in config.modalities}
        lengths[config.pathways[0]] = config.segments
        names = self.met = tuple(m for m in self.modalities if m != config.pathways[1])
        self.gate = DynamicGate(size.width, rngs=rngs)

        def within(m: str) -> TemporalTransformer:
            return TemporalTransformer(size, lengths[m], dropout=dropout, name=f"within_{m}", rngs=rngs)

        def block() -> Block:
            return Block(size, dropout=dropout, rngs=rngs)

        self.within = nnx.Dict({m: within(m) for m in names})

        def layer() -> CoAttentionFusion:
            return CoAttentionFusion({m: block() for m in names}, names)

        self.across = Stack("across", [layer() for _ in range(config.across)])
        self.summary = Stack("summary", [MergedFusion(block(), names) for _ in range(config.summary)])
        self.norm = layer_norm(size.width, rngs)
        self.classify = Classifier(size.width, config.classes, rngs=rngs)

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From the encoders' tokens to the logits."""
        tokens = self.hidden(tokens, keep)
        first = self.pathways[0]
        streams = {m: self._gated(tokens) if m == first else tokens[m] for m in self.met}
        streams = {m: s.replace(values=self.within[m](s.values, s.valid)) for m, s in streams.items()}
        streams, _ = self.across(streams)
        there = present(streams)
        summaries = {
            m: s.replace(values=mean_pool(s.values, s.valid)[:, None], valid=there[m][:, None])
            for m, s in streams.items()
        }
        summaries, _ = self.summary(summaries)
        h = mean_of_present({m: self.norm(summaries[m].values[:, 0]) for m in self.met}, there)
        return Output(logits=self.classify(h), tokens={**tokens, **{m: streams[m] for m in self.met if m != first}})

    def _gated(self, tokens: Tokens) -> Stream:
        """u: both pathways in segments, one of them where the other is missing."""
        first, second = (aligned({m: tokens[m] for m in self.pathways}, self.segments)[m] for m in self.pathways)
        values = self.gate(first.values, second.values, first.valid, second.valid)
        return first.replace(values=values, valid=first.valid | second.valid)
