"""Balance of modalities while training, as pure functions: OGM-GE's gradient factors and PMR's prototypes."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from avjax.nn.convolution import masked
from avjax.objectives.rows import distances, rows_mean
from avjax.streams import Mean


def true_class_probability(
    logits: Float[Array, "B K"], label: Int[Array, " B"], weight: Float[Array, " B"]
) -> Float[Array, ""]:
    """s_m = sum over rows of softmax(logits)[y], by weight (OGM-GE, Peng et al. 2022)."""
    there = weight > 0
    probability = jax.nn.softmax(masked(logits, there))
    return (jnp.take_along_axis(probability, label[:, None], axis=1)[:, 0] * weight).sum()


def part_of_concatenation(
    z: Float[Array, "B C"], kernel: Float[Array, "C K"], bias: Float[Array, " K"], modalities: int = 2
) -> Float[Array, "B K"]:
    """What one modality says in a linear head over concatenated features: z W_m + b / modalities."""
    return z @ kernel + bias / modalities


def discrepancy(scores: Mapping[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
    """rho_m = s_m / mean of the others' s (Peng et al. 2022; for more than two modalities ours).

    1 where neither side has a score. The sums are to be over the same rows: those that have every modality.
    """
    ratio = {}
    for name, score in scores.items():
        others = [other for key, other in scores.items() if key != name]
        mean = sum(others) / max(len(others), 1)
        ratio[name] = jnp.where(score + mean > 0, score / jnp.maximum(mean, 1e-8), 1.0)
    return ratio


def gradient_factor(rho: Float[Array, ""], alpha: float) -> Float[Array, ""]:
    """k = 1 - tanh(alpha * rho) where rho > 1, else 1 (Peng et al. 2022); has no gradient."""
    rho = jax.lax.stop_gradient(rho)
    return jnp.where(rho > 1, 1 - jnp.tanh(alpha * jax.nn.relu(rho)), 1.0)


def modulated(gradient: Float[Array, "..."], factor: Float[Array, ""], key: jax.Array | None) -> Float[Array, "..."]:
    """k g + e, e ~ N(0, std(g)^2): on-the-fly modulation with generalisation enhancement; without a key no noise."""
    if key is None:
        return factor * gradient
    return factor * gradient + gradient.std() * jax.random.normal(key, gradient.shape, gradient.dtype)


def updated_prototypes(
    prototypes: Float[Array, "K C"],
    z: Float[Array, "B C"],
    label: Int[Array, " B"],
    weight: Float[Array, " B"],
    *,
    momentum: float = 0.2,
) -> Float[Array, "K C"]:
    """c_k <- momentum c_k + (1 - momentum) mean of z over the rows of class k (PMR, Fan et al. 2023, as released).

    A class without rows keeps its prototype. No gradient flows into prototypes. The release takes the mean over a
    tenth of the data, once an epoch; momentum 0 starts.
    """
    member = jax.nn.one_hot(label, prototypes.shape[0]) * weight[:, None]
    count = member.sum(axis=0)[:, None]
    mean = member.T @ masked(z, weight > 0) / jnp.maximum(count, 1e-8)
    return jax.lax.stop_gradient(jnp.where(count > 0, momentum * prototypes + (1 - momentum) * mean, prototypes))


def prototype_logits(z: Float[Array, "B C"], prototypes: Float[Array, "K C"]) -> Float[Array, "B K"]:
    """-||z_i - c_k||, of which a softmax makes the confidence in each class (Fan et al. 2023)."""
    return -distances(z, jax.lax.stop_gradient(prototypes))


def prototype_losses(
    logits: Mapping[str, Float[Array, "B K"]], label: Int[Array, " B"], weight: Mapping[str, Float[Array, " B"]]
) -> dict[str, Mean]:
    """Cross-entropy to the own class's prototype, for the slower modality alone (Fan et al. 2023, as released).

        L_m = 1[s_m < s of every other] CE(-d(z_m, c), y),   s_m the mean true-class probability of m

    Args:
      logits: modality -> ``prototype_logits``.
      weight: modality -> weight of the rows, 0 where it is missing.
    """
    means = {
        name: true_class_probability(logits[name], label, weight[name]) / jnp.maximum(weight[name].sum(), 1e-8)
        for name in logits
    }
    losses = {}
    for name in logits:
        slower = jnp.stack([means[name] < mean for other, mean in means.items() if other != name]).all()
        rows = optax.losses.softmax_cross_entropy_with_integer_labels(masked(logits[name], weight[name] > 0), label)
        part = rows_mean(rows, weight[name])
        losses[name] = Mean(jnp.where(slower, part.total, 0), part.weight)
    return losses
