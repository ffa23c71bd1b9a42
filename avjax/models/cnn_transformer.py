"""CNN, then transformer: convolutional features, attention within and across modalities, and an LSTM over the result.

Huang, Tao, Liu, Lian, Niu: Multimodal Transformer Fusion for Continuous Emotion Recognition, ICASSP 2020; with it the
survey's row of convolutions followed by transformers.

    X_m    = CNN_m(x_m)
    E_m    = LN(Block_L(... Block_1(X_m + P_m)))          attention within a modality
    C_m    = Block_m(E_m, E_others)                       sound asks picture, picture asks sound
    J_t    = [C_1,t; ...; C_M,t]                          in segments of equal length
    y_t    = W DP(LSTM(J)_t),   logits = mean_t y_t       or W DP(relu(W_J J_t)) without the LSTM

The paper's, from its abstract: encoded modalities, multi-head attention between them, and a transformer with an LSTM
behind it as the best variant. The source could not be read in full; the form above is ours: which blocks, both
directions, segments, and that a missing modality is nobody to ask and 0 in J.

The paper's numbers are continuous: train with ``Regression(kind="ccc")``. ``aux["segments"]`` holds y_t, ``valid``
[B, T] and head -> [B, T, K].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders import Conv1dEncoder, Encoder
from avjax.nn.fusion import CoAttentionFusion, Tokens
from avjax.nn.heads import RegressionHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import mean_pool
from avjax.nn.segments import aligned
from avjax.nn.stack import Stack
from avjax.nn.temporal import Recurrent, TemporalTransformer
from avjax.nn.transformer import Block, Size
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="CNN-Transformer",
    source="Huang et al. 2020 [42]",
    mechanism="cross",
    fusion="hybrid",
    architecture="CNN-Transformer",
    task="continuous emotion regression",
    corpora=("AVEC 2017 (SEWA)",),
    metrics=("CCC",),
    use="values that change in the course of a clip, from features of both modalities at a low rate",
    avoid="the modalities say independent things: fusion of decisions costs less",
    ours="blocks, directions and widths; only the idea could be read",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: convolutional encoders.
      classes: head -> number of outputs.
      size: of the transformers within and across modalities.
      segments: T.
      across: layers of attention across modalities.
      temporal: what follows: an LSTM of ``hidden`` units, or one layer of as many with nothing between segments.
      bounds: (lo, hi), which the outputs never leave; None for logits.
      dropout: of residual branches, feed-forward layers and the hidden units.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = Size(128, 2, 4)
    segments: int = 50
    across: int = 1
    temporal: Literal["lstm", "none"] = "lstm"
    hidden: int = 64
    bounds: tuple[float, float] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.modalities) < 2:
            raise ValueError("attention across modalities needs two of them or more")

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours for 5 s at 10 Hz: 88 functionals of sound, 512 features of a face."""
        audio = Conv1dEncoder("audio", (50, 88), channels=(128,))
        video = Conv1dEncoder("video", (50, 512), channels=(128,))
        return cls((audio, video), {"arousal": 1, "valence": 1}, bounds=(-1.0, 1.0))

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Conv1dEncoder("audio", (6, 4), channels=(8,)), Conv1dEncoder("video", (4, 5), channels=(8,))
        return cls((audio, video), {"emotion": 3}, Size(8, 1, 2), segments=4, hidden=8, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> CNNTransformer:
        return CNNTransformer(self, rngs=rngs)


class CNNTransformer(AudioVisualModel):
    """Convolutions, transformers within and across modalities, LSTM; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size, dropout = config.size, config.dropout
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        self.segments = config.segments
        self.within = nnx.Dict(
            {
                e.modality: TemporalTransformer(size, e.tokens, dropout=dropout, name=f"within_{e.modality}", rngs=rngs)
                for e in config.modalities
            }
        )

        def layer() -> CoAttentionFusion:
            return CoAttentionFusion({m: Block(size, dropout=dropout, rngs=rngs) for m in names}, names)

        self.across = Stack("across", [layer() for _ in range(config.across)])
        joint, hidden = len(names) * size.width, config.hidden
        lstm = config.temporal == "lstm"
        self.recurrent = nnx.data(Recurrent(joint, hidden, bidirectional=False, rngs=rngs) if lstm else None)
        self.join = nnx.data(None if lstm else Dense(joint, hidden, axes=(EMBED, HIDDEN), rngs=rngs))
        self.head = RegressionHead(hidden, config.classes, bounds=config.bounds, dropout=dropout, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """E_m of every modality."""
        tokens = super().encode(batch, keep)
        return {m: stream.replace(values=self.within[m](stream.values, stream.valid)) for m, stream in tokens.items()}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From E_m to y_t and their mean."""
        tokens, _ = self.across(self.hidden(tokens, keep))
        steps = aligned(tokens, self.segments)
        joint = jnp.concatenate([masked(steps[m].values, steps[m].valid) for m in self.modalities], axis=-1)
        valid = jnp.stack([steps[m].valid for m in self.modalities]).any(axis=0)
        h = nnx.relu(self.join(joint)) if self.recurrent is None else self.recurrent(joint, valid)
        y = self.head(h)
        logits = {head: mean_pool(numbers, valid) for head, numbers in y.items()}
        return Output(logits=logits, tokens=tokens, aux={"segments": {"valid": valid, **y}})
