"""Late fusion: modalities meet in their logits alone. With one modality: the single-modality baseline.

    X_m <- Block_m^l(X_m), l < L;   logits_m = W_m LN_m(X_m)[class];   logits = mean_m logits_m

The oldest way to fuse, and the yardstick for every other: trained jointly here; separately trained models are
averaged by ``avjax eval RUN RUN --average NAME``. The encoder of each modality is MBT's (Nagrani et al. 2021); MBT
with its fusion layer at its depth differs in sharing the last norm and the classifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx

from avjax.models import System
from avjax.nn.dense import layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, Patches, append_class_token
from avjax.nn.fusion import Tokens, UnimodalLayer, present
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, average_logits
from avjax.nn.stack import Stack
from avjax.nn.transformer import SIZES, Block, Size, stochastic_depth_rates
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="late fusion",
    source="baseline",
    mechanism="self",
    fusion="late",
    architecture="Transformer",
    task="classification",
    corpora=(),
    metrics=("accuracy",),
    use="modalities differ in reliability or timing, or one is often missing",
    avoid="what matters is only seen by comparing modalities, such as whether they agree",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: how each modality is cut into tokens; one alone makes the single-modality baseline.
      classes: head -> number of classes.
      size: of every modality's transformer; ``SIZES`` has Ti, S, B and L.
      dropout: of residual branches and feed-forward layers.
      stochastic_depth: drop rate of the last layer; it rises linearly from 0.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = SIZES["B"]
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    @classmethod
    def paper(cls) -> Config:
        """MBT's encoders for AudioSet, ViT-B, so that the two differ in their fusion alone."""
        audio, video = Patches("audio", (800, 128), (16, 16)), Patches("video", (8, 224, 224, 3), (1, 16, 16))
        return cls((audio, video), {"event": 527}, stochastic_depth=0.3)

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Patches("audio", (4, 8), (2, 4)), Patches("video", (2, 8, 8, 3), (1, 4, 4))
        return cls((audio, video), {"emotion": 3}, Size(16, 2, 2))

    def build(self, rngs: nnx.Rngs) -> LateFusion:
        return LateFusion(self, rngs=rngs)


class LateFusion(AudioVisualModel):
    """Late fusion of one transformer a modality; see the module's docstring."""

    sets = True

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size = config.size
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        rates = stochastic_depth_rates(config.stochastic_depth, size.depth)

        def block(rate: float) -> Block:
            return Block(size, dropout=config.dropout, stochastic_depth=rate, rngs=rngs)

        self.class_token = nnx.Dict({m: learned_tokens(1, size.width, rngs, deviation=0.0) for m in names})
        self.layers = Stack("unimodal", [UnimodalLayer({m: block(rate) for m in names}, names) for rate in rates])
        self.norm = nnx.Dict({m: layer_norm(size.width, rngs) for m in names})
        self.classify = nnx.Dict({m: Classifier(size.width, config.classes, rngs=rngs) for m in names})

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """All layers of each modality."""
        tokens = super().encode(batch, keep)
        tokens = {m: append_class_token(tokens[m], self.class_token[m][...]) for m in self.modalities}
        tokens, _ = self.layers(tokens)
        return {m: tokens[m].replace(values=self.norm[m](tokens[m].values)) for m in self.modalities}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """The mean of the logits of the modalities that a row has."""
        tokens = self.hidden(tokens, keep)
        logits = {m: self.classify[m](tokens[m].values[:, -1]) for m in self.modalities}
        return Output(logits=average_logits(logits, present(tokens)), tokens=tokens, fused=False)
