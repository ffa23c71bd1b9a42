"""What the losses share: means over the rows that count, unit vectors, distances, steps of sequences."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.pooling import l2_normalise
from avjax.streams import Batch, Mean, Output

# Squared lengths below this have no direction, and no gradient.
SMALL = 1e-12
# Takes part in no maximum and no logsumexp, and is finite, so that a row of nothing else has no gradient of NaN.
LOWEST = -1e30
# Behind a head, in targets and predictions, and among segments: which steps count.
VALID = "valid"


def rows_mean(rows: Float[Array, " B"], weight: Float[Array, " B"]) -> Mean:
    """Mean over rows by weight; what a row of weight 0 holds, NaN included, is not read."""
    return Mean((masked(rows, weight > 0) * weight).sum(), weight.sum())


def batch_mean(value: Float[Array, ""], weight: Float[Array, " B"]) -> Mean:
    """A number of the whole (micro)batch as a Mean: that of two halves is not the mean of theirs."""
    return Mean(value * weight.sum(), weight.sum())


def unit(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """x / ||x|| in float32; a vector of zeros stays zeros, with gradient 0 but for a factor."""
    return l2_normalise(x.astype(jnp.promote_types(x.dtype, jnp.float32)))


def distance(x: Float[Array, "... C"], y: Float[Array, "... C"]) -> Float[Array, "..."]:
    """Euclidean, in float32, from the differences themselves; 1e-6 and gradient 0 between equal vectors."""
    dtype = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    return jnp.sqrt(jnp.maximum(jnp.square(x.astype(dtype) - y.astype(dtype)).sum(axis=-1), SMALL))


def distances(x: Float[Array, "B C"], y: Float[Array, "M C"]) -> Float[Array, "B M"]:
    """``distance`` of every row of x to every row of y."""
    return distance(x[:, None], y[None])


def weight_of(name: str, output: Output, weight: Float[Array, " B"]) -> Float[Array, " B"]:
    """The weight of the rows for ``head`` or ``head/modality``: a modality that a row lacks has none."""
    _, _, modality = name.partition("/")
    return weight * output.tokens[modality].valid.any(axis=1) if modality else weight


def valid_steps(name: str, output: Output, shape: tuple[int, int]) -> Bool[Array, "B T"]:
    """Which steps of a head's sequence [B, T, K] count: ``output.aux["valid"][name]``, or of its head, or all."""
    valid = output.aux.get("valid", {})
    head = name.partition("/")[0]
    return jnp.asarray(valid.get(name, valid.get(head, jnp.ones(shape, bool))))


def steps_of(name: str, output: Output) -> tuple[Float[Array, "B T K"], Bool[Array, "B T"]] | None:
    """What a model says at every step, and which steps count; None where it speaks of whole clips alone.

    Logits [B, T, K], or those in ``output.aux["segments"]``: name -> [B, T, K], [B, T] where K is 1, and ``valid``.
    """
    logits, segments = output.logits.get(name), output.aux.get("segments", {})
    if logits is not None and logits.ndim == 3:
        return logits, valid_steps(name, output, logits.shape[:2])
    if name not in segments or name == VALID:
        return None
    values = segments[name] if segments[name].ndim == 3 else segments[name][..., None]
    valid = output.aux.get("valid", {})
    return values, jnp.asarray(valid.get(name, segments[VALID]))


def labelled(valid: Bool[Array, "B T"], head: str, batch: Batch) -> Bool[Array, "B T"]:
    """The steps that the target counts too: ``target["HEAD/valid"]`` [B, T], where the batch has it."""
    counted = batch.target.get(f"{head}/{VALID}")
    return valid if counted is None else valid & (jnp.asarray(counted) > 0)


def require_steps(name: str, predicted: int, true: int) -> None:
    """Raises ValueError where a model's steps are not those of the target."""
    if predicted != true:
        raise ValueError(
            f"the model gives {predicted} steps of {name!r}, and its target has {true}: both have to be the same number"
        )
