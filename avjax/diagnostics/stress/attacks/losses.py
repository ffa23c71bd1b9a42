"""What attacks maximise, of logits, one number a row; and how far from a mistake a row is."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from avjax.diagnostics.stress.attacks.region import Model, Region, Values

Logits = Float[Array, "B K"]
Labels = Int[Array, " B"]
Loss = Callable[[Logits], Float[Array, " B"]]

# Keeps the ratio of a saturated model finite, as in the authors' code.
EPSILON = 1e-12


def cross_entropy(logits: Logits, label: Labels) -> Float[Array, " B"]:
    """CE = -log softmax(z)_y."""
    return jax.nn.logsumexp(logits, axis=-1) - _of(logits, label)


def margin(logits: Logits, label: Labels) -> Float[Array, " B"]:
    """z_y - max_{j != y} z_j: below 0 where the row is misclassified, above where it is right."""
    return _of(logits, label) - _others(logits, label).max(axis=-1)


def difference_of_logits_ratio(logits: Logits, label: Labels) -> Float[Array, " B"]:
    """DLR = -(z_y - max_{j != y} z_j) / (z_1 - z_3), z_1 >= z_2 >= ... sorted (Croce & Hein 2020b, eq. 6).

    Shifting or scaling all logits does not change it. With two classes there is no z_3: -margin instead.
    """
    if logits.shape[-1] < 3:
        return -margin(logits, label)
    top = jax.lax.top_k(logits, 3)[0]
    return -margin(logits, label) / (top[:, 0] - top[:, 2] + EPSILON)


def targeted_difference_of_logits_ratio(logits: Logits, label: Labels, target: Labels) -> Float[Array, " B"]:
    """DLR_t = -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)   (Croce & Hein 2020b, eq. 7).

    Ours for few classes, where the paper has none: z_1 - z_3 below with three, 1 with two.
    """
    above, classes = -(_of(logits, label) - _of(logits, target)), logits.shape[-1]
    if classes < 3:
        return above
    top = jax.lax.top_k(logits, min(classes, 4))[0]
    return above / (top[:, 0] - top[:, 2:].mean(axis=1) + EPSILON)


def likely_target(logits: Logits, label: Labels, rank: int | Array) -> Labels:
    """The class, other than the label, with the ``rank``-th highest logit, from 0."""
    order = jnp.argsort(-_others(logits, label), axis=-1)
    return jnp.take(order, rank, axis=-1).astype(label.dtype)


def ascent(
    model: Model, loss: Loss, values: Values, region: Region
) -> tuple[Logits, Float[Array, " B"], dict[str, Array]]:
    """Logits, loss, and the loss's gradient in the values that move; rows do not see each other."""

    def total(values: Values) -> tuple[Array, tuple[Array, Array]]:
        logits = model(values).astype(jnp.float32)
        rows = loss(logits)
        return rows.sum(), (logits, rows)

    gradient, (logits, rows) = jax.grad(total, has_aux=True)(dict(values))
    return logits, rows, jax.tree.map(lambda g, moves: jnp.where(moves, g, 0), gradient, dict(region.moves))


def _of(logits: Logits, label: Labels) -> Float[Array, " B"]:
    return jnp.take_along_axis(logits, label[:, None], axis=-1)[:, 0]


def _is(logits: Logits, label: Labels) -> Bool[Array, "B K"]:
    return jnp.arange(logits.shape[-1]) == label[:, None]


def _others(logits: Logits, label: Labels) -> Logits:
    return jnp.where(_is(logits, label), -jnp.inf, logits)
