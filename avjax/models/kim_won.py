"""Audio-visual action recognition through one image encoder.

Kim, Won: audio-visual action recognition with a transformer for fusion, 2024.

    s      = a frame,  t = a picture of nine frames,  a = the spectrogram as a picture
    X_i    = Encoder(i) + e_i,   i in s, t, a                     one encoder, one token for every cell of its map
    S      = [c | X_s | X_t | X_a],   S <- Block_l(S),   logits = W LN(S)[0]

The paper's, from its abstract: one shared image encoder, a Swin Transformer, for a spatial frame, a temporal image
made of several frames and the spectrogram as an image; a fusion module; UCF-51 and Kinetics-Sounds. The source could
not be read in full; the form above is ours: a ResNet for the Swin, the temporal image as a 3 x 3 grid of small frames,
spread evenly over what is valid (the spatial frame is the middle one), the fusion module as a transformer over the
union. A missing modality's tokens are hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.dense import layer_norm, learned_tokens
from avjax.nn.encoders import Encoder, FrameConv, ResNet, hide
from avjax.nn.fusion import MergedFusion, Tokens
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import Classifier
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, Size
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="Kim and Won",
    source="Kim and Won 2024 [58]",
    mechanism="self",
    fusion="early",
    architecture="CNN-Transformer",
    task="action recognition",
    corpora=("UCF-51", "Kinetics-Sounds"),
    metrics=("top-1",),
    use="a good image encoder is at hand and few parameters are to be added",
    avoid="fine movements: nine small frames are all that is seen of time",
    ours="encoder, temporal image and fusion module; only the idea could be read",
)


@dataclasses.dataclass(frozen=True)
class Images:
    """How a modality becomes pictures for the shared encoder; the tokens are the cells of its map, picture by picture.

    Attributes:
      modality: name of the stream.
      shape: (T, F) of a spectrogram, one picture; (T, height, width, 3) of a video, two: the middle frame and nine of
        them in a grid.
      encoder: shared; its shape is (pictures of all modalities, height, width, 3), with a token for every cell.
    """

    modality: str
    shape: tuple[int, ...]
    encoder: Encoder

    @property
    def pictures(self) -> int:
        return 1 if len(self.shape) == 2 else 2

    @property
    def tokens(self) -> int:
        return self.pictures * self.encoder.tokens // self.encoder.shape[0]

    def build(self, width: int, *, rngs: nnx.Rngs) -> Painter:
        return Painter(self)


class Painter(nnx.Module):
    """Pictures of a stream, without parameters."""

    def __init__(self, images: Images):
        self.images = images

    def __call__(self, stream: Stream, keep: Bool[Array, "B _"] | None = None) -> Stream:
        """Values [B, pictures, height, width, 3]; which cells are kept is asked for after the encoder."""
        values, valid = jnp.asarray(stream.values), jnp.asarray(stream.valid)
        height, width = self.images.encoder.shape[1:3]
        if len(self.images.shape) == 2:
            pictures = [jnp.repeat(resized(values[..., None], height, width), 3, axis=-1)]
        else:
            pictures = [resized(frame_at(values, valid, 0, 1), height, width), grid(values, valid, height, width)]
        there = jnp.repeat(valid.any(axis=1, keepdims=True), len(pictures), axis=1)
        rate = stream.rate * len(pictures) / self.images.shape[0]
        return stream.replace(values=masked(jnp.stack(pictures, axis=1), there), valid=there, rate=rate)


def frame_at(
    values: Float[Array, "B T h w C"], valid: Bool[Array, "B T"], number: int, count: int
) -> Float[Array, "B h w C"]:
    """The middle of the ``number``-th of ``count`` equal parts of the valid frames; the first frame where none is."""
    before = valid.sum(axis=1, keepdims=True) * (2 * number + 1) // (2 * count)
    place = jnp.argmax(jnp.cumsum(valid, axis=1) > before, axis=1)
    return jnp.take_along_axis(values, place[:, None, None, None, None], axis=1)[:, 0]


def grid(
    values: Float[Array, "B T h w C"], valid: Bool[Array, "B T"], height: int, width: int
) -> Float[Array, "B H W C"]:
    """Nine frames in order of time, row by row."""
    frames = [frame_at(values, valid, number, 9) for number in range(9)]
    rows = [jnp.concatenate(frames[begin : begin + 3], axis=2) for begin in (0, 3, 6)]
    return resized(jnp.concatenate(rows, axis=1), height, width)


def resized(x: Float[Array, "B h w C"], height: int, width: int) -> Float[Array, "B H W C"]:
    """Linearly, without aliasing."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "linear")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: all with the same encoder.
      classes: head -> number of classes.
      size: of the fusion module.
      dropout: of it.
    """

    modalities: tuple[Images, ...]
    classes: Mapping[str, int]
    size: Size = Size(512, 2, 8)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        pictures = sum(images.pictures for images in self.modalities)
        for images in self.modalities:
            if images.encoder != self.modalities[0].encoder or images.encoder.shape[0] != pictures:
                raise ValueError(
                    f"{images.modality}: all modalities share one encoder, of {pictures} pictures; its shape is"
                    f" {images.encoder.shape}"
                )

    @classmethod
    def paper(cls) -> Config:
        """Kinetics-Sounds in a setting of ours: 10 s of 128 mel bands, 16 frames; pictures of 224 x 224; ResNet-50."""
        encoder = ResNet("picture", (3, 224, 224, 3), depth=50, cells=True)
        audio, video = Images("audio", (1000, 128), encoder), Images("video", (16, 224, 224, 3), encoder)
        return cls((audio, video), {"action": 31})

    @classmethod
    def tiny(cls) -> Config:
        encoder = FrameConv("picture", (3, 8, 8, 3), channels=(8, 8), cells=True)
        audio, video = Images("audio", (8, 6), encoder), Images("video", (3, 4, 4, 3), encoder)
        return cls((audio, video), {"action": 3}, Size(16, 1, 2), dropout=0.0)

    def build(self, rngs: nnx.Rngs) -> KimWon:
        return KimWon(self, rngs=rngs)


class KimWon(AudioVisualModel):
    """One encoder for all pictures, one transformer for all tokens; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size = config.size
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        self.picture = config.modalities[0].encoder.build(size.width, rngs=rngs)
        self.kind = nnx.Dict({e.modality: learned_tokens(e.pictures, size.width, rngs) for e in config.modalities})
        self.class_token = learned_tokens(1, size.width, rngs)
        blocks = [Block(size, dropout=config.dropout, rngs=rngs) for _ in range(size.depth)]
        self.layers = Stack("fusion", [MergedFusion(block, ("class", *names)) for block in blocks])
        self.norm = layer_norm(size.width, rngs)
        self.classify = Classifier(size.width, config.classes, rngs=rngs)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """X_i, the pictures of a modality one after the other."""
        pictures = super().encode(batch)
        first = pictures[self.modalities[0]]
        joined = first.replace(
            values=jnp.concatenate([pictures[m].values for m in self.modalities], axis=1),
            valid=jnp.concatenate([pictures[m].valid for m in self.modalities], axis=1),
        )
        cells = self.picture(joined)
        each, begin, tokens = cells.values.shape[1] // joined.values.shape[1], 0, {}
        for m in self.modalities:
            count = each * pictures[m].values.shape[1]
            kind = jnp.repeat(self.kind[m][...], each, axis=0).astype(cells.values.dtype)
            tokens[m] = pictures[m].replace(
                values=cells.values[:, begin : begin + count] + kind,
                valid=cells.valid[:, begin : begin + count],
                rate=pictures[m].rate * each,
            )
            begin += count
        return {m: hide(tokens[m], (keep or {}).get(m)) for m in self.modalities}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """From X_i to the logits."""
        tokens = self.hidden(tokens, keep)
        first = tokens[self.modalities[0]]
        rows = first.valid.shape[0]
        start = jnp.broadcast_to(self.class_token[...].astype(first.values.dtype), (rows, 1, first.values.shape[-1]))
        union = {"class": first.replace(values=start, valid=jnp.ones((rows, 1), bool)), **tokens}
        union, _ = self.layers(union)
        logits = self.classify(self.norm(union.pop("class").values[:, 0]))
        return Output(logits=logits, tokens=union)
