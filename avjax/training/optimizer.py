"""Optimizers and schedules, as optax chains."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then cosine to ``final`` times the peak.

    Attributes:
      peak: learning rate after the warm-up.
      warmup: share of all steps over which it rises from 0, at least one step; 0 for none.
      final: where the cosine ends, as a share of ``peak``.
    """

    peak: float
    warmup: float = 0.05
    final: float = 0.0

    def build(self, steps: int) -> optax.Schedule:
        steps = max(steps, 1)
        warmup = max(round(self.warmup * steps), 1) if self.warmup else 0
        warmup = min(warmup, steps - 1)
        return optax.warmup_cosine_decay_schedule(0.0, self.peak, warmup, steps, self.peak * self.final)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with clipping, warm-up cosine and layer-wise decay.

    Attributes:
      learning_rate: peak of the schedule.
      weight_decay: decoupled; matrices only, never biases, norms, positions or tokens.
      clip: largest global norm of the gradient; 0 for none.
      layer_decay: learning rate of a layer as a multiple of the next layer's; 1 for all the same. Which layer
        is the next: see ``layers_above``.
      warmup, final: see ``Schedule``.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    layer_decay: float = 1.0
    warmup: float = 0.05
    final: float = 0.0

    def build(self, params: nnx.State, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            _clip(self.clip),
            optax.scale_by_adam(*self.betas),
            optax.add_decayed_weights(self.weight_decay, mask=is_matrix),
            _layer_wise(params, self.layer_decay),
            optax.scale_by_learning_rate(self.schedule.build(steps)),
        )

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.learning_rate, self.warmup, self.final)


@dataclasses.dataclass(frozen=True)
class SGD:
    """SGD with momentum, as MBT was trained; the other attributes as in ``AdamW``."""

    learning_rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float = 1.0
    layer_decay: float = 1.0
    warmup: float = 0.05
    final: float = 0.0

    def build(self, params: nnx.State, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            _clip(self.clip),
            optax.add_decayed_weights(self.weight_decay, mask=is_matrix),
            optax.trace(self.momentum),
            _layer_wise(params, self.layer_decay),
            optax.scale_by_learning_rate(self.schedule.build(steps)),
        )

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.learning_rate, self.warmup, self.final)


O = TypeVar("O", AdamW, SGD)  # noqa: E741


@dataclasses.dataclass(frozen=True)
class ModalityRate(Generic[O]):
    """One modality learns at a rate of its own: its encoder, and whatever layers it has for itself.

    To make a modality lag, or to spare a pretrained encoder.

    Attributes:
      optimizer: of everything.
      modality: a name in the path of the parameters that are its own.
      rate: their learning rate as a multiple of the others'; weight decay goes with it.
    """

    optimizer: O
    modality: str
    rate: float = 1.0

    def build(self, params: nnx.State, steps: int) -> optax.GradientTransformation:
        paths = [path_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        if not any(self.modality in path for path in paths):
            raise ValueError(f"no parameter of the model belongs to {self.modality!r} alone")
        factors = {path: self.rate if self.modality in path else 1.0 for path in paths}
        return optax.chain(self.optimizer.build(params, steps), _scaled(factors))

    @property
    def schedule(self) -> Schedule:
        return self.optimizer.schedule


@dataclasses.dataclass(frozen=True)
class Alternating(Generic[O]):
    """Two players in turn: ``turns`` steps of the discriminator, then one of all the rest (Goodfellow et al. 2014).

    Who does not move keeps its parameters and all of its optimizer: with gradients of 0 instead, moments would go on
    moving it. Each clips by its own gradient and follows its own schedule, over the steps that it makes. The loss holds
    the terms of both at every step, each without a gradient for the other player, or one term between the two
    (avjax/objectives/adversarial.py).

    Attributes:
      optimizer: of both.
      discriminator: names in the path of a parameter, one of which makes it the discriminator's.
      turns: steps of the discriminator for each of the rest.
      rate: learning rate of the discriminator as a multiple of the other.
    """

    optimizer: O
    discriminator: tuple[str, ...] = ("discriminate",)
    turns: int = 1
    rate: float = 1.0

    def build(self, params: nnx.State, steps: int) -> optax.GradientTransformation:
        period = self.turns + 1
        if not any(jax.tree.leaves(self._is_discriminator(params))):
            raise ValueError(f"no parameter of the model belongs to a discriminator named {self.discriminator}")
        first = optax.chain(self.optimizer.build(params, steps * self.turns // period), optax.scale(self.rate))
        second = self.optimizer.build(params, steps // period)
        return optax.partition(
            {
                True: optax.conditionally_mask(first, lambda step: step % period < self.turns),
                False: optax.conditionally_mask(second, lambda step: step % period == self.turns),
            },
            self._is_discriminator,
        )

    @property
    def schedule(self) -> Schedule:
        return self.optimizer.schedule

    def _is_discriminator(self, params: nnx.State) -> nnx.State:
        names = set(self.discriminator)
        return jax.tree_util.tree_map_with_path(lambda path, _: not names.isdisjoint(path_names(path)), params)


def is_matrix(params: nnx.State) -> nnx.State:
    """True for the kernels of linear layers."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_names(path)[-1] == "kernel", params)


def layers_above(params: nnx.State) -> nnx.State:
    """For every parameter the number of layers between it and the head, read from its path.

    A layer is an entry of a list. Lists of one name lie side by side (a stack a modality); of two names,
    ``unimodal`` runs before ``fusion``. Encoders and learned tokens lie below the first layer, and whatever else is
    in no list above the last.
    """
    paths = [_within(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    layers = sorted({layer for path in paths if (layer := _layer(path)) is not None})

    def above(path: tuple, _: Any) -> int:
        names = _within(path)
        layer = _layer(names)
        if layer is not None:
            return len(layers) - layers.index(layer)
        return len(layers) + 1 if any(part in names[0] for part in ("encoders", "token", "bottleneck")) else 0

    return jax.tree_util.tree_map_with_path(above, params)


def _layer(names: tuple[str | int, ...]) -> tuple[bool, str, int] | None:
    """(False for unimodal, name of the list, place in it), which sorts as layers run; None inside an encoder."""
    if names[0] == "encoders":
        return None
    for before, place in itertools.pairwise(names):
        if isinstance(place, int):
            return before != "unimodal", before, place
    return None


def _within(path: tuple) -> tuple[str | int, ...]:
    """``path_names`` from a model that another holds as ``model``, where one does."""
    names = path_names(path)
    return names[1:] if names[0] == "model" else names


def path_names(path: tuple) -> tuple[str | int, ...]:
    """Attributes and list places from the model to a parameter."""
    return tuple(entry.key for entry in path if hasattr(entry, "key"))


def _clip(norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def _layer_wise(params: nnx.State, decay: float) -> optax.GradientTransformation:
    if decay == 1.0:
        return optax.identity()
    above = jax.tree_util.tree_leaves_with_path(layers_above(params))
    return _scaled({path_names(path): decay**number for path, number in above})


def _scaled(factors: Mapping[tuple[str | int, ...], float]) -> optax.GradientTransformation:
    """Each update times the factor of its parameter's path."""

    # By path: of the updates some may be left out.
    def scale(path: tuple, update: jax.Array) -> jax.Array:
        return update * jnp.asarray(factors[path_names(path)], update.dtype)

    def update(updates: nnx.State, state: optax.EmptyState, params: nnx.State | None = None):
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
