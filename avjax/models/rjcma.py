"""RJCMA, recursive joint cross-modal attention, and the recursive joint attention with an LSTM that it comes from.

Praveen, Alam: Recursive Joint Cross-Modal Attention for Multimodal Fusion in Dimensional Emotion Recognition, CVPR
workshops 2024. Praveen, Granger, Cardinal: Recursive Joint Attention for Audio-Visual Fusion in Regression Based
Emotion Recognition, ICASSP 2023. For L segments, X_m [L, d_m], J = [X_1; ...; X_M] [L, d]:

    X_m^0   = TCN_m(x_m)
    J'      = J Wq
    S_m     = tanh(X_m^T Wk_m J' / sqrt(d))                [d_m, d]
    U_m     = ReLU(tanh((X_m Wv_m) DP(S_m)))               [L, d]
    X_m    <- X_m + DP(ReLU(U_m W_m))                      l times, each with weights of its own
    h_t     = [X_1; ...; X_M]_t
    y_t     = W h_t + b,   logits = mean_t y_t

The releases': the equations; for RJCMA faces of 512, sound of 128, text of 768 features through a TCN with kernels of
5, L = 300 and the loss 1 - CCC: train with ``Regression(kind="ccc")``. ``Config.recursive_lstm()`` is the ICASSP
system: without a TCN, L2-normalised features, L = 16, and behind the recursion two layers of BiLSTM with a residual
embedding, h <- l2(BiLSTM(h) + W_e h), and 128 hidden units. RJCMA's release computes J' but goes on with J; we take
the equations.

Ours: dilations and dropout of the TCN, l = 2, where the LSTM's residual enters, features instead of the ICASSP
system's audio-guided attention to its feature maps; segments by the clock. What a modality lacks is 0 for the others.

``aux["segments"]`` holds y_t, ``valid`` [B, L] and head -> [B, L, K].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import RecursiveJointAttention, Tokens
from avjax.nn.heads import RegressionHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import l2_normalise, mean_pool
from avjax.nn.segments import aligned
from avjax.nn.stack import Stack
from avjax.nn.temporal import Recurrent, TemporalConvolution
from avjax.streams import Output, Stream

SYSTEM = System(
    name="RJCMA",
    source="Praveen and Alam 2024 [22]; Praveen et al. 2023",
    mechanism="co",
    fusion="hybrid",
    architecture="BiLSTM",
    task="continuous emotion regression",
    corpora=("Aff-Wild2",),
    metrics=("CCC",),
    use="two or three modalities of strong features in long windows of a fixed number of segments",
    avoid="wide features: every correlation is of all features with all, and windows cannot vary in length",
    ours="dilations of the TCN, number of recursions, where the LSTM's residual enters, missing modalities",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of values.
      widths: modality -> d_m.
      segments: L.
      recursions: l.
      front: before the recursion: a TCN for each modality, or features as they are, of unit length.
      dilations, kernel: of the TCN.
      lstm: layers of BiLSTM behind the recursion; 0 for none.
      lstm_hidden: its units in each direction.
      hidden: units of the regressor; 0 for a linear one.
      dropout: of the recursion and the regressor, and ``front_dropout`` of the TCN.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    widths: Mapping[str, int]
    segments: int = 300
    recursions: int = 2
    front: Literal["tcn", "unit"] = "tcn"
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    kernel: int = 5
    lstm: int = 0
    lstm_hidden: int = 256
    hidden: int = 0
    dropout: float = 0.1
    front_dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """RJCMA on Aff-Wild2: windows of 300 frames with sound, faces and text."""
        audio, video = Precomputed("audio", (300, 128)), Precomputed("video", (300, 512))
        widths = {"audio": 128, "video": 512, "text": 768}
        return cls((audio, video, Precomputed("text", (300, 768))), {"valence": 1, "arousal": 1}, widths)

    @classmethod
    def recursive_lstm(cls) -> Config:
        """The ICASSP 2023 system: 16 segments of sound and faces."""
        modalities = Precomputed("audio", (16, 512)), Precomputed("video", (16, 512))
        widths, options = {"audio": 512, "video": 512}, {"front": "unit", "lstm": 2, "hidden": 128}
        return cls(modalities, {"valence": 1, "arousal": 1}, widths, segments=16, **options)

    @classmethod
    def tiny(cls) -> Config:
        modalities, widths = (Precomputed("audio", (6, 5)), Precomputed("video", (3, 6))), {"audio": 8, "video": 6}
        options = {"dilations": (1,), "kernel": 3, "lstm": 1, "lstm_hidden": 4, "hidden": 16}
        return cls(modalities, {"emotion": 3}, widths, segments=3, dropout=0.0, front_dropout=0.0, **options)

    def build(self, rngs: nnx.Rngs) -> RJCMA:
        return RJCMA(self, rngs=rngs)


class RJCMA(AudioVisualModel):
    """Recursive joint cross-modal attention; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.widths, rngs=rngs)
        widths = {m: config.widths[m] for m in self.modalities}
        joint, dropout = sum(widths.values()), config.dropout
        self.segments = config.segments

        def tcn(width: int) -> TemporalConvolution:
            options = {"dilations": config.dilations, "size": config.kernel, "dropout": config.front_dropout}
            return TemporalConvolution(width, width, **options, rngs=rngs)

        self.front = nnx.data(nnx.Dict({m: tcn(w) for m, w in widths.items()}) if config.front == "tcn" else None)
        layers = [
            RecursiveJointAttention(widths, config.segments, dropout=dropout, rngs=rngs)
            for _ in range(config.recursions)
        ]
        self.recursion = Stack("recursion", layers)
        self.recurrent, self.embed = nnx.data(None), nnx.data(None)
        if config.lstm:
            self.recurrent = Recurrent(joint, config.lstm_hidden, layers=config.lstm, dropout=dropout, rngs=rngs)
            self.embed = Dense(joint, 2 * config.lstm_hidden, axes=(EMBED, HIDDEN), rngs=rngs)
            joint = 2 * config.lstm_hidden
        self.regress = nnx.Dict(
            {
                head: RegressionHead(joint, {head: count}, hidden=config.hidden, dropout=dropout, rngs=rngs)
                for head, count in config.classes.items()
            }
        )

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From x_m to y_t and their mean."""
        tokens = aligned(self.hidden(tokens, keep), self.segments)
        tokens, _ = self.recursion({m: self._front(m, tokens[m]) for m in self.modalities})
        valid = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        h = self._in_time(jnp.concatenate([tokens[m].values for m in self.modalities], axis=-1), valid)
        y = {head: regress(h)[head] for head, regress in self.regress.items()}
        logits = {head: mean_pool(numbers, valid) for head, numbers in y.items()}
        return Output(logits=logits, tokens=tokens, aux={"segments": {"valid": valid, **y}})

    def _front(self, modality: str, stream: Stream) -> Stream:
        if self.front is None:
            return stream.replace(values=l2_normalise(masked(stream.values, stream.valid)))
        return stream.replace(values=self.front[modality](stream.values, stream.valid))

    def _in_time(self, h: Float[Array, "B L C"], valid: Bool[Array, "B L"]) -> Float[Array, "B L _"]:
        if self.recurrent is None:
            return h
        return l2_normalise(masked(self.recurrent(h, valid) + self.embed(h), valid))
