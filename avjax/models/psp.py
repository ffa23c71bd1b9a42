"""PSP, positive sample propagation.

Zhou, Zheng, Zhong, Hao, Wang: Positive Sample Propagation along the Audio-Visual Event Line, CVPR 2021. For the
segments of a clip, with sound a_t and cells v_t,k of the picture:

    v_t       = AVGA(v_t,1 ... v_t,S; a_t)                         ave.py
    h^m       = BiLSTM_m(m)
    h^v, h^a  = PSP(h^v, h^a)        pairs of segments whose similarity is above a threshold exchange features
    h_t       = (h^v_t + h^a_t) / 2
    e_t       = w^T h_t,   logits = W max_t h_t

The release's: AVGA, BiLSTMs of 128 units each way, the threshold of 0.099 (0.095 in the weakly supervised setting), the
mean of the two, and a loss on the similarity of the two within segments: ``aux["losses"]["pair_similarity"]`` where the
batch says in which segments the event is. ``WithTerms(SegmentEvents(), (("pair_similarity", weight),))`` is the
objective, ``SegmentEvents(supervision="clip")`` in the weakly supervised setting. Ours: the two heads, which are
CMRAN's, and a segment without sound or picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import AudioGuidedAttention, PositiveSamplePropagation, Tokens
from avjax.nn.heads import SegmentHead
from avjax.nn.localisation import LocalisationModel, mean_of_segments, only_head
from avjax.nn.model import Keep
from avjax.nn.temporal import Recurrent
from avjax.objectives.contrastive import pair_similarity
from avjax.streams import Batch, Output

SYSTEM = System(
    name="PSP",
    source="Zhou et al. 2021",
    mechanism="co",
    fusion="hybrid",
    architecture="BiLSTM",
    task="audio-visual event localisation",
    corpora=("AVE",),
    metrics=("accuracy of segments",),
    use="events whose sound and picture come at different times of a clip: only close pairs exchange features",
    avoid="long clips: a threshold on shares of one row fits the number of segments that it was chosen for",
    ours="the heads, and what a missing modality leaves",
    kernels=False,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders of ``audio``, and of ``video`` by cells.
      classes: the one head -> number of classes, without the background.
      audio, visual: widths of their tokens.
      segments: T.
      hidden: units of each LSTM each way.
      threshold: of the share that a segment of the other modality has.
      dropout: of the layers of the propagation.
      eventness: name of the target that says in which segments the event is.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    audio: int = 128
    visual: int = 512
    segments: int = 10
    hidden: int = 128
    threshold: float = 0.099
    dropout: float = 0.1
    eventness: str = "eventness"

    @classmethod
    def paper(cls) -> Config:
        """AVE: ten seconds; VGGish features, and the 7 x 7 cells of VGG-19; 28 events."""
        return cls((Precomputed("audio", (10, 128)), Precomputed("video", (10, 7, 7, 512))), {"event": 28})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (3, 2, 2, 6))
        return cls((audio, video), {"event": 3}, audio=5, visual=6, segments=3, hidden=8, dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> PSP:
        return PSP(self, rngs=rngs)


class PSP(LocalisationModel):
    """Positive sample propagation; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        widths = {"audio": config.audio, "video": config.visual}
        super().__init__(config.modalities, widths, config.segments, rngs=rngs)
        width = 2 * config.hidden
        self.eventness = config.eventness
        self.head, classes = only_head(config.classes)
        self.guide = AudioGuidedAttention(config.visual, config.audio, rngs=rngs)
        self.recurrent = nnx.Dict({m: Recurrent(widths[m], config.hidden, rngs=rngs) for m in self.modalities})
        self.propagate = PositiveSamplePropagation(width, threshold=config.threshold, dropout=config.dropout, rngs=rngs)
        self.localise = SegmentHead(width, classes, rngs=rngs)

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """With the term of the loss that needs the segments' labels, where the batch has them."""
        output = super().__call__(batch, keep)
        if self.eventness not in batch.target:
            return output
        audio, video = output.tokens["audio"], output.tokens["video"]
        event = (jnp.asarray(batch.target[self.eventness])[..., 0] > 0.5) & audio.valid & video.valid
        term = pair_similarity(audio.values, video.values, event, jnp.asarray(batch.weight))
        return dataclasses.replace(output, aux={**output.aux, "losses": {"pair_similarity": term}})

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``aux["segments"]``: e as ``eventness`` [B, T], and ``valid`` [B, T]."""
        audio, cells = self.segmented(tokens, keep)
        streams = {"audio": audio, "video": self.guide(cells, audio)}
        h = {m: s.replace(values=self.recurrent[m](masked(s.values, s.valid), s.valid)) for m, s in streams.items()}
        h, _ = self.propagate(h)
        joint = mean_of_segments(h)
        found = self.localise(joint.values, joint.valid)
        segments = {"eventness": found["event"], "valid": joint.valid}
        return Output({self.head: found["video"]}, h, aux={"segments": segments})
