"""DCM, dual cross-modality attention for audio-visual speech recognition.

Lee et al.: Audio-Visual Speech Recognition Based on Dual Cross-Modality Attentions with the Transformer Model, 2020.
The source could not be read in full. What is known of it: a transformer from sequence to sequence whose decoder is
given both the sound as the picture asks of it and the picture as the sound asks of it, learned with CTC and
attention together. The form below is ours:

    X_m    = Transformer_m(W_m m)
    H_a    = X_a + MHA(X_a, X_v),   H_v = X_v + MHA(X_v, X_a)         dual cross-modality attention
    c_t    = W [H_a,t; H_v,t]                                         logits of CTC, frame by frame
    p(y_i) = Decoder(y_1 ... y_i-1; H_a, H_v)                         attends to both, side by side in the channels

``Transcription(ctc=0.1)`` is the objective; what it needs is in ``aux``: c as ``ctc``, the decoder's logits under
teacher forcing as ``decoder`` where the batch has a transcript, and ``valid`` frames. Tokens are as it has them: 0 is
CTC's blank, and start and end of a sentence to the decoder. A clip's logits are max_t c_t, which tokens are said
anywhere. A missing modality is heard by nobody: it has no frames, and the other one's context is its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from avjax.models import System
from avjax.nn.convolution import masked
from avjax.nn.encoders import Encoder, Precomputed
from avjax.nn.fusion import ParallelCrossAttention, Tokens
from avjax.nn.heads import AttentionDecoder, CTCHead
from avjax.nn.model import AudioVisualModel, Keep
from avjax.nn.pooling import max_pool
from avjax.nn.segments import aligned
from avjax.nn.temporal import TemporalTransformer
from avjax.nn.transformer import Size
from avjax.streams import Batch, Output, Stream

SYSTEM = System(
    name="DCM",
    source="Lee et al. 2020 [17]",
    mechanism="cross",
    fusion="hybrid",
    architecture="Transformer",
    task="audio-visual speech recognition",
    corpora=("LRS2-BBC", "LRS3-TED"),
    metrics=("WER", "CER"),
    use="transcripts of speech, of which noise may hide the sound or a hand the lips",
    avoid="little transcribed speech: a decoder from sequence to sequence needs much of it",
    ours="everything but the kinds of the parts",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What to build.

    Attributes:
      modalities: encoders.
      classes: head -> number of tokens of its vocabulary, with 0, the blank.
      size: of the encoders' transformers.
      decoder_depth: layers of the decoder.
      frames: on which CTC's logits are.
      length: most tokens of a transcript.
      dropout: of residual branches and feed-forward layers.
    """

    modalities: tuple[Encoder, ...]
    classes: Mapping[str, int]
    size: Size = Size(512, 6, 8)
    decoder_depth: int = 6
    frames: int = 150
    length: int = 100
    dropout: float = 0.1

    @classmethod
    def paper(cls) -> Config:
        """A setting of ours: 6 s at 25 Hz; four frames of 321 frequencies side by side, 512 features of lips."""
        audio, video = Precomputed("audio", (150, 4 * 321)), Precomputed("video", (150, 512))
        return cls((audio, video), {"text": 41})

    @classmethod
    def tiny(cls) -> Config:
        audio, video = Precomputed("audio", (6, 5)), Precomputed("video", (4, 6))
        small = {"decoder_depth": 1, "frames": 4, "length": 4, "dropout": 0.0}
        return cls((audio, video), {"text": 3}, Size(16, 1, 2), **small)

    def build(self, rngs: nnx.Rngs) -> DCM:
        return DCM(self, rngs=rngs)


class DCM(AudioVisualModel):
    """Dual cross-modality attention, CTC and a decoder; see the module's docstring."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        size, dropout = config.size, config.dropout
        super().__init__(config.modalities, size.width, rngs=rngs)
        names = self.modalities
        self.frames = config.frames
        self.temporal = nnx.Dict(
            {
                e.modality: TemporalTransformer(
                    size, e.tokens, dropout=dropout, name=f"encoder_{e.modality}", rngs=rngs
                )
                for e in config.modalities
            }
        )
        cross = ParallelCrossAttention(size.width, size.heads, names, dropout=dropout, rngs=rngs)
        # One modality alone, as a baseline, has nobody to ask.
        self.cross = nnx.data(cross if len(names) > 1 else None)
        self.ctc = nnx.Dict({h: CTCHead(len(names) * size.width, k - 1, rngs=rngs) for h, k in config.classes.items()})
        decoder, options = dataclasses.replace(size, depth=config.decoder_depth), {"dropout": dropout, "rngs": rngs}
        # One place more than tokens: the end is a label too.
        self.decode = nnx.Dict(
            {
                h: AttentionDecoder(decoder, k, names, length=config.length + 1, **options)
                for h, k in config.classes.items()
            }
        )

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        """With the decoder's logits for the transcripts that the batch has."""
        output = super().__call__(batch, keep)
        decoded = {
            head: self.decode[head](_given(batch.target[head]), output.tokens)
            for head in self.decode
            if head in batch.target
        }
        return dataclasses.replace(output, aux={**output.aux, "decoder": decoded})

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """X_m of every modality."""
        tokens = super().encode(batch, keep)
        return {m: s.replace(values=self.temporal[m](s.values, s.valid)) for m, s in tokens.items()}

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """``tokens`` of the output are H, the contexts of the decoder; ``aux``: ``ctc`` and ``valid``, by head."""
        h = self.hidden(tokens, keep)
        if self.cross is not None:
            h, _ = self.cross(h)
        frames = aligned(h, self.frames)
        joined = jnp.concatenate([masked(frames[m].values, frames[m].valid) for m in self.modalities], axis=-1)
        valid = jnp.stack([frames[m].valid for m in self.modalities]).any(axis=0)
        ctc = {head: module(joined, valid) for head, module in self.ctc.items()}
        logits = {head: max_pool(ctc[head], valid) for head in ctc}
        return Output(logits, h, aux={"ctc": ctc, "valid": dict.fromkeys(ctc, valid)})


def _given(target: Array) -> Array:
    """[0, y_1 ... y_L] of a transcript [B, L]: what comes before each of its tokens, and before its end."""
    return jnp.pad(jnp.asarray(target).astype(jnp.int32), ((0, 0), (1, 0)))
