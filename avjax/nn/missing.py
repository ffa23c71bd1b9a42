"""Learned tokens for a modality that is not there, around any system.

Ramazanova, Pardo, Alwassel, Ghanem: Exploring Missing Modality in Multimodal Egocentric Datasets, CVPR workshops 2024:
where a clip lacks a modality its tokens are learned ones, trained on clips that lack it, instead of being left out.

    X_m <- M_m   in rows that have nothing of m, behind the encoder

    model=WithMissingTokens(mbt.Config(...)),
    frontend=Frontend(..., augment=Augment(dropout=ModalityDropout(drop=0.5)))

The paper: one learned vector, at every place. Ours: one a place, M_m [N, C], since what an encoder makes of a clip
tells its places apart; and also in rows that lack all modalities. To the system the modality is there from then on:
it counts in means over modalities, and its own logits are trained. Without ``ModalityDropout``, or clips that lack
something, the tokens stay as they were drawn.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from flax import nnx

from avjax.nn.dense import learned_tokens
from avjax.nn.fusion import Tokens
from avjax.nn.model import Around, AudioVisualModel, Embedded, Inner, Keep, token_shapes
from avjax.streams import Batch, Output, Stream


@dataclasses.dataclass(frozen=True)
class WithMissingTokens(Around[Inner]):
    """Configuration of a model that has learned tokens for what is missing.

    Attributes:
      model: configuration of a system.
    """

    def build(self, rngs: nnx.Rngs) -> MissingTokenModel:
        return MissingTokenModel(self, rngs=rngs)


class MissingTokenModel(nnx.Module):
    """The system, which is never without a modality; see the module's docstring."""

    def __init__(self, config: WithMissingTokens, *, rngs: nnx.Rngs):
        model = config.model.build(rngs)
        if not isinstance(model, AudioVisualModel):
            raise TypeError(
                f"{type(model).__name__} is no system but one with something around it: put WithMissingTokens inside,"
                " around the system's own configuration"
            )
        self.model = model
        self.modalities, self.encoded = model.modalities, model.encoded
        shapes = token_shapes(model, config.modalities, AudioVisualModel.embeddings)
        # A token may be a picture that the system encodes further.
        self.missing = nnx.Dict({m: learned_tokens(shapes[m][0], math.prod(shapes[m][1:]), rngs) for m in self.encoded})

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        return self.model(self.filled(batch), keep)

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """The model's, of the filled batch."""
        return self.model.encode(self.filled(batch), keep)

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """The model's."""
        return self.model.fuse(tokens, keep)

    def filled(self, batch: Batch) -> Batch:
        """Every modality behind its encoder, the learned tokens in rows that lack it."""
        streams: dict[str, Any] = dict(batch.streams)
        for modality, tokens in self.model.embeddings(batch).items():
            lacking = ~jnp.asarray(batch.streams[modality].valid).any(axis=1)
            values = tokens.values
            learned = self.missing[modality][...].astype(values.dtype).reshape(values.shape[1:])
            streams[modality] = Embedded(
                jnp.where(lacking.reshape(-1, *[1] * learned.ndim), learned, values),
                tokens.valid | lacking[:, None],
                tokens.start,
                tokens.rate,
            )
        return batch.replace(streams=streams)
