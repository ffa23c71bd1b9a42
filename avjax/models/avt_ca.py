"""AVT-CA, audio-visual transformer with cross-attention.

Dhanith, Venkatraman, Sharma, Malarvannan: Multimodal Emotion Recognition using Audio-Video Transformer Fusion with
Cross Attention, 2024.

    X_m    = Conv_m^1(encoder_m(x_m))                            first half of each branch
    A <- A + Block_a(A, V),   V <- V + Block_v(V, A)             intermediate transformer
    X_m    <- Conv_m^2(X_m)                                      second half
    h_m    = mean_t MHA(X_m)                                     one self-attention, shared by the modalities
    logits = W [h_a; h_v]

The release's: everything above, 8 heads, EfficientFace of 15 frames before convolutions of 64, 64, 128 and 128
channels, MFCC before 64, 128, 256 and 128, batch normalisation, ReLU and, for sound, a maximum over two steps behind
each. What the paper names cross-attention is the last stage in the release, and attends within a modality. Ours:
encoders end in tokens of one width, so the convolutions of pictures and all second halves are applied to tokens, and
the transformer in between is as wide for pictures (64 in the release) as for sound, 128; convolutions keep the number
of steps; a missing modality is nobody to ask and has h_m = 0.

The release trains on batches four times over: clean, both modalities faded, and without either one, which is
``Frontend(augment=Augment(dropout=SoftHard()))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.models import System
from avjax.nn.attention import self_mask
from avjax.nn.convolution import masked
from avjax.nn.encoders import Conv1dBlock, Conv1dEncoder, EfficientFace, Encoder, Precomputed
from avjax.nn.fusion import CoAttentionFusion, Tokens
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_pool
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, MultiHeadAttention, Size
from avjax.streams import Batch, Output, Stream
from kernels.attention import Layout

SYSTEM = System(
    name="AVT-CA",
    source="Dhanith et al. 2024 [84]",
    mechanism="cross",
    fusion="hybrid",
    architecture="CNN-Transformer",
    task="emotion recognition",
    corpora=("CMU-MOSEI", "RAVDESS", "CREMA-D"),
    metrics=("accuracy", "F1"),
    use="short clips of a talking face and little data: a small network that knows faces before it is trained",
    avoid="order in time matters: no layer knows positions beyond what convolutions of three steps see",
    ours="one width of both branches, padded convolutions, what a missing modality leaves",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders, up to where convolutions over tokens begin.
      classes: head -> number of classes.
      width: of the tokens where modalities meet.
      heads: of both attentions.
      first: modality -> channels of the convolutions before the modalities meet, the last being ``width``; none for a
        modality whose encoder has them itself.
      second: modality -> those of the convolutions behind, the last being ``width``.
      pool: modality -> steps of the maximum behind each convolution; 1 unless given.
      dropout: of the transformer in between.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 128
    heads: int = 8
    first: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    second: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    pool: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for modality, channels in (*self.first.items(), *self.second.items()):
            if channels[-1] != self.width:
                raise ValueError(f"{modality}: channels {channels} do not end in the width, {self.width}")

    @classmethod
    def paper(cls) -> Config:
        """RAVDESS: 15 frames of 224 x 224, and 10 MFCC of 3.6 s; 156 steps of them are ours."""
        audio = Conv1dEncoder("audio", (156, 10), channels=(64, 128), pool=2)
        second = {"audio": (256, 128), "video": (128, 128)}
        video = EfficientFace("video", (15, 224, 224, 3))
        return cls((audio, video), {"emotion": 8}, first={"video": (64, 128)}, second=second, pool={"audio": 2})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Conv1dEncoder("audio", (6, 4), channels=(8,), pool=2), Precomputed("video", (4, 5))
        second = {"audio": (8,), "video": (8,)}
        return cls((audio, video), {"emotion": 3}, 8, 2, first={"video": (8,)}, second=second, pool={"audio": 2})

    def build(self, rngs: nnx.Rngs) -> AVTCA:
        return AVTCA(self, rngs=rngs)


class Convolutions(nnx.Module):
    """Convolutions over the tokens of a modality, as many steps after as before."""

    def __init__(self, inputs: int, channels: Sequence[int], *, pool: int, rngs: nnx.Rngs):
        widths = (inputs, *channels)
        self.blocks = nnx.List(
            [Conv1dBlock(i, o, pool=pool, rngs=rngs) for i, o in zip(widths, channels, strict=False)]
        )

    def __call__(self, tokens: Stream) -> Stream:
        x = masked(tokens.values, tokens.valid)
        for block in self.blocks:
            x, _ = block(x, tokens.valid)
        return tokens.replace(values=x)


class AVTCA(AudioVisualModel):
    """Two convolutional branches with a transformer between their halves; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width = config.width
        super().__init__(config.modalities, width, rngs=rngs)
        names = self.modalities

        def half(channels: Mapping[str, tuple[int, ...]]) -> nnx.Module:
            return nnx.Dict(
                {m: Convolutions(width, channels.get(m, ()), pool=config.pool.get(m, 1), rngs=rngs) for m in names}
            )

        self.first = half(config.first)
        blocks = {m: Block(Size(width, 1, config.heads), dropout=config.dropout, rngs=rngs) for m in names}
        self.between = Stack("between", [CoAttentionFusion(blocks, names, residual=True)])
        self.second = half(config.second)
        self.attention = MultiHeadAttention(width, config.heads, rngs=rngs)
        self.classify = Classifier(len(names) * width, config.classes, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """The first half of each branch."""
        return {m: self.first[m](stream) for m, stream in super().encode(batch, keep).items()}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From the transformer in between to the logits."""
        tokens, _ = self.between(self.hidden(tokens, keep))
        tokens = {m: self.second[m](tokens[m]) for m in self.modalities}
        h = jnp.concatenate([self._summary(m, tokens[m]) for m in self.modalities], axis=-1)
        return Output(logits=self.classify(h), tokens=tokens)

    def _summary(self, modality: str, tokens: Stream) -> Float[Array, "B C"]:
        """h_m."""
        mask = self_mask(tokens.valid, Layout((modality,), tokens.valid.shape[1:]))
        return mean_pool(self.attention(tokens.values, mask), tokens.valid)
