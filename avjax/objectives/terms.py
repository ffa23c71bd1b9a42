"""A base objective and the terms that a model reports of itself."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.objectives.attention import AttentionTerms
from avjax.objectives.classification import Classification
from avjax.objectives.matching import Matching
from avjax.objectives.regression import Regression
from avjax.objectives.sequence import SegmentEvents, Transcription
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class WithTerms:
    """An objective plus the model's own terms, each times its weight: L = L_objective + sum_k weight_k term_k.

    A model puts its terms into ``output.aux["losses"]``: name -> Mean, such as the functions of
    ``avjax.objectives.contrastive`` give. Every term is reported under ``term/NAME``, also where its weight is 0 or
    not named.

    Attributes:
      objective: the base; None where the terms are all there is, as in pretraining.
      weights: (name, weight) of each term that counts.
    """

    objective: Classification | Regression | Transcription | SegmentEvents | Matching | AttentionTerms | None = (
        Classification()
    )
    weights: tuple[tuple[str, float], ...] = ()

    @property
    def task(self) -> str:
        """Of the base; classes without one."""
        return self.objective.task if self.objective else Classification().task

    @property
    def statistics(self) -> tuple[str, ...]:
        """Of attention, that the base asks for."""
        return getattr(self.objective, "statistics", ())

    @property
    def needs_second_view(self) -> bool:
        """Whether the base compares two views."""
        return getattr(self.objective, "needs_second_view", False)

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        terms = output.aux.get("losses", {})
        unknown = [name for name, _ in self.weights if name not in terms]
        if unknown:
            raise ValueError(
                f"the model reports no term {unknown[0]!r}; --objective.weights may name {', '.join(terms) or 'none'}"
            )
        loss, parts = self.objective(output, batch) if self.objective else (0.0, {})
        loss = jnp.asarray(loss + sum(weight * terms[name].value for name, weight in self.weights))
        return loss, parts | {f"term/{name}": term for name, term in terms.items()}

    def predictions(self, output: Output) -> dict[str, Array]:
        """Those of the base; of classes without one."""
        return (self.objective or Classification()).predictions(output)
