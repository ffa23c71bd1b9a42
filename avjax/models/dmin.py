"""DMIN, the dense modality interaction network.

Liu et al.: Dense Modality Interaction Network for Audio-Visual Event Localization, 2022. It is CMRAN (cmran.py) but
for three things:

    s_t,k   = w^T tanh(MFB(v_t,k, a_t) + BiLSTM([v_t,k + U a_t; U a_t])_t)        scores of the cells, for one softmax
    CMRA    : the other modality's half of the keys is scored by dense_shift(q, k) in place of q.k / sqrt(d)
    logits/video = W' max_t x^v_t                                                 the picture's own class

The release's: MFB of rank 5 and width 256 with signed square root and L2 norm, a BiLSTM of 2 layers and 128 units each
way that runs over time at every cell, the dense shift with share 1/2, one softmax over both halves of the keys, and
L = BCE(e) + 0.9 CE(class) + 0.1 CE(the picture's class), which is ``SegmentEvents(per_modality=0.1)``. Ours: how MFB
and BiLSTM make one score, U, and a segment without sound or picture.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.models import System, cmran
from avjax.nn.convolution import masked
from avjax.nn.dense import EMBED, HIDDEN, Dense
from avjax.nn.encoders import Precomputed
from avjax.nn.fusion import CrossModalRelationAttention, FactorisedBilinear, SpatialChannelAttention, Tokens
from avjax.nn.fusion.crossmodal import others
from avjax.nn.fusion.events import by_cell
from avjax.nn.pooling import Classifier, max_pool
from avjax.nn.scoring import dense_shift
from avjax.nn.temporal import Recurrent
from avjax.nn.transformer import Size
from avjax.streams import Output, Stream

SYSTEM = System(
    name="DMIN",
    source="Liu et al. 2022 [67]",
    mechanism="hierarchical",
    fusion="hybrid",
    architecture="Transformer",
    task="audio-visual event localisation",
    corpora=("AVE",),
    metrics=("accuracy of segments",),
    use="one event a clip whose place in the picture changes: cells are followed over time",
    avoid="many cells or segments: a recurrent layer runs over every cell",
    ours="how the two parts of a cell's score are joined, and what a missing modality leaves",
)


@dataclasses.dataclass(frozen=True)
class Config(cmran.Config):
    """CMRAN's, and what DMIN adds.

    Attributes:
      bilinear: width of MFB.
      factors: its rank.
      recurrent: units of the LSTMs over cells, each way; twice as many are ``bilinear``.
    """

    bilinear: int = 256
    factors: int = 5
    recurrent: int = 128

    def __post_init__(self) -> None:
        if 2 * self.recurrent != self.bilinear:
            raise ValueError(f"two LSTMs of {self.recurrent} units do not add to {self.bilinear} values of MFB")

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 2, 2, 6))
        widths = {"audio": 5, "visual": 6, "bilinear": 8, "recurrent": 4}
        return cls((audio, video), {"event": 3}, segments=3, size=Size(16, 1, 2), dropout=0.0, **widths)

    def build(self, rngs: nnx.Rngs) -> DMIN:
        return DMIN(self, rngs=rngs)


class CellScores(nnx.Module):
    """How much a cell matters, from its products with the sound and from what it was before and is after."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        visual, audio = config.visual, config.audio
        self.products = FactorisedBilinear(
            ("video", "audio"), (visual, audio), config.bilinear, factors=config.factors, rngs=rngs
        )
        self.audio = Dense(audio, visual, axes=(EMBED, HIDDEN), rngs=rngs)
        self.recurrent = Recurrent(2 * visual, config.recurrent, layers=2, rngs=rngs)
        self.score = Dense(config.bilinear, 1, axes=(HIDDEN, EMBED), bias=False, rngs=rngs)

    def __call__(self, cells: Stream, audio: Stream) -> Float[Array, "B T S"]:
        rows, segments, count, width = cells.values.shape
        valid = by_cell(cells)
        v, a = masked(cells.values, valid), masked(audio.values, audio.valid)

        def beside(x: Array) -> Array:
            return jnp.broadcast_to(x[:, :, None], (rows, segments, count, *x.shape[2:]))

        heard = beside(masked(self.audio(a), audio.valid))
        products = self.products({"video": v, "audio": beside(a)}, {"video": valid, "audio": beside(audio.valid)})
        paths = jnp.concatenate([v + heard, heard], axis=-1).swapaxes(1, 2).reshape(-1, segments, 2 * width)
        followed = self.recurrent(paths, valid.swapaxes(1, 2).reshape(-1, segments))
        followed = followed.reshape(rows, count, segments, -1).swapaxes(1, 2)
        return self.score(jnp.tanh(products + followed))[..., 0]


class DMIN(cmran.CMRAN):
    """Dense modality interaction network; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.classify_video = Classifier(config.size.width, config.classes, rngs=rngs)

    def guide_of(self, config: Config, rngs: nnx.Rngs) -> SpatialChannelAttention:
        """CMRAN's attention to channels, then to cells by their own scores."""
        spatial = CellScores(config, rngs=rngs)
        return SpatialChannelAttention(config.visual, config.audio, spatial=spatial, rngs=rngs)

    def relation_of(self, modality: str, config: Config, rngs: nnx.Rngs) -> CrossModalRelationAttention:
        """CMRA_m by dense similarity with the other modality."""
        (other,) = others(modality, self.modalities)
        names = {"query": modality, "other": other}
        return CrossModalRelationAttention(config.size, **names, scores=dense_shift, dropout=config.dropout, rngs=rngs)

    def related(self, streams: Tokens) -> Output:
        output = super().related(streams)
        video = self._projected("video", streams["video"])
        own = self.classify_video(max_pool(video.values, video.valid))
        return dataclasses.replace(output, logits=output.logits | {f"{h}/video": own[h] for h in own})
