"""Attacks that follow the sign of the gradient: FGSM, PGD, MI-FGSM, which are one iteration with three settings."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from avjax.diagnostics.stress.attacks.losses import Labels, ascent, cross_entropy, margin
from avjax.diagnostics.stress.attacks.region import Model, Region, Values, folded, where_rows
from avjax.streams import beside


@dataclasses.dataclass(frozen=True)
class PGD:
    """Projected gradient descent on the cross-entropy, of all modalities at once (Madry et al. 2018).

        g_{k+1} = momentum g_k + grad / ||grad||_1
        x_{k+1} = P( x_k + step (radius / steps) sign(g_{k+1}) ),   radius of each modality and row

    The norm is over everything that moves. Of x_1 .. x_steps the one with the lowest margin is returned: every step's
    logits are there in any case, and the last need not be the worst.

    Attributes:
      steps: number of gradients.
      step: length of a step, times radius / steps. 2.5 can cross the region from side to side; Tian & Xu (2021) take
        10 steps of radius / 8, which is 1.25, from the clean clip.
      random_start: x_0 uniform in the region, otherwise the clean clip.
      restarts: times it is started anew; a row's worst is kept, and rows that have fallen are not started again.
      momentum: 0 for PGD, 1 for MI-FGSM.
    """

    steps: int = 20
    step: float = 2.5
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0

    @property
    def name(self) -> str:
        kind = "MI-FGSM" if self.momentum else "PGD" if self.random_start else "I-FGSM"
        return "FGSM" if (self.steps, self.step, self.random_start) == (1, 1.0, False) else f"{kind}-{self.steps}"

    def turns(self, classes: int) -> int:
        return self.restarts

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values:
        loss = functools.partial(cross_entropy, label=label)
        size = self.step / self.steps
        start = region.random(folded(keys, turn)) if self.random_start else dict(region.clean)

        def proceed(number: Array, state: tuple) -> tuple:
            x, momentum, worst, least = state
            logits, _, gradient = ascent(model, loss, x, region)
            found = margin(logits, label)
            lower = (found < least) & (number > 0)
            worst, least = where_rows(lower, x, worst), jnp.where(lower, found, least)
            scale = 1 / jnp.maximum(_norm(gradient), jnp.finfo(jnp.float32).tiny)
            momentum = jax.tree.map(lambda m, g: self.momentum * m + g * beside(scale, g), momentum, gradient)
            x = region.project(jax.tree.map(lambda x, r, m: x + size * r * jnp.sign(m), x, region.reach, momentum))
            return x, momentum, worst, least

        # Once more than there are steps, for the logits of the last x: so the model is in the program once.
        state = start, jax.tree.map(jnp.zeros_like, start), start, jnp.full(label.shape, jnp.inf)
        return jax.lax.fori_loop(0, self.steps + 1, proceed, state)[2]


def fgsm() -> PGD:
    """x + radius sign(grad CE) (Goodfellow et al. 2015)."""
    return PGD(steps=1, step=1.0, random_start=False)


def mi_fgsm(steps: int = 10) -> PGD:
    """Momentum iterative FGSM, decay 1, steps of radius / steps from the clean clip (Dong et al. 2018)."""
    return PGD(steps=steps, step=1.0, random_start=False, momentum=1.0)


def _norm(gradient: Values) -> Float[Array, " B"]:
    """||g||_1 of each row, over all modalities."""
    return sum(jnp.abs(g).reshape(len(g), -1).sum(axis=1) for g in gradient.values())
