"""Audio-visual event localisation: audio-guided visual attention, recurrence, and a dual residual network.

Tian, Shi, Li, Duan, Xu: Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018. For segment t of T, with
sound a_t and cells v_t,k of the picture:

    v_t         = sum_k softmax_k(w^T tanh(W_v ReLU(U v_t,k) + W_g ReLU(G a_t))) v_t,k      AVGA
    h^a, h^v    = BiLSTM_a(a), BiLSTM_v(v)
    h_t         = [h^a_t; h^v_t]                                                   concatenation
    or h_t      = mean_m tanh(h^m_t + mean_m' U_m'(h^m'_t))                        DMRN, the dual residual block
    l_t         = W_2 ReLU(W_1 ReLU(h_t)),   logits = mean_t l_t

The release's: everything above; sound of VGGish and pictures of VGG-19 as they are, 128 units each way, layers of 64;
the background is a class of its own, the last. Segments with labels are learned from one by one
(``SegmentEvents(eventness="")``), in the weakly supervised setting only the mean or maximum over time is
(``Classification``); the release has a margin loss on the softmax where we have cross-entropy. Ours: a segment without
sound or picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import AudioGuidedAttention, DualResidual, Tokens
from avjax.nn.fusion.events import weighted_cells
from avjax.nn.heads import WeakSegmentHead
from avjax.nn.localisation import LocalisationModel, mean_of_segments
from avjax.nn.model import Keep
from avjax.nn.temporal import Recurrent
from avjax.streams import Output

SYSTEM = System(
    name="AVGA and DMRN",
    source="Tian et al. 2018",
    mechanism="cross",
    fusion="hybrid",
    architecture="BiLSTM",
    task="audio-visual event localisation",
    corpora=("AVE",),
    metrics=("accuracy of segments",),
    use="events that are both heard and seen, from features of a few seconds; the baseline of that task",
    avoid="events that are only heard or only seen, or whose source leaves the picture",
    ours="what a missing modality leaves; cross-entropy in place of a margin loss",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of ``audio``, and of ``video`` by cells.
      classes: head -> number of classes, with the background.
      audio, visual: widths of their tokens.
      segments: T.
      attention: audio-guided; without it the picture is the mean of its cells.
      fusion: of the two at every segment: side by side (concat) or by the dual residual block (dmrn).
      hidden: units of each LSTM each way.
      bottleneck: units in front of the classes.
      pool: of the segments' logits over time: mean or max.
      dropout: in front of the LSTMs.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    audio: int = 128
    visual: int = 512
    segments: int = 10
    attention: bool = True
    fusion: Literal["concat", "dmrn"] = "concat"
    hidden: int = 128
    bottleneck: int = 64
    pool: Literal["mean", "max"] = "mean"
    dropout: float = 0.0

    @classmethod
    def paper(cls) -> Config:
        """AVE: ten seconds; VGGish features, and the 7 x 7 cells of VGG-19; 28 events and the background."""
        return cls((Precomputed("audio", (10, 128)), Precomputed("video", (10, 7, 7, 512))), {"event": 29})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 2, 2, 6))
        return cls((audio, video), {"event": 3}, audio=5, visual=6, segments=3, hidden=8, bottleneck=16)

    def build(self, rngs: nnx.Rngs) -> EventLocalisation:
        return EventLocalisation(self, rngs=rngs)


class EventLocalisation(LocalisationModel):
    """AVGA, a BiLSTM for each modality, and logits of every segment; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = {"audio": config.audio, "video": config.visual}
        super().__init__(config.modalities, widths, config.segments, rngs=rngs)
        width = 2 * config.hidden
        guide = AudioGuidedAttention(config.visual, config.audio, rngs=rngs) if config.attention else None
        self.guide = nnx.data(guide)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.recurrent = nnx.Dict({m: Recurrent(widths[m], config.hidden, rngs=rngs) for m in self.modalities})
        residual = DualResidual(width, self.modalities, rngs=rngs) if config.fusion == "dmrn" else None
        self.residual = nnx.data(residual)
        joined = width if config.fusion == "dmrn" else 2 * width
        self.bottleneck = Dense(joined, config.bottleneck, axes=(EMBED, HIDDEN), rngs=rngs)
        self.heads = nnx.Dict(
            {h: WeakSegmentHead(config.bottleneck, k, pool=config.pool, rngs=rngs) for h, k in config.classes.items()}
        )

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``aux["segments"]``: logits of every segment, head -> [B, T, K], and ``valid`` [B, T]."""
        audio, cells = self.segmented(tokens, keep)
        uniform = jnp.zeros(cells.values.shape[:-1])
        video = weighted_cells(uniform, cells) if self.guide is None else self.guide(cells, audio)
        h = {
            m: stream.replace(values=self.recurrent[m](self.dropout(masked(stream.values, stream.valid)), stream.valid))
            for m, stream in (("audio", audio), ("video", video))
        }
        valid = audio.valid | video.valid
        if self.residual is None:
            joined = jnp.concatenate([h[m].values for m in self.modalities], axis=-1)
        else:
            h, _ = self.residual(h)
            joined = mean_of_segments(h).values
        joined = nnx.relu(self.bottleneck(nnx.relu(joined)))
        found = {head: module(joined, valid) for head, module in self.heads.items()}
        segments = {head: found[head]["segment"] for head in found} | {"valid": valid}
        return Output({head: found[head]["video"] for head in found}, h, aux={"segments": segments})
