"""Attention that matters: what a prediction owes to where the model attended."""

from __future__ import annotations

import optax
from jaxtyping import Array, Float

from avjax.nn.convolution import masked
from avjax.objectives.rows import rows_mean
from avjax.streams import Mean


def attention_effect(
    logits: Float[Array, "B K"],
    counterfactual: Float[Array, "B K"],
    target: Float[Array, "B K"],
    weight: Float[Array, " B"],
) -> Mean:
    """Cross-entropy of the effect of attention (Rao et al. 2021); for audio-visual attention it is our reading.

    L_i = CE(f(A) - f(A'), y),   A' attention that was not learned: uniform, shuffled or random
    """
    there = weight > 0
    effect = masked(logits, there) - masked(counterfactual, there)
    return rows_mean(optax.losses.softmax_cross_entropy(effect, masked(target, there)), weight)
