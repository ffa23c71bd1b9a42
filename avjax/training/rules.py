"""Training rules that change what a step computes: gradients, so that no modality outruns the others, or raw inputs.

A rule of gradients sees two things of a step: signals, means over the rows of the batch of something in the model's
output, and the gradients. The parameters of a modality are those whose path names it (``encoders.audio``,
``fusion.2.blocks.audio``); what modalities share belongs to none and is left alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from avjax.objectives.balance import discrepancy, gradient_factor, modulated, true_class_probability
from avjax.streams import Batch, Mean, Output
from avjax.training.optimizer import path_names

Gradients = Any
Logits = Callable[[Batch], Mapping[str, jax.Array]]
"""A raw batch to the model's logits by head, with this step's augmentation and otherwise as in evaluation."""


@runtime_checkable
class InputRule(Protocol):
    """What a step asks of a rule for its inputs; its fields become flags of ``avjax train``.

    It is given the raw batch before the front end, in units that a listener or viewer has, and what the model of this
    step says of any such batch, which can be differentiated in float values. It returns the batch to train on, of as
    many rows. Each row's draws are to follow from the key and the row's index, so that any number of devices,
    processes and microbatches gives the same. ``avjax.diagnostics.stress.attacks.training`` has adversarial training.
    """

    def __call__(self, logits: Logits, batch: Batch, key: jax.Array) -> Batch: ...


@runtime_checkable
class GradientRule(Protocol):
    """What a step asks of a rule; its fields become flags of ``avjax train``.

    ``signals`` says what the rule must know of the batch, which is logged as ``rule/NAME``; the call is given their
    values and makes the gradients that the optimizer gets.
    """

    def signals(self, output: Output, batch: Batch) -> dict[str, Mean]: ...

    def __call__(
        self, gradients: Gradients, signals: Mapping[str, jax.Array], step: jax.Array, key: jax.Array
    ) -> Gradients: ...


@dataclasses.dataclass(frozen=True)
class GradientModulation:
    """OGM-GE: the modality that is ahead learns more slowly (Peng et al. 2022).

        s_m = sum over rows of softmax(logits_m)[y]     rho_m = s_m / mean of the others' s
        k_m = 1 - tanh(alpha rho_m) where rho_m > 1, else 1
        g  <- k_m g + N(0, std(g)^2)                    for every matrix or kernel of modality m

    s_m is taken over the rows that have every modality. It needs logits by modality (``head/modality``). Theirs is two
    modalities and convolutions alone; more of them, and matrices too, are ours.

    Attributes:
      alpha: how much.
      enhancement: adds the noise.
      until: step after which gradients are left as they are; 0 for never.
      head: by whose logits; the first one's unless told.
    """

    alpha: float = 0.3
    enhancement: bool = True
    until: int = 0
    head: str = ""

    def signals(self, output: Output, batch: Batch) -> dict[str, Mean]:
        head = self.head or next(name for name in output.logits if "/" not in name)
        own = {name.partition("/")[2]: logits for name, logits in output.logits.items() if name.startswith(f"{head}/")}
        if len(own) < 2:
            raise ValueError(
                f"gradient modulation compares the modalities' own logits, and the model has none for head {head!r}:"
                " take a model that has, such as late_fusion or MBT with class tokens, or leave the rule out"
            )
        there = jnp.stack([output.tokens[name].valid.any(1) for name in own]).all(0)
        weight = batch.weight * there
        target = jnp.asarray(batch.target[head])
        return {f"confidence/{name}": true_class_probability(logits, target, weight) for name, logits in own.items()}

    def __call__(
        self, gradients: Gradients, signals: Mapping[str, jax.Array], step: jax.Array, key: jax.Array
    ) -> Gradients:
        ratio = discrepancy({name.partition("/")[2]: value for name, value in signals.items()})
        factor = {name: gradient_factor(rho, self.alpha) for name, rho in ratio.items()}
        on = (step < self.until) if self.until else True

        def change(number: int, modality: str | None, gradient: jax.Array) -> jax.Array:
            if modality is None or gradient.ndim < 2:
                return gradient
            noise = jax.random.fold_in(key, number) if self.enhancement else None
            return jnp.where(on, modulated(gradient, factor[modality], noise), gradient)

        return _by_modality(change, gradients, tuple(factor))


@dataclasses.dataclass(frozen=True)
class RandomModalityUpdate:
    """Every step trains all modalities or one of them alone (MAFnet's training script; Brousmiche et al. 2022).

    Attributes:
      modalities: names.
      all: probability that a step trains everything.
      share: probability of each modality to be the one, in their order, where not all are; equal where empty.
    """

    modalities: tuple[str, ...] = ("audio", "video")
    all: float = 0.9
    share: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.share and len(self.share) != len(self.modalities):
            raise ValueError(
                f"RandomModalityUpdate: share {self.share} is not one number for each of {self.modalities}"
            )

    def signals(self, output: Output, batch: Batch) -> dict[str, Mean]:
        return {}

    def __call__(
        self, gradients: Gradients, signals: Mapping[str, jax.Array], step: jax.Array, key: jax.Array
    ) -> Gradients:
        whether, which = jax.random.split(key)
        everything = jax.random.bernoulli(whether, self.all)
        share = jnp.asarray(self.share or [1.0] * len(self.modalities), jnp.float32)
        chosen = jax.random.choice(which, len(self.modalities), p=share / share.sum())

        def change(number: int, modality: str | None, gradient: jax.Array) -> jax.Array:
            del number
            if modality is None:
                return gradient
            return jnp.where(everything | (chosen == self.modalities.index(modality)), gradient, 0)

        return _by_modality(change, gradients, self.modalities)


def _by_modality(change: Any, gradients: Gradients, modalities: tuple[str, ...]) -> Gradients:
    """``change(number, modality or None, gradient)`` of every leaf.

    Raises:
      ValueError: for a modality that no parameter belongs to.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(gradients)
    owners = [next((name for name in path_names(path) if name in modalities), None) for path, _ in leaves]
    if missing := set(modalities) - set(owners):
        raise ValueError(f"no parameter of the model belongs to modality {sorted(missing)[0]!r} alone")
    changed = [
        change(*numbered) for numbered in zip(range(len(leaves)), owners, (leaf for _, leaf in leaves), strict=True)
    ]
    return jax.tree.unflatten(structure, changed)
