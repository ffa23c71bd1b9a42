"""HALNet, fusion level by level and in the space of labels.

    X_m^0  = encoder_m(x_m),   X_m^k = Transformer_k(means of groups of X_m^(k-1))     the last group is all of them
    h      <- h + MHA_k(LN h, LN [X_1^k | ... | X_M^k]),   k = 0 ... K                 progressive, from local to global
    l_m    = W_m mean_n X_m^K,   l = W vec(softmax(l_1) x ... x softmax(l_M))          higher order, in label space
    logits = log (softmax(W LN h) + softmax(l)) / 2                                    dual prediction

The paper's, from its abstract: hierarchical fusion of features of several levels with attention, cross-modal fusion of
higher order at label space, and a dual prediction pattern. The source could not be read in full; the form above is
ours, with h a learned vector at first. A missing modality gives a level nothing, and all its classes are as likely.

The logits of both predictions are in ``aux["predictions"]``, ``features`` and ``labels``; those of each modality in
``head/modality``, with a loss of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.dense import layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import LabelSpaceFusion, Tokens, present
from avjax.nn.fusion.decision import DecisionFusion
from avjax.nn.heads import PerModalityHeads
from avjax.nn.hierarchy import Hierarchy, Level, ProgressiveAttention
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_pool
from avjax.nn.statistics import site
from avjax.nn.temporal import TemporalTransformer
from avjax.nn.transformer import Size
from avjax.streams import Output

SYSTEM = System(
    name="HALNet",
    source="HALNet [26]",
    mechanism="hierarchical",
    fusion="hybrid",
    architecture="Transformer",
    task="classification",
    corpora=(),
    metrics=("accuracy", "F1"),
    use="few classes, and cues of different length: a moment, a phrase, a whole clip",
    avoid="many classes or modalities: the label space has as many entries as classes to the power of modalities",
    ours="the whole form but for its three ideas",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of classes.
      size: of the transformer of each level.
      groups: tokens that make one of the next level, level by level; one more level pools what is left.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = Size(128, 1, 4)
    groups: tuple[int, ...] = (5, 4)
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 100 steps of sound and of face features."""
        audio, video = Precomputed("audio", (100, 128)), Precomputed("video", (100, 512))
        return cls((audio, video), {"emotion": 6})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (4, 3))
        return cls((audio, video), {"emotion": 3}, Size(8, 1, 2), groups=(2,), dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> HALNet:
        return HALNet(self, rngs=rngs)


class HALNet(AudioVisualModel):
    """Fusion of features level by level, fusion of labels, and their mean; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size = config.size
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities

        def hierarchy(encoder: Encoder) -> Hierarchy:
            levels, count = [], encoder.tokens
            for number, group in enumerate(config.groups):
                count = -(-count // group)
                name = f"level_{number + 1}_{encoder.modality}"
                model = TemporalTransformer(size, count, dropout=config.dropout, name=name, rngs=rngs)
                levels.append(Level(mean_pool, group=group, model=model))
            return Hierarchy([*levels, Level(mean_pool)])

        self.hierarchy = nnx.Dict({encoder.modality: hierarchy(encoder) for encoder in config.modalities})
        self.start = learned_tokens(1, size.width, rngs)
        self.progress = ProgressiveAttention(size.width, size.heads, len(config.groups) + 2, rngs=rngs)
        self.norm = layer_norm(size.width, rngs)
        self.classify = Classifier(size.width, config.classes, rngs=rngs)
        self.classify_own = PerModalityHeads(names, size.width, config.classes, shared=False, rngs=rngs)
        self.labels = nnx.Dict({head: LabelSpaceFusion(names, k, rngs=rngs) for head, k in config.classes.items()})
        predictions = ("features", "labels")
        self.average = nnx.Dict(
            {head: DecisionFusion("average", predictions, k, rngs=rngs) for head, k in config.classes.items()}
        )

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From X_m^0 to both predictions and their mean."""
        tokens = self.hidden(tokens, keep)
        there = present(tokens)
        levels = {m: self.hierarchy[m](tokens[m].values, tokens[m].valid) for m in self.modalities}
        joined = [
            tuple(jnp.concatenate(parts, axis=1) for parts in zip(*level, strict=True))
            for level in zip(*levels.values(), strict=True)
        ]
        rows, values = next(iter(there.values())).shape[0], next(iter(tokens.values())).values
        h = jnp.broadcast_to(self.start[...].astype(values.dtype), (rows, 1, values.shape[-1]))
        with site("progress"):
            h = self.progress(h, jnp.ones((rows, 1), bool), joined)
        features = self.classify(self.norm(h[:, 0]))
        own = self.classify_own({m: levels[m][-1][0][:, 0] for m in self.modalities}, there)
        labels = {head: self.labels[head]({m: own[m][head] for m in own}, there) for head in features}
        logits = {head: self.average[head]({"features": features[head], "labels": labels[head]}) for head in features}
        logits |= {f"{head}/{m}": own[m][head] for head in features for m in own}
        return Output(logits=logits, tokens=tokens, aux={"predictions": {"features": features, "labels": labels}})
