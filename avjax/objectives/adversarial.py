"""Two-player losses: gradients turned round for one step that trains both sides, and pairs for alternating steps.

Turns are the optimizer's: ``avjax.training.optimizer.Alternating``.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from avjax.nn.convolution import masked
from avjax.objectives.rows import rows_mean
from avjax.streams import Mean


@jax.custom_vjp
def reverse_gradient(x: Float[Array, "..."], scale: float | Float[Array, ""] = 1.0) -> Float[Array, "..."]:
    """x, with the gradient times -scale (Ganin and Lempitsky 2015); the scale may follow a schedule.

    Between an encoder and its discriminator it makes one minimised loss train both: the discriminator to tell, the
    encoder not to be told.
    """
    return x


def _reversed_forward(x: Array, scale: float | Array) -> tuple[Array, Array]:
    return x, jnp.asarray(scale)


def _reversed_backward(scale: Array, gradient: Array) -> tuple[Array, Array]:
    return (-scale * gradient).astype(gradient.dtype), jnp.zeros_like(scale)


reverse_gradient.defvjp(_reversed_forward, _reversed_backward)


def frozen(module: nnx.Module) -> nnx.Module:
    """The same module, whose parameters get no gradient: the discriminator in its opponent's loss."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return nnx.merge(graph, jax.tree.map(jax.lax.stop_gradient, params), rest)


def modality_discrimination(
    logits: Mapping[str, Float[Array, "B M"]], weight: Mapping[str, Float[Array, " B"]]
) -> Mean:
    """Cross-entropy of telling from which modality each vector came (AICANet, Wang et al. 2025).

    Class k is the k-th name in alphabetical order. Mean over the vectors of all modalities by weight, 0 where a row
    lacks one; log of the number of modalities where nothing can be told.
    """
    total = Mean(jnp.zeros(()), jnp.zeros(()))
    for number, name in enumerate(sorted(logits)):
        there = weight[name] > 0
        labels = jnp.full(there.shape, number)
        rows = optax.losses.softmax_cross_entropy_with_integer_labels(masked(logits[name], there), labels)
        total = total + rows_mean(rows, weight[name])
    return total


def discriminator_loss(real: Float[Array, " B"], made: Float[Array, " B"], weight: Float[Array, " B"]) -> Mean:
    """BCE(D(real), 1) + BCE(D(made), 0) from logits: softplus(-real) + softplus(made) (Goodfellow et al. 2014).

    NIAT's L_d (Yuan et al. 2024) is 0.1 times this, of complete and of noisy inputs. Give it vectors behind
    ``stop_gradient``, so that it trains the discriminator alone.
    """
    there = weight > 0
    return rows_mean(jax.nn.softplus(-masked(real, there)) + jax.nn.softplus(masked(made, there)), weight)


def generator_loss(made: Float[Array, " B"], weight: Float[Array, " B"]) -> Mean:
    """BCE(D(made), 1) = softplus(-made), the non-saturating form (Goodfellow et al. 2014).

    The discriminator is to be ``frozen`` in it.
    """
    return rows_mean(jax.nn.softplus(-masked(made, weight > 0)), weight)
