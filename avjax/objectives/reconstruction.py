"""Reconstruction of what was hidden from the model."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.objectives.rows import rows_mean
from avjax.streams import Mean


def masked_reconstruction(
    prediction: Float[Array, "B N C"],
    target: Float[Array, "B N C"],
    hidden: Bool[Array, "B N"],
    weight: Float[Array, " B"],
    *,
    normalise: bool = True,
) -> Mean:
    """Squared error of the hidden patches (He et al. 2022; of both modalities in CAV-MAE, Gong et al. 2023).

        L_i = mean over hidden n of mean_c (prediction - (x_n - mean x_n) / sqrt(var x_n + 1e-6))^2

    Args:
      target: the patches x themselves.
      hidden: patches that are there and were hidden; a row with none does not count, and no other is read.
      normalise: each patch of the target by its own mean and variance (over C - 1).
    """
    hidden = hidden & (weight > 0)[:, None]
    dtype = jnp.promote_types(prediction.dtype, jnp.float32)
    prediction, target = masked(prediction.astype(dtype), hidden), masked(target.astype(dtype), hidden)
    if normalise:
        variance = target.var(axis=-1, keepdims=True, ddof=min(1, target.shape[-1] - 1))
        target = (target - target.mean(axis=-1, keepdims=True)) / jnp.sqrt(variance + 1e-6)
    error = masked(jnp.square(prediction - target).mean(axis=-1), hidden)
    return rows_mean(error.sum(axis=1) / jnp.maximum(hidden.sum(axis=1), 1), weight * hidden.any(axis=1))
