"""Mixup: rows blended with one another, targets too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from avjax.data.augment.draws import Keys, named_keys, uniform
from avjax.streams import Batch


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Each row blended with another row, targets too (arXiv:1710.09412).

    The rows of a batch are ranked by a hash of their index, and each is blended with the next in rank, the last with
    the first: who meets whom depends on which rows there are, never on their order. Filler rows (weight 0) take no
    part. Rows meet across the whole batch, so on several devices the features are exchanged once.

    A blended row stays valid exactly where it was. Where the partner has nothing there (padding, a missing modality)
    the row's own values stay. The target of a modality that the partner lacks is the row's own, and the target of
    ``head`` takes the mean weight over the modalities that the row has.

    Attributes:
      alpha: a row's own weight is drawn from Beta(alpha, alpha).
      by_modality: one weight a modality, each with its own target (MBT's modality mixup), or one for all.
      probability: share of the rows that are blended.
    """

    alpha: float = 0.5
    by_modality: bool = True
    probability: float = 1.0

    def __call__(self, batch: Batch, keys: Keys, modalities: Sequence[str]) -> Batch:
        """Blends the float streams named ``modalities``; every other stream stays, with weight 1.

        Writes ``target[head]`` and ``target[f"{head}/{modality}"]`` for each stream; where the batch has a target of a
        modality's own already, that one is blended. Labels over time blend where both rows have one.

        Raises:
          ValueError: for sequences of tokens, between which there is nothing.
        """
        for head, target in batch.target.items():
            if jnp.issubdtype(target.dtype, jnp.integer):
                raise ValueError(f"mixup cannot blend the tokens of head {head!r}; leave it out of the augmentation")
        real = jnp.asarray(batch.weight) > 0
        partner = pairing(named_keys(keys, ["pairing"])[0], batch, real)
        mixed = real & (partner != jnp.arange(len(real))) & (uniform(keys, "mixup")[0] < self.probability)
        names = [f"weight {name}" if self.by_modality else "weight" for name in modalities]
        beta = jax.vmap(jax.vmap(lambda key: jax.random.beta(key, self.alpha, self.alpha, dtype=jnp.float32)))
        drawn = dict(zip(modalities, beta(named_keys(keys, names)), strict=True)) if modalities else {}
        streams, weights, present = {}, {}, {}
        for name in sorted(batch.streams):
            stream = batch.streams[name]
            valid = jnp.asarray(stream.valid)
            present[name] = valid.any(1)
            streams[name], weights[name] = stream, jnp.ones(len(real), jnp.float32)
            if name in modalities:
                weights[name] = jnp.where(mixed & present[name] & present[name][partner], drawn[name], 1)
                share = jnp.where(valid & valid[partner], weights[name][:, None], 1)
                share = jnp.expand_dims(share, tuple(range(2, stream.values.ndim)))
                values = share * stream.values + (1 - share) * stream.values[partner]
                streams[name] = stream.replace(values=values)
        had = sum(present.values())
        joint = sum(weights[name] * present[name] for name in streams) / jnp.maximum(had, 1)
        joint = jnp.where(had > 0, joint, 1)

        def blend(head: str, target: jax.Array, weight: jax.Array) -> jax.Array:
            if f"{head}/valid" in batch.target:
                there = jnp.asarray(batch.target[f"{head}/valid"]) > 0
                weight = jnp.where(there & there[partner], weight[:, None], 1)
            weight = jnp.expand_dims(weight, tuple(range(weight.ndim, target.ndim)))
            return weight * target + (1 - weight) * target[partner]

        target = {}
        for head in batch.target:
            if "/" in head:
                continue
            target[head] = blend(head, jnp.asarray(batch.target[head]), joint)
            for name in streams:
                own_head = f"{head}/{name}"
                target[own_head] = blend(
                    head, jnp.asarray(batch.target.get(own_head, batch.target[head])), weights[name]
                )
        return batch.replace(streams=streams, target={**batch.target, **target})


def pairing(keys: Keys, batch: Batch, real: Bool[Array, " B"]) -> Int[Array, " B"]:
    """The row that each row is blended with; its own for filler rows and for a lone row."""
    rank_of = jax.vmap(lambda key: jax.random.bits(key, (), jnp.uint32))(keys)
    # A record that comes twice has one hash and one index, but crops that start at different times.
    starts = [jnp.asarray(batch.streams[name].start) for name in sorted(batch.streams)]
    order = jnp.lexsort([*starts, jnp.asarray(batch.index), rank_of, ~real])
    rank = jnp.argsort(order)
    after = jnp.where(rank + 1 < real.sum(), rank + 1, 0)
    return jnp.where(real, order[after], jnp.arange(len(real)))
