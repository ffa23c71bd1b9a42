"""Early fusion: low-level features of all modalities side by side, segment by segment, and one network over them.

    x_t    = [x_t^1; ...; x_t^M]                        features of segment t
    h      = LSTM(W x),   both directions
    logits = W' mean_t h_t

The oldest fusion beside late fusion. Segments are equal stretches of time, so modalities of different rates meet; a
modality that a segment lacks is 0 there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import Tokens
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_pool
from avjax.nn.segments import aligned
from avjax.nn.temporal import Recurrent
from avjax.streams import Output

SYSTEM = System(
    name="early fusion",
    source="baseline",
    mechanism="none",
    fusion="early",
    architecture="BiLSTM",
    task="classification",
    corpora=(),
    metrics=("accuracy",),
    use="modalities are aligned, both are always there, and there is much data",
    avoid="one modality may be noisy or missing, or the two drift apart in time",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders, as plain as features allow: early fusion is before any network that is worth the name.
      classes: head -> number of outputs.
      width: of each modality's features.
      segments: of a clip.
      hidden: units of the LSTM, each way.
      layers: of it.
      dropout: before the LSTM and between its layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 128
    segments: int = 10
    hidden: int = 128
    layers: int = 1
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A common setting: 10 s of 40 mel bands at 100 Hz, and face features at 10 Hz."""
        return cls((Precomputed("audio", (1000, 40)), Precomputed("video", (100, 512))), {"emotion": 8})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (4, 3))
        return cls((audio, video), {"emotion": 3}, width=8, segments=3, hidden=8)

    def build(self, rngs: nnx.Rngs) -> EarlyFusion:
        return EarlyFusion(self, rngs=rngs)


class EarlyFusion(AudioVisualModel):
    """Features side by side, then a bidirectional LSTM; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        self.segments = config.segments
        self.join = Dense(len(self.modalities) * config.width, config.hidden, axes=(EMBED, HIDDEN), rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.recurrent = Recurrent(
            config.hidden, config.hidden, layers=config.layers, dropout=config.dropout, rngs=rngs
        )
        self.classify = Classifier(2 * config.hidden, config.classes, rngs=rngs)

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From features to logits."""
        tokens = aligned(self.hidden(tokens, keep), self.segments)
        joined = jnp.concatenate([masked(tokens[m].values, tokens[m].valid) for m in self.modalities], axis=-1)
        valid = jnp.stack([tokens[m].valid for m in self.modalities]).any(axis=0)
        h = self.recurrent(self.dropout(nnx.relu(self.join(joined))), valid)
        return Output(logits=self.classify(mean_pool(h, valid)), tokens=tokens)
