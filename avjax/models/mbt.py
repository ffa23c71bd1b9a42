"""MBT, the multimodal bottleneck transformer.

Nagrani, Yang, Arnab, Jansen, Schmid, Sun: Attention Bottlenecks for Multimodal Fusion, NeurIPS 2021.

    l <  L_f:  X_m <- Block_m(X_m)                                 each modality m by itself
    l >= L_f:  [X_m | Z_m] <- Block_m([X_m | Z]),  Z <- mean_m Z_m     modalities meet in the bottleneck Z alone
    logits  =  mean_m W LN(X_m)[class]                              one classifier for all modalities

The paper's: everything above; L_f = 8 of 12 layers, 4 bottleneck tokens; vanilla cross-attention and merged
attention as alternatives to the bottleneck; the loss is the mean of the per-modality losses, so that each modality
can have its own mixup label. L_f = 0 is early fusion, L_f = L late fusion. Ours: a missing modality is left out of
both means. The release drops residual branches without rescaling, and so do we.

The paper reports 49.6 mAP on AudioSet (500k training clips), 64.1 % top-1 on VGGSound and 85.0 % on
Kinetics-Sounds, audio and video together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.models import System
from avjax.nn.dense import layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, Patches, append_class_token
from avjax.nn.fusion import BottleneckFusion, CrossAttentionFusion, MergedFusion, Tokens, UnimodalLayer, present
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, average_logits, mean_pool
from avjax.nn.stack import Stack
from avjax.nn.transformer import SIZES, Block, Size, stochastic_depth_rates
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="MBT",
    source="Nagrani et al. 2021 [8]",
    mechanism="bottleneck",
    fusion="hybrid",
    architecture="Transformer",
    task="video classification",
    corpora=("AudioSet", "VGGSound", "Kinetics-Sounds", "Kinetics-400", "Moments in Time", "Epic-Kitchens-100"),
    metrics=("mAP", "top-1", "top-5"),
    use="long token sequences of two or more modalities: fusion costs next to nothing beside the encoders",
    avoid="the modalities must be compared token by token, as for synchrony: a bottleneck of a few tokens loses it",
    ours="a missing modality is left out of the mean over modalities",
    reported="AudioSet 49.6 mAP (500k training clips), VGGSound 64.1 top-1, Kinetics-Sounds 85.0 top-1",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: how each modality is cut into tokens; their order is the model's.
      classes: head -> number of classes.
      size: of every modality's transformer; ``SIZES`` has Ti, S, B and L.
      fusion_layer: L_f, the first layer in which modalities meet; 0 to ``size.depth``.
      fusion: how they meet: through the bottleneck, by cross-attention, or in one merged sequence with shared
        weights.
      bottlenecks: B, number of bottleneck tokens.
      update: the bottleneck from all modalities at once (mean) or from one after the other (sequential).
      pool: classify each modality's class token (cls) or the mean of all tokens of all modalities (gap).
      shared_encoder: one set of weights for all modalities below ``fusion_layer`` too.
      dropout: of residual branches and feed-forward layers.
      stochastic_depth: drop rate of the last layer; it rises linearly from 0.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = SIZES["B"]
    fusion_layer: int = 8
    fusion: Literal["bottleneck", "cross", "merged"] = "bottleneck"
    bottlenecks: int = 4
    update: Literal["mean", "sequential"] = "mean"
    pool: Literal["cls", "gap"] = "cls"
    shared_encoder: bool = False
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.fusion_layer <= self.size.depth:
            raise ValueError(f"fusion_layer {self.fusion_layer} is not between 0 and the depth, {self.size.depth}")
        if self.fusion == "bottleneck" and self.bottlenecks < 1:
            raise ValueError("fusion through a bottleneck needs bottlenecks >= 1; for late fusion set fusion_layer")

    @classmethod
    def paper(cls) -> Config:
        """AudioSet: 8 s of sound, 800 x 128, and 8 frames of 224 x 224; ViT-B."""
        audio, video = Patches("audio", (800, 128), (16, 16)), Patches("video", (8, 224, 224, 3), (1, 16, 16))
        return cls((audio, video), {"event": 527}, stochastic_depth=0.3)

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Patches("audio", (4, 8), (2, 4)), Patches("video", (2, 8, 8, 3), (1, 4, 4))
        return cls((audio, video), {"emotion": 3}, Size(16, 2, 2), fusion_layer=1)

    def build(self, rngs: nnx.Rngs) -> MBT:
        return MBT(self, rngs=rngs)


class MBT(AudioVisualModel):
    """Multimodal bottleneck transformer; see the module's docstring."""

    sets = True

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width, depth = config.size.width, config.size.depth
        super().__init__(config.modalities, width, rngs=rngs)
        names = self.modalities
        self.pool = config.pool
        # With a learned bottleneck for all, the first fusion layer too has nothing of another modality in it.
        at_once = config.fusion == "bottleneck" and config.update == "mean"
        self.starts_alone = at_once and config.pool == "cls" and depth - config.fusion_layer > 1
        if config.pool == "cls":
            self.class_token = nnx.Dict({name: learned_tokens(1, width, rngs, deviation=0.0) for name in names})

        rates = stochastic_depth_rates(config.stochastic_depth, depth)

        def block(layer: int) -> Block:
            return Block(config.size, dropout=config.dropout, stochastic_depth=rates[layer], rngs=rngs)

        def blocks(layer: int) -> dict[str, Block]:
            shared = block(layer) if config.shared_encoder else None
            return {name: shared or block(layer) for name in names}

        def fusion(layer: int) -> nnx.Module:
            match config.fusion:
                case "bottleneck":
                    return BottleneckFusion(blocks(layer), names, sequential=config.update == "sequential")
                case "cross":
                    return CrossAttentionFusion(blocks(layer), names)
                case "merged":
                    return MergedFusion(block(layer), names)

        self.unimodal = Stack("unimodal", [UnimodalLayer(blocks(layer), names) for layer in range(config.fusion_layer)])
        self.fusion = Stack("fusion", [fusion(layer) for layer in range(config.fusion_layer, depth)])
        bottlenecks = config.bottlenecks if config.fusion == "bottleneck" and config.fusion_layer < depth else 0
        self.bottleneck = nnx.data(learned_tokens(bottlenecks, width, rngs) if bottlenecks else None)
        self.norm = layer_norm(width, rngs)
        self.classify = Classifier(width, config.classes, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """Each modality by itself, up to the fusion layer."""
        tokens = super().encode(batch, keep)
        if self.pool == "cls":
            tokens = {m: append_class_token(tokens[m], self.class_token[m][...]) for m in self.modalities}
        tokens, _ = self.unimodal(tokens)
        return tokens

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From the fusion layer to the logits; ``keep`` hides tokens from here on."""
        tokens = self.hidden(tokens, keep)
        tokens, _ = self.fusion(tokens, self._start(tokens[self.modalities[0]].values))
        tokens = {m: tokens[m].replace(values=self.norm(tokens[m].values)) for m in self.modalities}
        return Output(logits=self._logits(tokens), tokens=tokens, fused=self.pool == "gap")

    def alone(self, modality: str, tokens: Stream) -> Any:
        """The first fusion layer's [X_m | Z_m], where all start from the learned bottleneck."""
        if not self.starts_alone:
            return tokens
        return self.fusion[0].alone(modality, tokens, self._start(tokens.values))

    def logits(self, parts: Mapping[str, Any]) -> dict[str, Array]:
        """As ``fuse``; in the last layer nothing but the class tokens asks."""
        if not self.starts_alone:
            return super().logits(parts)
        tokens, updates = ({m: parts[m][i] for m in self.modalities} for i in range(2))
        bottleneck = self.fusion[0].meet(updates, present(tokens), self._start(tokens[self.modalities[0]].values))
        for layer in self.fusion[1:-1]:
            tokens, bottleneck = layer(tokens, bottleneck)
        last = self.fusion[-1]
        values = {m: self.norm(last.class_token(m, tokens[m], bottleneck)) for m in self.modalities}
        return self._of_class_tokens(values, tokens)

    def _start(self, like: Float[Array, "B N C"]) -> Float[Array, "B M C"] | None:
        """The bottleneck before the first fusion layer, the same in every row."""
        if self.bottleneck is None:
            return None
        learned = self.bottleneck[...].astype(like.dtype)
        return jnp.broadcast_to(learned, (like.shape[0], *learned.shape))

    def _logits(self, tokens: Tokens) -> dict[str, Array]:
        """``head``, and with class tokens ``head/modality``."""
        if self.pool == "gap":
            values = jnp.concatenate([tokens[m].values for m in self.modalities], axis=1)
            valid = jnp.concatenate([tokens[m].valid for m in self.modalities], axis=1)
            return self.classify(mean_pool(values, valid))
        return self._of_class_tokens({m: tokens[m].values[:, -1] for m in self.modalities}, tokens)

    def _of_class_tokens(self, values: Mapping[str, Float[Array, "B C"]], tokens: Tokens) -> dict[str, Array]:
        return average_logits({m: self.classify(values[m]) for m in self.modalities}, present(tokens))
