"""Group-robust training: any model with a weight of every group of clips, which grows with the group's loss.

Sagawa et al. 2020: Distributionally Robust Neural Networks for Group Shifts, algorithm 1.

    l_g = mean of the loss over the batch's rows of group g, 0 where it has none
    q_g <- q_g exp(rate l_g) / sum of the same over all groups
    L   = sum_g q_g l_g

    model=WithGroups(late_fusion.Config(...)), objective=WithTerms(None, (("group", 1.0),))

Groups are the classes of a head of the records: of one that the model predicts, which makes the loss that of the worst
classes, or of another, such as the speaker or the background. The paper draws one clip a step, its release a batch, as
here. Ours: a batch that is cut into microbatches moves the weights with each, and a row without a group does not count.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.convolution import masked
from avjax.nn.model import Around, Inner, Keep
from avjax.objectives.classification import Classification
from avjax.objectives.rows import batch_mean
from avjax.objectives.wrapper import ModelWrapper, with_terms
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class WithGroups(Around[Inner]):
    """Configuration of a model that keeps a weight of every group.

    Attributes:
      model: configuration of the model.
      head: whose classes are the groups; the model's first one's unless told.
      count: how many groups there are, where the model does not predict that head.
      rate: how fast the weights move; 0.01 in the paper.
      classification: the loss of a row.
    """

    head: str = ""
    count: int = 0
    rate: float = 0.01
    classification: Classification = Classification()

    def build(self, rngs: nnx.Rngs) -> GroupModel:
        return GroupModel(self, rngs=rngs)


class GroupWeights(nnx.Variable):
    """q [G], kept beside the parameters, as batch statistics are."""


class GroupModel(ModelWrapper):
    """The model, with the term ``group`` in ``aux["losses"]``, and ``worst_group``, the greatest l_g of the batch.

    The weights move in training alone.
    """

    def __init__(self, config: WithGroups, *, rngs: nnx.Rngs):
        super().__init__(config.model.build(rngs))
        self.head = config.head or next(iter(config.classes))
        count = config.count or config.classes.get(self.head, 0)
        if not count:
            raise ValueError(f"the model does not predict {self.head!r}: say with count how many groups it has")
        self.rate, self.classification = config.rate, config.classification
        self.weights = GroupWeights(jnp.full(count, 1 / count))

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        output = self.model(batch) if keep is None else self.model(batch, keep)
        return with_terms(output, self._terms(output, batch))

    def _terms(self, output: Output, batch: Batch) -> dict[str, Mean]:
        member, weights = self._members(batch), self.weights[...]
        losses = group_losses(self.classification.of_rows(output, batch), member)
        if not self.use_running_average:
            weights = updated_weights(weights, losses, rate=self.rate)
            self.weights[...] = weights
        counted = member.sum(1)
        return {
            "group": batch_mean((weights * losses).sum(), counted),
            "worst_group": batch_mean(losses.max(), counted),
        }

    def _members(self, batch: Batch) -> Float[Array, "B G"]:
        known: Any = batch.target.get(self.head)
        if known is None or known.shape != (len(batch.weight), len(self.weights)):
            had = {name: target.shape for name, target in batch.target.items()}
            raise ValueError(
                f"the groups are {len(self.weights)} classes of {self.head!r}, and the batch has targets {had}: take a"
                " head of the records, and its number of classes"
            )
        return jnp.asarray(known) * jnp.asarray(batch.weight)[:, None]


def group_losses(rows: Float[Array, " B"], member: Float[Array, "B G"]) -> Float[Array, " G"]:
    """l_g: mean of the rows by their membership; 0 where a group has none, whatever rows of no group hold."""
    total = member.sum(0)
    return masked(rows, member.any(1)) @ member / jnp.where(total > 0, total, 1)


def updated_weights(
    weights: Float[Array, " G"], losses: Float[Array, " G"], *, rate: float = 0.01
) -> Float[Array, " G"]:
    """q_g exp(rate l_g), made to sum to 1; has no gradient."""
    return jax.lax.stop_gradient(jax.nn.softmax(jnp.log(jnp.maximum(weights, 1e-30)) + rate * losses))
