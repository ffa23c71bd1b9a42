"""Attention of channels, places and time in each modality, cross-attention between them, and a metric of emotions.

Mocanu, Tapu, Zaharia: Multimodal Emotion Recognition Using Cross Modal Audio-Video Fusion with Attention and Deep
Metric Learning, Image and Vision Computing 133, 2023.

    F_v    = CNN3D(frames) [T, h, w, C],   F_v <- F_v ⊙ s_channel,   F_v <- F_v ⊙ s_spatial
    V_t    = mean over h and w of F_v,t,   A = CNN2D(log-mel) [T', C]
    A'     = A + MHA(A, V),   V' = V + MHA(V, A)
    pool X = sum_t alpha_t X_t,   alpha = softmax_t(w^T tanh(W X_t))          temporal attention
    z      = [pool A'; pool V'; pool A; pool V],   logits = W DP(z)
    L      = CE(logits, y) + lambda mean_ij (||u_i - u_j|| - m D[y_i, y_j])^2,   u = z / ||z||

The paper's, from its abstract: attention of channels, places and time in a visual 3-D CNN and of time in an audio 2-D
CNN, cross-attention between them, and a classification loss with a metric constraint from how emotions are related. The
source could not be read in full; the form above is ours: the order of the attentions, what z is made of, the constraint
and D, which is 0 within a class, 2 between classes of opposite valence and 1 otherwise. A missing modality is nobody to
ask, and 0 in z.

The constraint is a term of the model's own, ``metric/HEAD``: train with ``WithTerms(Classification(),
(("metric/emotion", 0.1),))``, the weight being lambda (ours).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.models import System
from avjax.nn.encoders import Encoder, FrameConv, ResNet, ResNet3D, SpectrogramConv
from avjax.nn.fusion import ParallelCrossAttention, Tokens
from avjax.nn.gates import AttentionPool, ChannelAttention, SpatialAttention
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier, mean_pool
from avjax.nn.stack import Stack
from avjax.objectives.contrastive import metric_constraint
from avjax.streams import Batch, Mean, Output, Stream

SYSTEM = System(
    name="Mocanu et al.",
    source="Mocanu et al. 2023 [3]",
    mechanism="cross",
    fusion="hybrid",
    architecture="CNN",
    task="emotion recognition",
    corpora=("RAVDESS", "CREMA-D"),
    metrics=("accuracy",),
    use="classes that are related, some confusions being worse than others, and clips of one utterance",
    avoid="long videos, or labels of which nothing is known but that they differ",
    ours="order of the attentions, the fused vector, the form of the metric constraint, a missing modality",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders; those with a token for every cell of a map get attention of channels and places.
      classes: head -> number of classes.
      width, heads: of tokens and cross-attention.
      reduction: of the channels' attention, and ``kernel`` of that of places.
      valence: head -> sign of every class, -1, 0 or 1; a head without has all classes equally far apart.
      margin: m.
      dropout: of cross-attention, and of the fused vector.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    width: int = 512
    heads: int = 8
    reduction: int = 16
    kernel: int = 7
    valence: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    margin: float = 0.5
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for head, signs in self.valence.items():
            if len(signs) != self.classes[head]:
                raise ValueError(f"valence of {head}: {len(signs)} signs for {self.classes[head]} classes")

    @classmethod
    def paper(cls) -> Config:
        """RAVDESS in a setting of ours: 32 faces of 112 x 112, and 3 s of 128 mel bands at 100 Hz."""
        audio, video = ResNet("audio", (300, 128)), ResNet3D("video", (32, 112, 112, 3), cells=True)
        # Neutral, calm, happy, sad, angry, fearful, disgust, surprised.
        return cls((audio, video), {"emotion": 8}, valence={"emotion": (0, 0, 1, -1, -1, -1, -1, 0)})

    @classmethod
    def tiny(cls) -> Config:
        audio = SpectrogramConv("audio", (6, 4), channels=(8,), step=2)
        video = FrameConv("video", (3, 4, 4, 3), channels=(8,), cells=True)
        sizes = {"width": 8, "heads": 2, "reduction": 2, "kernel": 3}
        return cls((audio, video), {"emotion": 3}, **sizes, valence={"emotion": (1, 0, -1)}, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> Mocanu:
        return Mocanu(self, rngs=rngs)


class CellAttention(nnx.Module):
    """Attention of channels, then of places, to the cells of a map; then their mean, a token a time step.

    Args:
      grid: time steps, height and width of the map.
    """

    def __init__(self, width: int, grid: tuple[int, ...], *, reduction: int, kernel: int, rngs: nnx.Rngs):
        self.grid = grid
        self.channels = ChannelAttention(width, reduction=reduction, rngs=rngs)
        self.places = SpatialAttention(size=kernel, rngs=rngs)

    def __call__(self, cells: Stream) -> Stream:
        """[B, T h w, C] to [B, T, C]."""
        rows, steps, space = cells.valid.shape[0], self.grid[0], math.prod(self.grid[1:])
        x, valid = cells.values.reshape(rows, *self.grid, -1), cells.valid.reshape(rows, *self.grid)
        x = self.places(self.channels(x, valid), valid)
        flat, there = x.reshape(rows * steps, space, -1), valid.reshape(rows * steps, space)
        values = mean_pool(flat, there).reshape(rows, steps, -1)
        return cells.replace(values=values, valid=there.any(axis=1).reshape(rows, steps), rate=cells.rate / space)


class Mocanu(AudioVisualModel):
    """Three attentions within, one across, and a metric; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        width, names = config.width, tuple(encoder.modality for encoder in config.modalities)
        super().__init__(config.modalities, width, rngs=rngs)
        self.margin = config.margin
        self.apart = tuple((head, apart(n, config.valence.get(head))) for head, n in config.classes.items())
        options = {"reduction": config.reduction, "kernel": config.kernel}
        maps = {encoder.modality: _map(encoder) for encoder in config.modalities}
        self.cells = nnx.Dict({m: CellAttention(width, grid, **options, rngs=rngs) for m, grid in maps.items() if grid})
        across = ParallelCrossAttention(width, config.heads, names, dropout=config.dropout, rngs=rngs)
        self.across = Stack("across", [across])
        self.pool = nnx.Dict({m: AttentionPool(width, width, rngs=rngs) for m in names})
        self.pool_across = nnx.Dict({m: AttentionPool(width, width, rngs=rngs) for m in names})
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.classify = Classifier(2 * len(names) * width, config.classes, rngs=rngs)

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """As of every model, with the metric terms of the batch's labels in ``aux["losses"]``."""
        output = super().__call__(batch, keep)
        terms = {f"metric/{head}": self._metric(head, d, output.aux["fused"], batch) for head, d in self.apart}
        return dataclasses.replace(output, aux={**output.aux, "losses": terms})

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """A and V, a token a time step."""
        tokens = super().encode(batch, keep)
        return {m: self.cells[m](tokens[m]) if m in self.cells else tokens[m] for m in self.modalities}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From A and V to the logits; ``aux["fused"]`` is z."""
        tokens = self.hidden(tokens, keep)
        across, _ = self.across(tokens)
        parts = [self.pool_across[m](across[m].values, across[m].valid) for m in self.modalities]
        parts += [self.pool[m](tokens[m].values, tokens[m].valid) for m in self.modalities]
        z = jnp.concatenate(parts, axis=-1)
        return Output(logits=self.classify(self.dropout(z)), tokens=across, aux={"fused": z})

    def _metric(self, head: str, d: tuple[tuple[int, ...], ...], z: Float[Array, "B C"], batch: Batch) -> Mean:
        label, weight = jnp.asarray(batch.target[head]).argmax(axis=-1), jnp.asarray(batch.weight)
        return metric_constraint(z, label, jnp.asarray(d, jnp.float32), weight, margin=self.margin)


def _map(encoder: Encoder) -> tuple[int, ...]:
    """Time steps, height and width, of whose every cell the encoder makes a token; () where it does not."""
    grid = getattr(encoder, "grid", ())
    return grid if len(grid) > 1 and math.prod(grid) == encoder.tokens else ()


def apart(classes: int, valence: tuple[int, ...] | None) -> tuple[tuple[int, ...], ...]:
    """D [K, K]: 0 within a class, 2 between opposite valences, 1 otherwise."""
    signs = valence or (0,) * classes
    return tuple(tuple(0 if i == j else 1 + (a * b < 0) for j, b in enumerate(signs)) for i, a in enumerate(signs))
