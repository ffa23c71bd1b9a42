"""What models of audio-visual event localisation share: a clip as T segments, each a sound and cells of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from flax import nnx

from avjax.nn.convolution import masked
from avjax.nn.encoders import Encoder
from avjax.nn.fusion import Tokens
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.segments import aligned
from avjax.streams import Stream

AUDIO, VIDEO = "audio", "video"


class LocalisationModel(AudioVisualModel):
    """A model of the streams ``audio`` and ``video``, of which the second has S cells at every time.

    Both keep widths of their own, so that features from files stay as they are until a guided attention has been over
    them.

    With one encoder the model is the baseline of that modality: the other is missing in every segment.

    Args:
      modalities: encoders; the picture's has a ``grid`` (time, height, width) whose cells are its tokens.
      widths: modality -> of its tokens.
      segments: T.
    """

    def __init__(self, modalities: Sequence[Encoder], widths: Mapping[str, int], segments: int, *, rngs: nnx.Rngs):
        names = [encoder.modality for encoder in modalities]
        if not names or not set(names) <= {AUDIO, VIDEO}:
            raise ValueError(f"event localisation is of audio and video, not of {', '.join(names) or 'nothing'}")
        super().__init__(modalities, widths, rngs=rngs)
        self.modalities = self.encoded if len(self.encoded) == 2 else (AUDIO, VIDEO)
        self.widths, self.segments = dict(widths), segments
        picture = next((encoder for encoder in modalities if encoder.modality == VIDEO), None)
        self.cells = 1 if picture is None else picture.tokens // picture.grid[0]

    def segmented(self, tokens: Tokens, keep: Keep) -> tuple[Stream, Stream]:
        """The sound [B, T, C] and the picture [B, T, S, C] of every segment."""
        streams = aligned(self.hidden(tokens, keep), self.segments, {VIDEO: self.cells})
        there = next(iter(streams.values()))
        for m, beside in ((AUDIO, ()), (VIDEO, (self.cells,))):
            if m not in streams:
                shape = (*there.values.shape[:2], *beside)
                values = jnp.zeros((*shape, self.widths[m]), there.values.dtype)
                streams[m] = there.replace(values=values, valid=jnp.zeros(shape, bool))
        return streams[AUDIO], streams[VIDEO]


def mean_of_segments(tokens: Tokens) -> Stream:
    """Mean over the modalities that a segment has: [B, T, C], 0 where it has none."""
    streams = list(tokens.values())
    number = sum(stream.valid.astype(jnp.int32) for stream in streams)
    total = sum(masked(stream.values, stream.valid) for stream in streams)
    values = total / jnp.maximum(number, 1)[..., None].astype(total.dtype)
    return streams[0].replace(values=values, valid=number > 0)


def only_head(classes: Mapping[str, int]) -> tuple[str, int]:
    """Name and number of classes of the one head of a model whose clips have one event each."""
    if len(classes) != 1:
        raise ValueError(f"a clip has one event, so there is one head, not {', '.join(classes) or 'none'}")
    return next(iter(classes.items()))
