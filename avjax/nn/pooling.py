"""From tokens to one vector, and from vectors to logits."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.dense import CLASSES, EMBED, Dense


def mean_pool(values: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B C"]:
    """Mean over the valid tokens; zero where there is none."""
    weight = valid.astype(values.dtype)[..., None]
    return (values * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)


def mean_of_present(
    values: Mapping[str, Float[Array, "B ..."]], present: Mapping[str, Bool[Array, " B"]]
) -> Float[Array, "B ..."]:
    """Mean over the modalities that a row has; zero where it has none."""
    total, count = 0.0, 0.0
    for modality, value in values.items():
        weight = present[modality].astype(value.dtype).reshape(-1, *[1] * (value.ndim - 1))
        total, count = total + value * weight, count + weight
    return total / jnp.maximum(count, 1)


def average_logits(
    logits: Mapping[str, Mapping[str, Float[Array, "B K"]]], there: Mapping[str, Bool[Array, " B"]]
) -> dict[str, Float[Array, "B K"]]:
    """Per-modality logits (modality -> head -> [B, K]) and, under the head's own name, their mean."""
    heads = next(iter(logits.values()))
    mean = {head: mean_of_present({m: logits[m][head] for m in logits}, there) for head in heads}
    return mean | {f"{head}/{m}": logits[m][head] for head in heads for m in logits}


class Classifier(nnx.Module):
    """One linear layer a head, started at zero as in ViT: every class is equally likely at first."""

    def __init__(self, width: int, classes: Mapping[str, int], *, rngs: nnx.Rngs):
        self.heads = nnx.Dict(
            {
                head: Dense(width, count, axes=(EMBED, CLASSES), kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
                for head, count in classes.items()
            }
        )

    def __call__(self, x: Float[Array, "B C"]) -> dict[str, Float[Array, "B K"]]:
        # Float32 from here on: losses and probabilities are not for bfloat16.
        return {head: dense(x).astype(jnp.float32) for head, dense in self.heads.items()}
