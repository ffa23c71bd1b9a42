"""From tokens to one vector, and from vectors to logits."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import CLASSES, EMBED, Dense, widened


def mean_pool(values: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B C"]:
    """Mean over the valid tokens; zero where there is none."""
    count = valid.astype(values.dtype).sum(axis=1, keepdims=True)
    return masked(values, valid).sum(axis=1) / jnp.maximum(count, 1)


def max_pool(values: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B C"]:
    """Maximum over the valid tokens, channel by channel; zero where there is none."""
    lowest = jnp.finfo(values.dtype).min
    seen = jnp.where(valid[..., None], values, lowest)
    # By place: the gradient of a maximum compares it with values that XLA may compute anew, and not to the last bit.
    peak = jnp.take_along_axis(seen, jnp.argmax(seen, axis=1, keepdims=True), axis=1)[:, 0]
    return masked(peak, valid.any(axis=1))


def last_pool(values: Float[Array, "B N C"], valid: Bool[Array, "B N"]) -> Float[Array, "B C"]:
    """The last valid token; zero where there is none."""
    place = values.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    last = jnp.take_along_axis(values, place[:, None, None], axis=1)[:, 0]
    return masked(last, valid.any(axis=1))


def mean_of_present(
    values: Mapping[str, Float[Array, "B ..."]], present: Mapping[str, Bool[Array, " B"]]
) -> Float[Array, "B ..."]:
    """Mean over the modalities that a row has; zero where it has none."""
    total, count = 0.0, 0.0
    for modality, value in values.items():
        weight = present[modality].astype(value.dtype).reshape(-1, *[1] * (value.ndim - 1))
        total, count = total + masked(value, present[modality]), count + weight
    return total / jnp.maximum(count, 1)


def l2_normalise(x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
    """x / ||x||_2 over the last axis, in float32 at least; 0 stays 0, and its gradient is finite."""
    wide = widened(x)
    square = jnp.square(wide).sum(-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-12))).astype(x.dtype)


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
        # In float32 from here on: losses and probabilities are not for bfloat16.
        return {head: widened(dense(x)) for head, dense in self.heads.items()}
