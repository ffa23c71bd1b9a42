"""Balance of modalities while training, as pure functions: OGM-GE's gradient factors and PMR's prototypes."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.objectives.rows import LOWEST, distances, rows_mean
from avjax.streams import Mean


def true_class_probability(
    logits: Float[Array, "B K"], target: Float[Array, "B K"], weight: Float[Array, " B"]
) -> Mean:
    """softmax(logits) . target of every row, by weight; its total is s_m (OGM-GE, Peng et al. 2022).

    A mixed target asks for its classes in their shares.
    """
    probability = jax.nn.softmax(masked(logits, weight > 0))
    return rows_mean((probability * target).sum(axis=-1), weight)


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
    seen: Bool[Array, " K"],
    z: Float[Array, "B C"],
    target: Float[Array, "B K"],
    weight: Float[Array, " B"],
    *,
    momentum: float = 0.2,
) -> tuple[Float[Array, "K C"], Bool[Array, " K"]]:
    """c_k <- momentum c_k + (1 - momentum) mean of z over the rows of class k (PMR, Fan et al. 2023, as released).

    A class without rows keeps its prototype, and one that has none yet starts with the mean. No gradient flows into
    prototypes.

    Args:
      seen: which classes have a prototype; returned with those that have one now.
    """
    member = target * weight[:, None]
    count = member.sum(axis=0)[:, None]
    mean = member.T @ masked(z, weight > 0).astype(prototypes.dtype) / jnp.maximum(count, 1e-8)
    moved = jnp.where(seen[:, None], momentum * prototypes + (1 - momentum) * mean, mean)
    return jax.lax.stop_gradient(jnp.where(count > 0, moved, prototypes)), seen | (count[:, 0] > 0)


def prototype_logits(
    z: Float[Array, "B C"], prototypes: Float[Array, "K C"], seen: Bool[Array, " K"]
) -> Float[Array, "B K"]:
    """-||z_i - c_k||, of which a softmax makes the confidence in each class (Fan et al. 2023); none in one not seen."""
    return jnp.where(seen, -distances(z, jax.lax.stop_gradient(prototypes)), LOWEST)


def slower(confidence: Mapping[str, Float[Array, ""]]) -> dict[str, Bool[Array, ""]]:
    """Which modality has less confidence than every other; none where the lowest are equal."""
    others = {name: [other for key, other in confidence.items() if key != name] for name in confidence}
    return {name: jnp.stack([confidence[name] < other for other in others[name]]).all() for name in confidence}


def prototype_losses(
    logits: Mapping[str, Float[Array, "B K"]],
    target: Mapping[str, Float[Array, "B K"]],
    weight: Mapping[str, Float[Array, " B"]],
) -> tuple[dict[str, Mean], dict[str, Mean]]:
    """Cross-entropy to the own class's prototype, for the slower modality alone, and the confidences that say which is.

        L_m = 1[s_m < s of every other] CE(-d(z_m, c), y),   s_m the mean true-class probability of m

    Fan et al. 2023, as released; more than two modalities are ours.

    Args:
      logits: modality -> ``prototype_logits``.
      target: modality -> class distribution.
      weight: modality -> weight of the rows, 0 where it is missing or the class has no prototype.
    """
    confidence = {name: true_class_probability(logits[name], target[name], weight[name]) for name in logits}
    behind = slower({name: part.value for name, part in confidence.items()})
    losses = {}
    for name in logits:
        rows = optax.losses.softmax_cross_entropy(masked(logits[name], weight[name] > 0), target[name])
        part = rows_mean(rows, weight[name])
        losses[name] = Mean(jnp.where(behind[name], part.total, 0), part.weight)
    return losses, confidence
