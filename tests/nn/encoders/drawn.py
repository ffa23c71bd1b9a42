"""Encoders with random weights, without compiling an initialiser for each shape."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def drawn(build, rng: np.random.Generator, scale: float = 0.3) -> nnx.Module:
    """What ``build`` makes of nnx.Rngs, with weights and moving averages drawn; scales and variances around 1."""
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, state = nnx.split(model)

    def draw(path, leaf):
        name = str(path)
        values = scale * rng.normal(size=leaf.shape)
        if "scale" in name or "'var'" in name:
            values = 1 + 0.5 * np.tanh(values)
        elif "kernel" in name:
            values *= 3 / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(values, leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


def evaluating(model: nnx.Module) -> nnx.Module:
    """The model as it is evaluated: with moving averages."""
    return nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
