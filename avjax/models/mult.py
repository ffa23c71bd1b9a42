"""MulT, the multimodal transformer for unaligned sequences.

Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov: Multimodal Transformer for Unaligned Multimodal Language Sequences,
ACL 2019. For every target modality t and the others s:

    X_m    =  DP(sqrt(d) Conv1d(input_m) + positions)                    encoder, section 3.1
    Z_st   =  CrossModalTransformer(X_t, X_s)                            keys and values are X_s at every layer
    M_t    =  LN(Transformer_t([Z_st, s != t]))[last]                    width (M - 1) d
    h      =  [M_1; ...; M_M],   logits = W (h + W_2 DP(relu(W_1 h)))

The paper's: everything above; 5 layers and heads across, 3 or more within, causal masks in both, convolutions of width
1 to 5. The release's: the mask triu(1 + |N_s - N_t|), positions that count from 1 and skip padding. With two modalities
it is the audio-visual version. Ours: a missing source leaves Z_st = X_t, a missing target gives M_t = 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense, layer_norm
from avjax.nn.encoders import Conv1dEncoder, Encoder
from avjax.nn.fusion import CausalLayer, Tokens
from avjax.nn.fusion.directional import CrossModalTransformer
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, last_pool
from avjax.nn.positions import counted_sinusoidal
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, Size
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="MulT",
    source="Tsai et al. 2019 [15]",
    mechanism="cross",
    fusion="hybrid",
    architecture="Transformer",
    task="sentiment regression, emotion classification",
    corpora=("CMU-MOSI", "CMU-MOSEI", "IEMOCAP"),
    metrics=("MAE", "Corr", "Acc7", "Acc2", "F1"),
    use="short sequences of features that are not aligned in time",
    avoid="long sequences or many modalities: every ordered pair has a transformer of its own",
    ours="what a missing modality leaves",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders; ``Conv1dEncoder`` without channels is the paper's.
      classes: head -> number of outputs.
      width: d.
      heads: of every transformer.
      depth: layers of the transformers across modalities, and ``memory_depth`` of those within.
      dropout: of residual branches and feed-forward layers, and of the embeddings.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 30
    heads: int = 5
    depth: int = 5
    memory_depth: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if len(self.modalities) < 2:
            raise ValueError("MulT needs two modalities or more")

    @classmethod
    def paper(cls) -> Config:
        """CMU-MOSEI, unaligned: 50 words, 500 steps of sound, 500 of pictures."""
        text, audio = Conv1dEncoder("text", (50, 300), size=1), Conv1dEncoder("audio", (500, 74), size=1)
        return cls((text, audio, Conv1dEncoder("video", (500, 35), size=1)), {"sentiment": 1})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Conv1dEncoder("audio", (6, 4), size=3), Conv1dEncoder("video", (4, 5), size=1)
        return cls((audio, video), {"emotion": 3}, width=16, heads=2, depth=1, memory_depth=1)

    def build(self, rngs: nnx.Rngs) -> MulT:
        return MulT(self, rngs=rngs)


class MulT(AudioVisualModel):
    """Multimodal transformer; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        names, dropout = self.modalities, config.dropout
        memory = Size((len(names) - 1) * config.width, config.memory_depth, config.heads)
        across = Size(config.width, config.depth, config.heads)

        def within(target: str) -> nnx.Module:
            blocks = [Block(memory, dropout=dropout, activation=nnx.relu, rngs=rngs) for _ in range(memory.depth)]
            return Stack(f"memory_{target}", [CausalLayer(block, target) for block in blocks])

        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.across = nnx.Dict(
            {
                f"{s}_to_{t}": CrossModalTransformer(across, source=s, target=t, dropout=dropout, rngs=rngs)
                for t in names
                for s in names
                if s != t
            }
        )
        self.within = nnx.Dict({t: within(t) for t in names})
        self.norm = nnx.Dict({t: layer_norm(memory.width, rngs) for t in names})
        total = len(names) * memory.width
        self.up = Dense(total, total, axes=(EMBED, HIDDEN), rngs=rngs)
        self.down = Dense(total, total, axes=(HIDDEN, EMBED), rngs=rngs)
        self.classify = Classifier(total, config.classes, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """X_m of every modality."""
        return {m: self._positioned(stream) for m, stream in super().encode(batch, keep).items()}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From X_m to the logits."""
        tokens = self.hidden(tokens, keep)
        memories = {t: self._memory(t, tokens) for t in self.modalities}
        h = jnp.concatenate([last_pool(memories[t].values, memories[t].valid) for t in self.modalities], axis=-1)
        h = h + self.down(self.dropout(nnx.relu(self.up(h))))
        return Output(logits=self.classify(h), tokens=memories)

    def _positioned(self, stream: Stream) -> Stream:
        width = stream.values.shape[-1]
        values = math.sqrt(width) * stream.values + counted_sinusoidal(stream.valid, width).astype(stream.values.dtype)
        return stream.replace(values=masked(self.dropout(values), stream.valid))

    def _memory(self, target: str, tokens: Tokens) -> Stream:
        sources = [s for s in self.modalities if s != target]
        enriched = [self.across[f"{s}_to_{target}"](tokens[target], tokens[s]) for s in sources]
        joined = enriched[0].replace(values=jnp.concatenate([stream.values for stream in enriched], axis=-1))
        result, _ = self.within[target]({target: joined})
        return joined.replace(values=self.norm[target](result[target].values))
