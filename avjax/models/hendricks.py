"""Multimodal transformers that differ in their attention alone.

Hendricks, Mellor, Schneider, Alayrac, Nematzadeh: Decoupling the Role of Data, Attention, and Losses in Multimodal
Transformers, TACL 2021. L layers over the tokens X_m of every modality m, each with a class token:

    merged          X_m <- Block_m(X_m, [X_a | X_v])              keys of both, weights of its own
    co              X_m <- Block_m(X_m, X_other)                  keys of the other alone (ViLBERT)
    asymmetric      X_m <- Block_m(X_m, X_other) for one m,       X_other <- Block_other(X_other)
    single          X_m <- Block_m(X_m)
    single_stream   [X_a | X_v] <- Block([X_a | X_v])             keys of both, one set of weights (VisualBERT)
    mixed           L - 1 layers of single, then one of merged

    logits = W [LN(X_a)[class]; LN(X_v)[class]],   s = w^T [...]     s says whether the two are of one clip

The release's: the six attentions; 6 layers, 12 heads of 64, for images and text. Ours: pre-norm blocks, sound and
pictures in place of text and images, the concatenation in front of the heads, and what a missing modality leaves. The
matching of image and text becomes one of sound and picture: ``aux["losses"]["matching"]`` is the binary cross-entropy
of s for a clip and for its last modality exchanged with the neighbour's in the batch, and ``WithTerms`` weighs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import CLASSES, EMBED, Dense, layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, Patches, append_class_token
from avjax.nn.fusion import (
    AsymmetricFusion,
    CoAttentionFusion,
    CrossAttentionFusion,
    Layer,
    MergedFusion,
    Tokens,
    UnimodalLayer,
    present,
)
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier
from avjax.nn.stack import Stack
from avjax.nn.statistics import returning_records
from avjax.nn.transformer import Block, Size
from avjax.objectives.rows import rows_mean
from avjax.streams import Batch, Mean, Output, Stream

SYSTEM = System(
    name="decoupled multimodal transformers",
    source="Hendricks et al. 2021 [69]",
    mechanism="co",
    fusion="hybrid",
    architecture="Transformer",
    task="retrieval of images by text; here classification and matching",
    corpora=("Conceptual Captions", "Flickr30k"),
    metrics=("R@1",),
    use="to compare kinds of attention between modalities with everything else equal",
    avoid="long sequences: attention is over all tokens of both modalities",
    ours="pre-norm blocks, sound and pictures in place of text and images, and what a missing modality leaves",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of two modalities; their order is the model's.
      classes: head -> number of classes.
      size: of the transformer.
      attention: how modalities meet.
      attending: the modality that asks the other where attention is asymmetric.
      matching: whether the model learns which sound and picture belong together.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = Size(768, 6, 12)
    attention: Literal["merged", "co", "asymmetric", "single", "single_stream", "mixed"] = "merged"
    attending: str = "audio"
    matching: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        names = [encoder.modality for encoder in self.modalities]
        if len(names) != 2 or self.attending not in names:
            raise ValueError(f"attention is between two modalities, one of which is {self.attending}, not {names}")

    @classmethod
    def paper(cls) -> Config:
        """The transformer of the release, over 8 s of sound, 800 x 128, and 8 frames of 224 x 224."""
        audio, video = Patches("audio", (800, 128), (16, 16)), Patches("video", (8, 224, 224, 3), (1, 16, 16))
        return cls((audio, video), {"event": 527})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Patches("audio", (4, 8), (2, 4)), Patches("video", (2, 8, 8, 3), (1, 4, 4))
        return cls((audio, video), {"emotion": 3}, Size(16, 1, 2))

    def build(self, rngs: nnx.Rngs) -> DecoupledTransformer:
        return DecoupledTransformer(self, rngs=rngs)


class DecoupledTransformer(AudioVisualModel):
    """A transformer of two modalities by its attention; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size = config.size
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        self.class_token = nnx.Dict({m: learned_tokens(1, size.width, rngs) for m in names})

        def block() -> Block:
            return Block(size, dropout=config.dropout, rngs=rngs)

        def layer(kind: str) -> Layer:
            match kind:
                case "merged":
                    return CrossAttentionFusion({m: block() for m in names}, names)
                case "co":
                    return CoAttentionFusion({m: block() for m in names}, names)
                case "asymmetric":
                    return AsymmetricFusion(config.attending, {m: block() for m in names}, names)
                case "single":
                    return UnimodalLayer({m: block() for m in names}, names)
                case "single_stream":
                    return MergedFusion(block(), names)

        kinds = [config.attention] * size.depth
        if config.attention == "mixed":
            kinds = ["single"] * (size.depth - 1) + ["merged"]
        self.layers = Stack("layers", [layer(kind) for kind in kinds])
        self.norm = layer_norm(size.width, rngs)
        self.classify = Classifier(2 * size.width, config.classes, rngs=rngs)
        match_head = Dense(2 * size.width, 1, axes=(EMBED, CLASSES), rngs=rngs) if config.matching else None
        self.match = nnx.data(match_head)

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """With the loss of matching, where the model has it."""
        tokens = self.encode(batch, keep)
        output = self.fuse(tokens)
        if self.match is None:
            return output
        last = self.modalities[-1]
        exchanged = tokens | {last: _rolled(tokens[last])}
        # What attention reports is of the clips themselves.
        other, _ = returning_records(self.fuse)(exchanged)
        term = self._matching(output, other, batch, tokens, exchanged)
        return dataclasses.replace(output, aux={**output.aux, "losses": {"matching": term}})

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """Each modality's tokens and its class token."""
        tokens = super().encode(batch, keep)
        return {m: append_class_token(tokens[m], self.class_token[m][...]) for m in self.modalities}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """All layers, to the logits; ``aux["matching"]`` [B] is s."""
        tokens, _ = self.layers(self.hidden(tokens, keep))
        tokens = {m: tokens[m].replace(values=self.norm(tokens[m].values)) for m in self.modalities}
        there = present(tokens)
        joined = jnp.concatenate([masked(tokens[m].values[:, -1], there[m]) for m in self.modalities], axis=-1)
        aux = {} if self.match is None else {"matching": self.match(joined)[:, 0].astype(jnp.float32)}
        return Output(self.classify(joined), tokens, aux=aux)

    def _matching(self, output: Output, other: Output, batch: Batch, tokens: Tokens, exchanged: Tokens) -> Mean:
        """-log sigmoid(s) - log sigmoid(-s of the exchanged), over the rows with both modalities in both."""
        rows = jax.nn.softplus(-output.aux["matching"]) + jax.nn.softplus(other.aux["matching"])
        weight, index = jnp.asarray(batch.weight), jnp.asarray(batch.index)
        counts = jnp.stack([*present(tokens).values(), *present(exchanged).values()]).all(axis=0)
        # A batch of one row has no neighbour, and a filler row is none.
        counts = counts & (jnp.roll(index, 1) != index) & (jnp.roll(weight, 1) > 0)
        return rows_mean(rows, weight * counts)


def _rolled(stream: Stream) -> Stream:
    """Every row the one before it."""
    values, valid, start = (jnp.roll(x, 1, axis=0) for x in (stream.values, stream.valid, stream.start))
    return stream.replace(values=values, valid=valid, start=start)
