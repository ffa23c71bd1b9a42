"""CMRAN, the cross-modal relation-aware network.

Xu, Zeng, Wu, Tan, Gan: Cross-Modal Relation-Aware Networks for Audio-Visual Event Localization, ACM MM 2020. For the
segments of a clip, with sound a_t and cells v_t,k of the picture:

    v_t        = SpatialChannelAttention(v_t,1 ... v_t,S; a_t)
    x^m        = W_m m_t                                            both modalities m to one width
    y^m        = PostNorm_m(... x^m)                                memory: self-attention over time
    h^m        = CMRA_m(x^m, [y^other | x^m])                       cross-modal relation attention
    h          = LN(g + MHA(g, [h^a | h^v])),   g = h^v * h^a       audio-visual interaction
    e_t        = w^T h_t,   logits = W max_t h_t                    is there an event, and which one is it

The release's: everything above but x^m; width 256, memories of 2 layers, 4 heads, feed-forward layers of 2048, dropout
0.1. A segment has the clip's class where sigmoid(e_t) > 1/2, and else the background. ``SegmentEvents`` is the
objective, with ``supervision="clip"`` in the weakly supervised setting. Ours: x^m as one linear layer, one layer of
CMRA, and a segment without sound or picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, Dense
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import (
    AudioVisualInteraction,
    CrossModalRelationAttention,
    SpatialChannelAttention,
    Tokens,
    UnimodalLayer,
)
from avjax.nn.fusion.crossmodal import others
from avjax.nn.heads import SegmentHead
from avjax.nn.localisation import LocalisationModel, only_head
from avjax.nn.model import Keep
from avjax.nn.stack import Stack
from avjax.nn.transformer import PostNormBlock, Size
from avjax.streams import Output, Stream

SYSTEM = System(
    name="CMRAN",
    source="Xu et al. 2020",
    mechanism="co",
    fusion="hybrid",
    architecture="Transformer",
    task="audio-visual event localisation",
    corpora=("AVE",),
    metrics=("accuracy of segments",),
    use="one event a clip, in some of its segments, that is both heard and seen",
    avoid="several events at once: a clip has one class",
    ours="the projection to one width, and what a missing modality leaves",
    reported="76.1 % of segments; 72.4 % weakly supervised (the names of the released checkpoints)",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of ``audio``, and of ``video`` by cells.
      classes: the one head -> number of classes, without the background.
      audio, visual: widths of their tokens.
      segments: T.
      size: of the layers within and across; ``depth`` is that of the memories.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    audio: int = 128
    visual: int = 512
    segments: int = 10
    size: Size = Size(256, 2, 4, 8)
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """AVE: ten seconds; VGGish features, and the 7 x 7 cells of VGG-19; 28 events."""
        return cls((Precomputed("audio", (10, 128)), Precomputed("video", (10, 7, 7, 512))), {"event": 28})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 2, 2, 6))
        return cls((audio, video), {"event": 3}, audio=5, visual=6, segments=3, size=Size(16, 1, 2), dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> CMRAN:
        return CMRAN(self, rngs=rngs)


class CMRAN(LocalisationModel):
    """Cross-modal relation-aware network; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = {"audio": config.audio, "video": config.visual}
        super().__init__(config.modalities, widths, config.segments, rngs=rngs)
        names, size, dropout = self.modalities, config.size, config.dropout
        self.head, classes = only_head(config.classes)
        self.guide = self.guide_of(config, rngs)
        self.project = nnx.Dict({m: Dense(widths[m], size.width, axes=(EMBED, EMBED), rngs=rngs) for m in names})

        def memory() -> UnimodalLayer:
            blocks = {m: PostNormBlock(size, dropout=dropout, activation=nnx.relu, rngs=rngs) for m in names}
            return UnimodalLayer(blocks, names)

        self.memory = Stack("memory", [memory() for _ in range(size.depth)])
        self.relation = nnx.Dict({m: self.relation_of(m, config, rngs) for m in names})
        self.interaction = AudioVisualInteraction(size.width, size.heads, names, dropout=dropout, rngs=rngs)
        self.localise = SegmentHead(size.width, classes, rngs=rngs)

    def guide_of(self, config: Config, rngs: nnx.Rngs) -> SpatialChannelAttention:
        """The attention that makes one vector of the cells of a segment."""
        return SpatialChannelAttention(config.visual, config.audio, rngs=rngs)

    def relation_of(self, modality: str, config: Config, rngs: nnx.Rngs) -> CrossModalRelationAttention:
        """CMRA_m."""
        (other,) = others(modality, self.modalities)
        return CrossModalRelationAttention(config.size, query=modality, other=other, dropout=config.dropout, rngs=rngs)

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``aux["segments"]``: e as ``eventness`` [B, T], and ``valid`` [B, T]."""
        audio, cells = self.segmented(tokens, keep)
        return self.related({"audio": audio, "video": self.guide(cells, audio)})

    def related(self, streams: Tokens) -> Output:
        """From one vector a modality and segment to the output."""
        x = {m: self._projected(m, streams[m]) for m in self.modalities}
        y, _ = self.memory(x)
        h = {m: self.relation[m](x[m], y[other]) for m in x for other in others(m, self.modalities)}
        joint = self.interaction(h)
        found = self.localise(joint.values, joint.valid)
        segments = {"eventness": found["event"], "valid": joint.valid}
        return Output({self.head: found["video"]}, h, aux={"segments": segments})

    def _projected(self, modality: str, stream: Stream) -> Stream:
        values = self.project[modality](masked(stream.values, stream.valid))
        return stream.replace(values=masked(values, stream.valid))
