"""KLASSify, detection and localisation of forged sound or picture.

Kukanov and Ng 2025. The source could not be read in full. What is known of it: the sound's features of a
self-supervised network go through graph attention in the style of AASIST, handcrafted features of the picture through
a temporal convolutional network, and the two scores are calibrated and fused. The form below is ours:

    h^a     = GraphAttention(W_a a),   z_a = [max; mean] of GraphAttention(GraphPool(h^a))
    h^v     = TCN(W_v v),              z_v = [max; mean] of h^v
    logits_m = W'_m ReLU(W_m z_m)
    logits  = sum_m (s_m logits_m + b_m)                          calibrated scores, over the modalities there are
    e_t     = mean_m w_m^T h^m_t                                  is frame t forged

Frames are learned from by ``SegmentEvents``, clips by ``Classification``; in both each modality has its own loss, as
scores that are calibrated should. A missing modality has no score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.models import System
from avjax.nn.dense import CLASSES, EMBED, HIDDEN, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import DecisionFusion, Tokens, present
from avjax.nn.graph import GraphAttention, GraphPool
from avjax.nn.heads import PerModalityHeads
from avjax.nn.localisation import mean_of_segments
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import max_pool, mean_pool
from avjax.nn.segments import aligned
from avjax.nn.temporal import TemporalConvolution
from avjax.streams import Output, Stream

SYSTEM = System(
    name="KLASSify",
    source="Kukanov and Ng 2025 [71]",
    mechanism="self",
    fusion="late",
    architecture="CNN",
    task="detection and localisation of audio-visual deepfakes",
    corpora=("AV-Deepfake1M++",),
    metrics=("AUC", "IoU"),
    use="either modality may be forged by itself, and scores must be comparable between clips",
    avoid="forgeries that show only between the modalities, such as lips out of step with a real voice",
    ours="everything but the kinds of the three parts",
    reported="AUC 92.78 on AV-Deepfake1M++; IoU 0.3536 in localisation, from sound alone",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of ``audio`` and ``video``.
      classes: head -> number of classes.
      frames: in which forgery is localised.
      width: of the tokens, the nodes and the steps.
      share: of the nodes that the pool keeps.
      dilations: of the blocks of the temporal convolutional network.
      dropout: in the network over time, and of what is classified.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    frames: int = 100
    width: int = 64
    share: float = 0.5
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 4 s; 1024 numbers of XLS-R each 20 ms, 64 measures of each of 25 frames a second."""
        audio, video = Precomputed("audio", (200, 1024)), Precomputed("video", (100, 64), norm="layer")
        return cls((audio, video), {"fake": 2})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (4, 6))
        return cls((audio, video), {"fake": 3}, frames=4, width=8, dilations=(1, 2), dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> KLASSify:
        return KLASSify(self, rngs=rngs)


class KLASSify(AudioVisualModel):
    """A graph for the sound, a TCN for the picture, and calibrated scores; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config.modalities, config.width, rngs=rngs)
        names, width = self.modalities, config.width
        self.frames = config.frames
        self.graph = GraphAttention(width, width, rngs=rngs)
        self.pool = GraphPool(width, share=config.share, rngs=rngs)
        self.graph_of_pooled = GraphAttention(width, width, rngs=rngs)
        options = {"dilations": config.dilations, "causal": False, "dropout": config.dropout}
        self.temporal = TemporalConvolution(width, width, **options, rngs=rngs)
        self.embed = nnx.Dict({m: Dense(2 * width, width, axes=(EMBED, HIDDEN), rngs=rngs) for m in names})
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.classify = PerModalityHeads(names, width, config.classes, shared=False, rngs=rngs)
        self.calibrate = nnx.Dict(
            {head: DecisionFusion("calibrated", names, k, rngs=rngs) for head, k in config.classes.items()}
        )
        self.localise = nnx.Dict({m: Dense(width, 1, axes=(EMBED, CLASSES), rngs=rngs) for m in names})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``aux["segments"]``: e as ``eventness`` [B, T], that of a modality as ``eventness/m``, ``valid`` [B, T]."""
        tokens = self.hidden(tokens, keep)
        audio, video = tokens["audio"], tokens["video"]
        h = {
            "audio": audio.replace(values=self.graph(audio.values, audio.valid)),
            "video": video.replace(values=self.temporal(video.values, video.valid)),
        }
        nodes, there = self.pool(h["audio"].values, audio.valid)
        z = {
            "audio": readout(self.graph_of_pooled(nodes, there), there),
            "video": readout(h["video"].values, video.valid),
        }
        vectors = {m: self.dropout(nnx.relu(self.embed[m](z[m]))) for m in self.modalities}
        own = self.classify(vectors, present(tokens))
        fused = {
            head: fusion({m: own[m][head] for m in own}, present(tokens)) for head, fusion in self.calibrate.items()
        }
        logits = fused | {f"{head}/{m}": own[m][head] for head in fused for m in own}
        return Output(logits, h, aux={"segments": self._segments(h)})

    def _segments(self, h: Tokens) -> dict[str, Array]:
        frames = aligned(h, self.frames)
        scores = {m: s.replace(values=self.localise[m](s.values).astype(jnp.float32)) for m, s in frames.items()}
        mean: Stream = mean_of_segments(scores)
        own = {f"eventness/{m}": jnp.where(s.valid, s.values[..., 0], 0) for m, s in scores.items()}
        return {"eventness": mean.values[..., 0], "valid": mean.valid} | own


def readout(x: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B _"]:
    """[max; mean] of what is valid."""
    return jnp.concatenate([max_pool(x, valid), mean_pool(x, valid)], axis=-1)
