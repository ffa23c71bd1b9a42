"""Hybrid fusion: each modality goes through a model of its own, and their summaries meet in the middle.

    h_m    = mean_n Temporal_m(X_m)                    each modality by itself
    z      = fusion(h_1, ..., h_M)                     concatenation, sum, gates, FiLM, bilinear, ...
    logits = W relu(z),   logits_m = W_m h_m

What the field calls model-level fusion, and compares when a new fusion of vectors is proposed: every one of them fits
here, so that they differ in nothing else. With ``decisions`` the modalities' own logits join the vote.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from flax import nnx

from avjax.models import System
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import FUSIONS, Tokens, present
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_of_present, mean_pool
from avjax.nn.temporal import Recurrent
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="hybrid fusion",
    source="baseline; Peng et al. 2022 for the fusions that it compares",
    mechanism="none",
    fusion="hybrid",
    architecture="BiLSTM",
    task="classification",
    corpora=("CREMA-D", "Kinetics-Sounds"),
    metrics=("accuracy",),
    use="a strong and cheap baseline, and the place to compare fusions of vectors",
    avoid="what matters happens at one moment: pooling over time comes before the modalities meet",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of outputs.
      width: of the tokens and of the fused vector.
      fusion: of the vectors; gated, film and mmtm as in their own docstrings.
      decisions: the logits are the mean of those of the fused vector and those of each modality.
      dropout: on the vectors.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 128
    fusion: Literal["concat", "sum", "mean", "gated", "film", "mmtm", "bilinear", "low_rank", "tensor"] = "concat"
    decisions: bool = False
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A common setting: sound and face features of a clip of 3 s."""
        return cls((Precomputed("audio", (300, 40)), Precomputed("video", (75, 512))), {"emotion": 6})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (4, 3))
        return cls((audio, video), {"emotion": 3}, width=8)

    def build(self, rngs: nnx.Rngs) -> HybridFusion:
        return HybridFusion(self, rngs=rngs)


class HybridFusion(AudioVisualModel):
    """A recurrent model for each modality, and a fusion of their means; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        names, width = self.modalities, config.width
        self.decisions = config.decisions
        self.temporal = nnx.Dict({m: Recurrent(width, width // 2, rngs=rngs) for m in names})
        self.fusion = FUSIONS[config.fusion](names, [width] * len(names), width, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.classify = Classifier(width, config.classes, rngs=rngs)
        self.classify_own = nnx.Dict({m: Classifier(width, config.classes, rngs=rngs) for m in names})

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """Each modality through its recurrent layers."""
        tokens = super().encode(batch, keep)
        return {m: s.replace(values=self.temporal[m](s.values, s.valid)) for m, s in tokens.items()}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """The logits, and those of each modality."""
        tokens = self.hidden(tokens, keep)
        there = present(tokens)
        vectors = {m: self.dropout(mean_pool(tokens[m].values, tokens[m].valid)) for m in self.modalities}
        logits = self.classify(nnx.relu(self.fusion(vectors, there)))
        own = {m: self.classify_own[m](vectors[m]) for m in self.modalities}
        if self.decisions:
            every = {m: there[m] for m in own} | {"fused": sum(there.values()) > 0}
            logits = {h: mean_of_present({m: own[m][h] for m in own} | {"fused": logits[h]}, every) for h in logits}
        return Output(logits=logits | {f"{h}/{m}": own[m][h] for h in logits for m in own}, tokens=tokens)
