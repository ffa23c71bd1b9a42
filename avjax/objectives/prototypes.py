"""PMR: any model with a prototype of every class in each modality, to help the modality that learns more slowly.

Fan et al. 2023: PMR, Prototypical Modal Rebalance for Multimodal Learning.

    z_m   = mean of the tokens of modality m, encoded by itself
    c_m,k <- momentum c_m,k + (1 - momentum) mean of z_m over the rows of class k
    L     = L_model + alpha 1[s_m < s of every other] CE(softmax_k(-||z_m - c_m,k||), y)

    model=WithPrototypes(late_fusion.Config(...)), objective=WithTerms(Classification(), (("prototype", 1.0),))

The release's: everything above, with alpha 1 and momentum 0.2 unless told; its prototypes are updated once an epoch,
from a tenth of the data, with the model as it is evaluated. Ours: from the batch of every step, by the features that
its loss has seen, and after the loss, so that no row is its own prototype. A batch that is cut into microbatches
updates with each. A row whose class has no prototype yet does not count.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.fusion import Tokens, present
from avjax.nn.model import Around, AudioVisualModel, Inner, Keep, token_shapes
from avjax.nn.pooling import mean_pool
from avjax.objectives.balance import prototype_logits, prototype_losses, updated_prototypes
from avjax.objectives.rows import batch_mean
from avjax.objectives.wrapper import ModelWrapper, with_terms
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class WithPrototypes(Around[Inner]):
    """Configuration of a model that keeps prototypes.

    Attributes:
      model: configuration of the model, one whose call is fuse(encode(batch)).
      head: whose classes have prototypes; the first one's unless told.
      momentum: what stays of a prototype at every step.
    """

    head: str = ""
    momentum: float = 0.2

    def build(self, rngs: nnx.Rngs) -> PrototypeModel:
        return PrototypeModel(self, rngs=rngs)


class Prototypes(nnx.Variable):
    """c [K, C] of a modality, or which of them there are: kept beside the parameters, as batch statistics are."""


class PrototypeModel(ModelWrapper):
    """The model, with the term ``prototype`` in ``aux["losses"]``, and the confidences that it goes by.

    ``confidence/m`` is the mean probability of the true class by the prototypes of modality m. Prototypes move in
    training alone.
    """

    def __init__(self, config: WithPrototypes, *, rngs: nnx.Rngs):
        super().__init__(config.model.build(rngs))
        if type(self.model).__call__ is not AudioVisualModel.__call__:
            raise ValueError(
                f"{type(self.model).__name__} has terms of its own and cannot be given prototypes: take a model whose"
                " call is fuse(encode(batch))"
            )
        self.head = config.head or next(iter(config.classes))
        self.momentum = config.momentum
        count = config.classes[self.head]
        shapes = token_shapes(self.model, config.modalities, lambda model, batch: model.encode(batch))
        self.prototypes = nnx.Dict({m: Prototypes(jnp.zeros((count, shapes[m][-1]))) for m in self.modalities})
        self.seen = nnx.Dict({m: Prototypes(jnp.zeros(count, bool)) for m in self.modalities})

    def __call__(self, batch: Batch, keep: Keep = None) -> Output:
        tokens = self.encode(batch, keep)
        output = self.fuse(tokens)
        return with_terms(output, self._terms(tokens, batch))

    def _terms(self, tokens: Tokens, batch: Batch) -> dict[str, Mean]:
        there, weight = present(tokens), jnp.asarray(batch.weight)
        z, target, logits, known = {}, {}, {}, {}
        for m in self.modalities:
            z[m] = mean_pool(tokens[m].values, tokens[m].valid).astype(jnp.float32)
            target[m] = jnp.asarray(batch.target.get(f"{self.head}/{m}", batch.target[self.head]))
            seen = self.seen[m][...]
            logits[m] = prototype_logits(z[m], self.prototypes[m][...], seen)
            known[m] = weight * there[m] * ((target[m] * ~seen).sum(axis=-1) == 0)
        losses, confidence = prototype_losses(logits, target, known)
        if not self.use_running_average:
            for m in self.modalities:
                self._update(m, z[m], target[m], weight * there[m])
        term = batch_mean(sum(part.value for part in losses.values()), weight)
        return {"prototype": term, **{f"confidence/{m}": confidence[m] for m in self.modalities}}

    def _update(
        self, modality: str, z: Float[Array, "B C"], target: Float[Array, "B K"], weight: Float[Array, " B"]
    ) -> None:
        old = self.prototypes[modality][...], self.seen[modality][...]
        prototypes, seen = updated_prototypes(*old, z, target, weight, momentum=self.momentum)
        self.prototypes[modality][...] = prototypes
        self.seen[modality][...] = seen
