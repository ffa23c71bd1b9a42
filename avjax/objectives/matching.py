"""Losses on which voice and which face, or sound and picture, belong together."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from avjax.nn.convolution import masked
from avjax.objectives.contrastive import info_nce, triplet
from avjax.objectives.rows import rows_mean, unit
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class Matching:
    """Two modalities of one identity are found to belong together.

    ``aux["embedding"]``: modality -> [B, C], of two modalities a and b; rows that have both count.

        info_nce:  each a finds the b of its row, and each b its a (see ``contrastive.info_nce``)
        triplet:   the b of a's row is nearer than those of other identities, lengths 1 (see ``contrastive.triplet``)

    Of a model that sees a pair as one, as AICANet does of triplets (``Frontend.triplets``):

        choice:    cross-entropy of which candidate is the own one, ``logits[match]`` [B, 2]; rows that have all count

    and ``aux["scores"]``: direction, such as ``voice_to_face`` -> [B, N], with the own candidate first.

    Attributes:
      kind: of the loss.
      head: of the identity; target [B, K], one-hot.
      match: head of a choice; target [B, 2].
      temperature: of info_nce.
      margin: of the triplets.
    """

    kind: Literal["info_nce", "triplet", "choice"] = "info_nce"
    head: str = "identity"
    match: str = "match"
    temperature: float = 0.07
    margin: float = 0.2

    task: ClassVar[str] = "matching"

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        weight = jnp.asarray(batch.weight)
        if self.kind == "choice":
            for stream in output.tokens.values():
                weight = weight * stream.valid.any(axis=1)
            logits = masked(output.logits[self.match], weight > 0)
            loss = rows_mean(optax.losses.softmax_cross_entropy(logits, batch.target[self.match]), weight)
            return loss.value, {f"loss/{self.match}": loss}
        (first, a), (second, b) = self._embeddings(output)
        for modality in (first, second):
            weight = weight * output.tokens[modality].valid.any(axis=1)
        if self.kind == "info_nce":
            loss = info_nce(a, b, weight, temperature=self.temperature)
        else:
            identity = jnp.asarray(batch.target[self.head]).argmax(axis=-1)
            loss = triplet(unit(a), unit(b), identity, weight, margin=self.margin)
        return loss.value, {f"loss/{self.kind}": loss}

    def predictions(self, output: Output) -> dict[str, Float[Array, "B C"]]:
        """Both embeddings of length 1, ``head/modality``; or the scores, ``head/direction``."""
        if self.kind == "choice":
            return {f"{self.head}/{direction}": scores for direction, scores in output.aux["scores"].items()}
        return {f"{self.head}/{modality}": unit(vectors) for modality, vectors in self._embeddings(output)}

    def _embeddings(self, output: Output) -> list[tuple[str, Array]]:
        found = sorted(output.aux.get("embedding", {}).items())
        if len(found) != 2:
            raise ValueError(
                'matching is of two modalities, and the model has embeddings, aux["embedding"], of'
                f" {', '.join(name for name, _ in found) or 'none'}"
            )
        return found
