"""Losses on what attention reports of itself: how much each modality gets, how spread out it is, whether heads differ.

The statistics come from the kernels (``avjax.nn.statistics``), with exact gradients and in O(N) memory. All terms are
read off one site of the model, from the tokens that attend to anything:

    balance        sum over layers of KL(pi || m),  m the mean mass of each group, pi its prior
    entropy        mean of max(0, h0 - H / log N)^2, N the keys that a query may see, missing ones counted
    decorrelation  mean over pairs of heads of <M_h, M_h'>
    stability      mean of JSD(M, M') / log 2, M' the same clips in a second view
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.nn.statistics import Site
from avjax.objectives.classification import Classification
from avjax.objectives.rows import batch_mean
from avjax.streams import Batch, Mean, Output


@dataclasses.dataclass(frozen=True)
class AttentionTerms:
    """Classification with terms on attention; every term is reported, also where its weight is 0.

    Attributes:
      classification: the loss to which the terms are added.
      site: of which attention; ``capture_statistics`` tells the names.
      balance: weight of the divergence of mean attention mass from ``prior``.
      prior: share that each group of keys is to get, in their order; equal shares where empty.
      entropy: weight of the penalty on attention that is narrower than ``floor``.
      floor: h0, as a share of the highest entropy, 0 to 1.
      decorrelation: weight of the likeness of heads in what they attend to.
      stability: weight of the change of masses between two views; needs ``Experiment.second_view``.
    """

    classification: Classification = Classification()
    site: str = "fusion.audio+video"
    balance: float = 0.0
    prior: tuple[float, ...] = ()
    entropy: float = 0.0
    floor: float = 0.8
    decorrelation: float = 0.0
    stability: float = 0.0

    @property
    def statistics(self) -> tuple[str, ...]:
        """What a training step records for the terms."""
        return ("mass", "entropy")

    @property
    def needs_second_view(self) -> bool:
        """Whether a term compares two views."""
        return self.stability > 0

    @property
    def task(self) -> str:
        """Of the classification."""
        return self.classification.task

    def __call__(self, output: Output, batch: Batch) -> tuple[Float[Array, ""], dict[str, Mean]]:
        loss, parts = self.classification(output, batch)
        site = self._site(output.aux["attention"])
        # Where a modality is missing there is no choice between them.
        weight = batch.weight * jnp.stack([s.valid.any(axis=1) for s in output.tokens.values()]).all(axis=0)
        terms = {
            "balance": balance(site, self._prior(site), weight),
            "entropy": entropy_floor(site, self.floor, weight),
            "decorrelation": decorrelation(site, weight),
        }
        if "second_view" in output.aux:
            terms["stability"] = instability(site, self._site(output.aux["second_view"].aux["attention"]), weight)
        loss = loss + sum(getattr(self, name) * term.value for name, term in terms.items() if getattr(self, name))
        return loss, parts | {f"attention/{name}": term for name, term in terms.items()}

    def predictions(self, output: Output) -> dict[str, Float[Array, "B K"]]:
        """Of the classification."""
        return self.classification.predictions(output)

    def _site(self, sites: Mapping[str, Site]) -> Site:
        if self.site not in sites:
            raise ValueError(
                f"the model has no attention at {self.site!r}; set --objective.site to one of {', '.join(sites)}"
            )
        return sites[self.site]

    def _prior(self, site: Site) -> np.ndarray:
        groups = site.keys.names
        prior = np.asarray(self.prior or [1.0] * len(groups), np.float32)
        if len(prior) != len(groups) or not (prior > 0).all():
            raise ValueError(
                f"--objective.prior: needs a share above 0 for each of {', '.join(groups)}, got {self.prior}"
            )
        return prior / prior.sum()


def balance(site: Site, prior: Float[np.ndarray, " G"], weight: Float[Array, " B"]) -> Mean:
    """sum_l KL(prior || mean mass in layer l), in nats; 0 where every layer attends as the prior has it.

    A number of the whole (micro)batch: that of two halves is not the mean of theirs.
    """
    mass = site["mass"]
    rows = _rows(mass, weight)
    mean = (mass * rows[..., None]).sum((1, 2, 3)) / jnp.maximum(rows.sum((1, 2, 3)), 1e-8)[:, None]
    divergence = jnp.sum(prior * (jnp.log(prior) - jnp.log(mean + 1e-8)), axis=-1)
    return batch_mean(divergence.sum(), weight)


def entropy_floor(site: Site, floor: float, weight: Float[Array, " B"]) -> Mean:
    """Mean of max(0, floor - H / log N)^2 over layers, heads and queries.

    N is the number of keys that the mask's groups allow; where many of them are padding, a high floor is out of reach.
    """
    highest = np.repeat(np.log(np.maximum(site.in_sight, 2)), site.queries.lengths)
    lacking = jnp.square(jax.nn.relu(floor - site["entropy"] / highest))
    return _mean(lacking, _rows(site["mass"], weight))


def decorrelation(site: Site, weight: Float[Array, " B"]) -> Mean:
    """Mean of <M_h, M_h'> over pairs of heads, layers and queries: 1 where all heads attend to one group alone."""
    mass = site["mass"]
    heads = mass.shape[2]
    together = jnp.square(mass.sum(2)).sum(-1) - jnp.square(mass).sum((2, -1))
    return _mean(together / max(heads * (heads - 1), 1), _rows(mass, weight)[:, :, 0])


def instability(site: Site, other: Site, weight: Float[Array, " B"]) -> Mean:
    """Mean Jensen-Shannon divergence of the masses in two views, in bits: 0 where they agree, 1 where disjoint."""
    one, two = site["mass"], other["mass"]
    middle = (one + two) / 2
    divergence = (_divergence(one, middle) + _divergence(two, middle)) / 2 / np.log(2)
    return _mean(divergence, _rows(one, weight) * _rows(two, weight).astype(bool))


def _divergence(one: Array, two: Array) -> Array:
    """KL over the last axis; 0 log 0 is 0, and has gradient 0."""
    there = one > 0
    ratio = jnp.where(there, one, 1) / jnp.where(there, jnp.maximum(two, 1e-20), 1)
    return jnp.sum(one * jnp.log(ratio), axis=-1)


def _rows(mass: Float[Array, "L B H N G"], weight: Float[Array, " B"]) -> Float[Array, "L B H N"]:
    """The weight of every query: its clip's, 0 where it attends to nothing."""
    return (mass.sum(-1) > 0.5) * weight[None, :, None, None]


def _mean(values: Array, rows: Array) -> Mean:
    return Mean((values * rows).sum(), rows.sum())
