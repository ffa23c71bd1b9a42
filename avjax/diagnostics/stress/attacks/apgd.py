"""APGD: projected gradient ascent that sets its own step size (Croce & Hein 2020b)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from avjax.diagnostics.stress.attacks.losses import (
    Labels,
    Loss,
    ascent,
    cross_entropy,
    difference_of_logits_ratio,
    likely_target,
    margin,
    targeted_difference_of_logits_ratio,
)
from avjax.diagnostics.stress.attacks.region import Model, Region, Values, folded, where_rows
from avjax.streams import beside

# Of the step against the last one, and share of steps that must have raised the loss (section 3 of the paper).
ALPHA, RHO = 0.75, 0.75


def checkpoints(steps: int) -> tuple[int, ...]:
    """w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), without w_0."""
    found, before, share = [], 0.0, 0.22
    # A billionth below, since 0.22 * 50 and the like are not whole in floats.
    while (point := math.ceil(share * steps - 1e-9)) <= steps:
        if point not in found:
            found.append(point)
        before, share = share, share + max(share - before - 0.03, 0.06)
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class APGD:
    """Auto-PGD (Croce & Hein 2020b, algorithm 1), of all modalities at once.

        z       = P( x_k + eta sign(grad f(x_k)) )
        x_{k+1} = P( x_k + alpha (z - x_k) + (1 - alpha) (x_k - x_{k-1}) ),   alpha = 0.75, at first 1

    eta of each row starts at 2 radius (of each modality) and halves at a checkpoint w_j where fewer than 0.75 of the
    steps since w_{j-1} raised the loss, or where eta was not halved at w_{j-1} and the best loss has not risen since;
    it then goes on from the best point. x_0 is uniform in the region. Of all points visited the one with the lowest
    margin is returned.

    Attributes:
      loss: ce; dlr, which is the margin where there are two classes; targeted, the DLR towards one class a turn.
      steps: number of iterations.
      targets: most classes to aim at, by their logits on the clean clip; fewer where there are fewer.
    """

    loss: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = 100
    targets: int = 9

    @property
    def name(self) -> str:
        return {"ce": "APGD-CE", "dlr": "APGD-DLR", "targeted": "APGD-T"}[self.loss]

    def turns(self, classes: int) -> int:
        return min(self.targets, classes - 1) if self.loss == "targeted" else 1

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values:
        loss = self._loss(model, region, label, turn)
        return _maximise(model, region, label, loss, region.random(folded(keys, turn)), self.steps)

    def _loss(self, model: Model, region: Region, label: Labels, turn: Int[Array, ""]) -> Loss:
        if self.loss == "targeted":
            target = likely_target(model(region.clean).astype(jnp.float32), label, turn)
            return functools.partial(targeted_difference_of_logits_ratio, label=label, target=target)
        loss = cross_entropy if self.loss == "ce" else difference_of_logits_ratio
        return functools.partial(loss, label=label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    x: Values
    before: Values
    value: Array
    gradient: Values
    best: Values
    best_value: Array
    best_gradient: Values
    worst: Values
    least: Array
    # eta / radius; rises of the loss, the best loss and whether eta was halved, as of the last checkpoint.
    size: Array
    rises: Array
    best_then: Array
    halved: Array


def _maximise(model: Model, region: Region, label: Labels, loss: Loss, start: Values, steps: int) -> Values:
    points = checkpoints(steps)
    since = {point: point - before for before, point in zip((0, *points), points, strict=False)}
    # Steps since the checkpoint before, at checkpoints; 0 elsewhere.
    length = jnp.array([since.get(k + 1, 0) for k in range(steps)])

    def proceed(k: Array, state: _State) -> _State:
        alpha = jnp.where(k == 0, 1.0, ALPHA)
        z = region.project(
            jax.tree.map(
                lambda x, r, g: x + beside(state.size, x) * r * jnp.sign(g), state.x, region.reach, state.gradient
            )
        )
        x = region.project(
            jax.tree.map(lambda x, z, b: x + alpha * (z - x) + (1 - alpha) * (x - b), state.x, z, state.before)
        )
        logits, value, gradient = ascent(model, loss, x, region)
        found = margin(logits, label)
        lower, better = found < state.least, value > state.best_value
        best, best_value = where_rows(better, x, state.best), jnp.where(better, value, state.best_value)
        best_gradient = where_rows(better, gradient, state.best_gradient)
        rises = state.rises + (value > state.value)

        check = length[k] > 0
        stuck = (rises < RHO * length[k]) | (~state.halved & (best_value <= state.best_then))
        halve = check & stuck
        return _State(
            x=where_rows(halve, best, x),
            before=state.x,
            value=jnp.where(halve, best_value, value),
            gradient=where_rows(halve, best_gradient, gradient),
            best=best,
            best_value=best_value,
            best_gradient=best_gradient,
            worst=where_rows(lower, x, state.worst),
            least=jnp.where(lower, found, state.least),
            size=jnp.where(halve, state.size / 2, state.size),
            rises=jnp.where(check, 0, rises),
            best_then=jnp.where(check, best_value, state.best_then),
            halved=jnp.where(check, halve, state.halved),
        )

    logits, value, gradient = ascent(model, loss, start, region)
    state = _State(
        x=start, before=start, value=value, gradient=gradient, best=start, best_value=value, best_gradient=gradient,
        worst=start, least=margin(logits, label), size=jnp.full(label.shape, 2.0), rises=jnp.zeros(label.shape, int),
        best_then=value, halved=jnp.zeros(label.shape, bool),
    )  # fmt: skip
    return jax.lax.fori_loop(0, steps, proceed, state).worst
