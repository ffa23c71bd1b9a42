"""Losses on which voice and which face, or sound and picture, belong together."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.objectives.contrastive import info_nce, triplet
from avjax.objectives.rows import unit
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class Matching:
    """Embeddings of two modalities are near where they are of one identity.

    ``aux["embedding"]``: modality -> [B, C], of two modalities a and b; rows that have both count.

        info_nce:  each a finds the b of its row, and each b its a (see ``contrastive.info_nce``)
        triplet:   the b of a's row is nearer than those of other identities, lengths 1 (see ``contrastive.triplet``)

    Attributes:
      kind: of the loss.
      head: of the identity; target [B, K], one-hot.
      temperature: of info_nce.
      margin: of the triplets.
    """

    kind: Literal["info_nce", "triplet"] = "info_nce"
    head: str = "identity"
    temperature: float = 0.07
    margin: float = 0.2

    task: ClassVar[str] = "matching"

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        (first, a), (second, b) = self._embeddings(output)
        weight = jnp.asarray(batch.weight)
        for modality in (first, second):
            weight = weight * output.tokens[modality].valid.any(axis=1)
        if self.kind == "info_nce":
            loss = info_nce(a, b, weight, temperature=self.temperature)
        else:
            identity = jnp.asarray(batch.target[self.head]).argmax(axis=-1)
            loss = triplet(unit(a), unit(b), identity, weight, margin=self.margin)
        return loss.value, {f"loss/{self.kind}": loss}

    def predictions(self, output: Output) -> dict[str, Float[Array, "B C"]]:
        """Both embeddings of length 1, ``head/modality``."""
        return {f"{self.head}/{modality}": unit(vectors) for modality, vectors in self._embeddings(output)}

    def _embeddings(self, output: Output) -> list[tuple[str, Array]]:
        found = sorted(output.aux.get("embedding", {}).items())
        if len(found) != 2:
            raise ValueError(
                'matching is of two modalities, and the model has embeddings, aux["embedding"], of'
                f" {', '.join(name for name, _ in found) or 'none'}"
            )
        return found
