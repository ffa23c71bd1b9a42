"""Optimizers and schedules, as optax chains."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then cosine to ``final`` times the peak.

    Attributes:
      peak: learning rate after the warm-up.
      warmup: share of all steps over which it rises from 0.
      final: where the cosine ends, as a share of ``peak``.
    """

    peak: float
    warmup: float = 0.05
    final: float = 0.0

    def build(self, steps: int) -> optax.Schedule:
        warmup = min(max(round(self.warmup * steps), 1), max(steps - 1, 1))
        return optax.warmup_cosine_decay_schedule(0.0, self.peak, warmup, max(steps, 2), self.peak * self.final)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with clipping, warm-up cosine and layer-wise decay.

    Attributes:
      learning_rate: peak of the schedule.
      weight_decay: decoupled; matrices only, never biases, norms, positions or tokens.
      clip: largest global norm of the gradient; 0 for none.
      layer_decay: learning rate of a layer as a multiple of the next layer's; 1 for all the same. The
        embedding counts as the layer below the first, everything after the last block as the layer above it.
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


def is_matrix(params: nnx.State) -> nnx.State:
    """True for the kernels of linear layers."""

    def kernel(path: tuple, _: jax.Array) -> bool:
        return "kernel" in jax.tree_util.keystr(path)

    return jax.tree_util.tree_map_with_path(kernel, params)


def layers_above(params: nnx.State) -> nnx.State:
    """For every parameter the number of layers between it and the head, read from its path.

    Stacks of layers are lists, so the first number in a path is the position in a stack. Stacks that run one
    after the other count on: their order is the order of definition in the model.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    stacks: dict[str, int] = {}
    for path in paths:
        name, position = _stack(path)
        if position is not None:
            stacks[name] = max(stacks.get(name, 0), position + 1)
    # MBT: "unimodal" runs before "fusion"; a model with one stack has nothing to order.
    order = sorted(stacks, key=lambda name: (name != "unimodal", name))
    before = {name: sum(stacks[other] for other in order[: i]) for i, name in enumerate(order)}
    depth = sum(stacks.values())

    def above(path: tuple, _: jax.Array) -> int:
        name, position = _stack(path)
        if position is not None:
            return depth - before[name] - position
        embedding = any(part in name for part in ("embed", "token", "positions"))
        return depth + 1 if embedding else 0

    return jax.tree_util.tree_map_with_path(above, params)


def _stack(path: tuple) -> tuple[str, int | None]:
    keys = [getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", None))) for entry in path]
    for place, key in enumerate(keys):
        if isinstance(key, int):
            return "/".join(map(str, keys[:place])), key
    return str(keys[0]), None


def _clip(norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()


def _layer_wise(params: nnx.State, decay: float) -> optax.GradientTransformation:
    if decay == 1.0:
        return optax.identity()
    scales = jax.tree.map(lambda above: decay**above, layers_above(params))

    def update(updates: nnx.State, state: optax.EmptyState, params: nnx.State | None = None):
        return jax.tree.map(lambda u, s: u * jnp.asarray(s, u.dtype), updates, scales), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)
