"""MAFnet, multi-level attention fusion of sound and picture.

Brousmiche, Rouat, Dupont: Multimodal Attentive Fusion Network for audio-visual event recognition, Information Fusion
2022. For the segments of a clip, with a vector v_t of the picture and a map A_t of the sound:

    B_t      = ReLU(conv1(A_t))
    B_t      = B_t + ReLU(FiLM(BN(conv3(B_t)); v_t))                    the picture modulates the sound
    x^a_t    = ReLU(BN(W_a mean_hw B_t)),   x^v_t = ReLU(BN(W_v v_t))
    w        = softmax over all 2 T of W_2 ReLU(W_1 x)                  modality and temporal attention
    logits   = BN(W [sum_t w^v_t x^v_t; sum_t w^a_t x^a_t])

The release's: everything above; DenseNet features of 1920 numbers, the last convolutional map of VGGish [12, 8, 512],
10 segments, 512 channels, cross-entropy, and a training rule by which a step trains all weights or one modality's
(``RandomModalityUpdate``). Ours: width of the attention's hidden layer; a segment without picture modulates nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import BatchNorm, Conv, masked
from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import FiLM, Tokens
from avjax.nn.gates import ModalityAttentionPool
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import mean_pool
from avjax.nn.segments import aligned
from avjax.streams import Output, Stream

SYSTEM = System(
    name="MAFnet",
    source="Brousmiche et al. 2022 [78]",
    mechanism="correction",
    fusion="hybrid",
    architecture="CNN",
    task="audio-visual event recognition",
    corpora=("AVE", "UCF51", "Kinetics-Sounds"),
    metrics=("accuracy",),
    use="clips of a few seconds in which one modality tells more than the other, and not the same one in every clip",
    avoid="clips whose picture says nothing of the sound: the picture modulates it all the same",
    ours="the width of the attention's hidden layer, and what a missing modality leaves",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of ``video``, and of ``audio`` by cells of a map.
      classes: head -> number of classes.
      audio, visual: widths of their tokens.
      segments: T.
      width: channels of the sound's convolutions, and of x.
      hidden: of the attention.
      dropout: of what is classified.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    audio: int = 512
    visual: int = 1920
    segments: int = 10
    width: int = 512
    hidden: int = 512
    dropout: float = 0.0

    @classmethod
    def paper(cls) -> Config:
        """AVE: ten seconds; the last map of VGGish, DenseNet features; 28 events."""
        audio, video = Precomputed("audio", (10, 12, 8, 512)), Precomputed("video", (10, 1920))
        return cls((audio, video), {"event": 28})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (3, 2, 2, 5)), Precomputed("video", (6, 6))
        return cls((audio, video), {"event": 3}, audio=5, visual=6, segments=3, width=8, hidden=8)

    def build(self, rngs: nnx.Rngs) -> MAFnet:
        return MAFnet(self, rngs=rngs)


class ModulatedSound(nnx.Module):
    """The map of a segment's sound under the picture's FiLM: [N, h, w, C] to its mean [N, width]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        self.first = Conv(config.audio, config.width, (1, 1), rngs=rngs)
        self.second = Conv(config.width, config.width, (3, 3), rngs=rngs)
        self.norm = BatchNorm(config.width, rngs=rngs)
        self.film = FiLM(config.visual, config.width, rngs=rngs)

    def __call__(self, cells: Stream, video: Stream, grid: tuple[int, int]) -> Stream:
        """Cells [B, T, S, C] that are the map ``grid``, and pictures [B, T, Cv], to [B, T, width]."""
        rows, segments, count, width = cells.values.shape
        valid = cells.valid.reshape(-1, *grid)
        x = masked(nnx.relu(self.first(masked(cells.values.reshape(-1, *grid, width), valid))), valid)
        condition, there = video.values.reshape(-1, video.values.shape[-1]), video.valid.reshape(-1)
        x = x + nnx.relu(self.film(self.norm(self.second(x), valid), condition, there))
        mean = mean_pool(x.reshape(-1, count, x.shape[-1]), valid.reshape(-1, count))
        return cells.replace(values=mean.reshape(rows, segments, -1), valid=cells.valid.any(axis=2))


class MAFnet(AudioVisualModel):
    """FiLM from picture to sound, and one softmax over modalities and time; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, {"audio": config.audio, "video": config.visual}, rngs=rngs)
        self.segments = config.segments
        self.grid = next(encoder for encoder in config.modalities if encoder.modality == "audio").grid[1:]
        self.modulated = nnx.Dict({"audio": ModulatedSound(config, rngs=rngs)})
        widths = {"audio": config.width, "video": config.visual}
        self.project = nnx.Dict(
            {m: Dense(widths[m], config.width, axes=(EMBED, HIDDEN), rngs=rngs) for m in self.modalities}
        )
        self.norm = nnx.Dict({m: BatchNorm(config.width, rngs=rngs) for m in self.modalities})
        self.pool = ModalityAttentionPool(self.modalities, config.width, config.hidden, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        classes = config.classes
        self.classify = nnx.Dict(
            {h: Dense(2 * config.width, k, axes=(EMBED, CLASSES), rngs=rngs) for h, k in classes.items()}
        )
        self.norm_logits = nnx.Dict({h: BatchNorm(k, rngs=rngs) for h, k in classes.items()})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``aux["attention_over_time"]`` holds w, modality -> [B, T]."""
        cells = self.grid[0] * self.grid[1]
        streams = aligned(self.hidden(tokens, keep), self.segments, {"audio": cells})
        streams["audio"] = self.modulated["audio"](streams["audio"], streams["video"], self.grid)
        x = {m: self._projected(m, streams[m]) for m in self.modalities}
        vectors = self.pool(x)
        z = self.dropout(jnp.concatenate([vectors[m] for m in self.modalities], axis=-1))
        logits = {h: self.norm_logits[h](dense(z)).astype(jnp.float32) for h, dense in self.classify.items()}
        return Output(logits, x, aux={"attention_over_time": self.pool.weights(x)})

    def _projected(self, modality: str, stream: Stream) -> Stream:
        values = self.norm[modality](self.project[modality](masked(stream.values, stream.valid)), stream.valid)
        return stream.replace(values=nnx.relu(values))
