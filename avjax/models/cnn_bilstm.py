"""CNN, BiLSTM, fusion: convolutions see a moment, a recurrent layer a clip, and summaries of the modalities meet.

A row of the survey's table of architectures, for continuous emotion, personality and attributes of faces and voices.

    X_m    = CNN_m(x_m)                                  tokens, a frame or a few spectrogram rows each
    H_m    = BiLSTM_m(DP(X_m))
    h_m    = sum_t mu_t H_m,t,   mu = softmax_t(w_m^T tanh(W_m H_m,t))
    z      = fusion(h_1, ..., h_M)                       concatenation, gates, bilinear, ...
    logits = W DP(relu(z))

The sources could not be read in full; the form above is ours, attention over time and the choice of fusions with it.
With ``kind`` rnn or gru it is the recurrent row of the same table. Steps that are not valid leave the state as it is; a
missing modality has h_m = 0, and the fusions say what they do without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from flax import nnx

from avjax.models import System
from avjax.nn.encoders import Encoder, FrameConv, SpectrogramConv
from avjax.nn.fusion import FUSIONS, Tokens, present
from avjax.nn.gates import AttentionPool
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier
from avjax.nn.temporal import Recurrent
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="CNN-BiLSTM-fusion",
    source="after [62], [64], [65] and others",
    mechanism="self",
    fusion="hybrid",
    architecture="CNN-BiLSTM-fusion",
    task="emotion and personality recognition",
    corpora=("RAVDESS", "CREMA-D", "First Impressions"),
    metrics=("accuracy", "1 - MAE"),
    use="little data, short clips, and cues that lie in the order of events rather than in one moment",
    avoid="sequences of many hundred steps: recurrence is slow there, and forgets",
    ours="the whole form; the sources agree in its three stages only",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: convolutional encoders.
      classes: head -> number of outputs.
      width: of the tokens and of the fused vector.
      kind: of the recurrent cells.
      hidden: their units in each direction.
      layers: of the recurrent models.
      attention: width of the hidden layer of the scores of attention over time.
      fusion: of the vectors, as in hybrid_fusion.py.
      dropout: of the tokens, between recurrent layers, and of the fused vector.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 128
    kind: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden: int = 128
    layers: int = 1
    attention: int = 64
    fusion: Literal["concat", "sum", "mean", "gated", "film", "mmtm", "bilinear", "low_rank", "tensor"] = "concat"
    dropout: float = 0.3

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 3 s of sound, 300 x 64 log-mel bands, and 75 faces of 96 x 96."""
        audio = SpectrogramConv("audio", (300, 64), channels=(32, 64, 128), step=4)
        video = FrameConv("video", (75, 96, 96, 3), channels=(16, 32, 64, 128))
        return cls((audio, video), {"emotion": 8})

    @classmethod
    def tiny(cls) -> Config:
        audio = SpectrogramConv("audio", (8, 4), channels=(8,), step=2)
        video = FrameConv("video", (3, 4, 4, 3), channels=(8,))
        return cls((audio, video), {"emotion": 3}, width=8, hidden=8, attention=8, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> CNNBiLSTM:
        return CNNBiLSTM(self, rngs=rngs)


class CNNBiLSTM(AudioVisualModel):
    """Convolutions, then recurrence, then fusion; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        names, width = self.modalities, 2 * config.hidden

        def recurrent() -> Recurrent:
            options = {"kind": config.kind, "layers": config.layers, "dropout": config.dropout}
            return Recurrent(config.width, config.hidden, **options, rngs=rngs)

        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.recurrent = nnx.Dict({m: recurrent() for m in names})
        self.pool = nnx.Dict({m: AttentionPool(width, config.attention, rngs=rngs) for m in names})
        self.fusion = FUSIONS[config.fusion](names, [width] * len(names), config.width, rngs=rngs)
        self.classify = Classifier(config.width, config.classes, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """H_m of every modality."""
        tokens = super().encode(batch, keep)
        return {
            m: stream.replace(values=self.recurrent[m](self.dropout(stream.values), stream.valid))
            for m, stream in tokens.items()
        }

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From H_m to the logits; ``aux["attention_over_time"]`` holds mu, modality -> [B, N]."""
        tokens = self.hidden(tokens, keep)
        vectors = {m: self.pool[m](tokens[m].values, tokens[m].valid) for m in self.modalities}
        weights = {m: self.pool[m].weights(tokens[m].values, tokens[m].valid) for m in self.modalities}
        z = self.dropout(nnx.relu(self.fusion(vectors, present(tokens))))
        return Output(logits=self.classify(z), tokens=tokens, aux={"attention_over_time": weights})
