"""Blocks with random weights, as a compiled function and as float64 arrays for a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.training.step import split_model
from tests.models import tiny


class Randomised:
    """``block(*args)`` compiled, with weights in which nothing is 0 or 1.

    Attributes:
      params: the weights.
      weights: the same as nested dicts of float64 arrays.
    """

    def __init__(self, module: nnx.Module, rng: np.random.Generator, call: Callable[..., Any] | None = None):
        graph, params, *rest = split_model(module)
        call = call or (lambda module, *args: module(*args))
        self.params = tiny.randomise(params, rng)
        self.weights = tiny.plain(self.params)
        self.of_params = lambda p, *args: call(nnx.merge(graph, p, *rest, copy=True), *args)
        self.compiled = tiny.jit(self.of_params)
        self.gradients = tiny.jit(jax.grad(lambda pa: _weigh(self.of_params(pa[0], *pa[1])), allow_int=True))

    def __call__(self, *args: Any) -> Any:
        return self.compiled(self.params, *args)

    def assert_finite(self, *args: Any) -> None:
        """Outputs, and the gradients of a sum of sines of them by weights and inputs, are finite."""
        for leaf in jax.tree.leaves((self(*args), self.gradients((self.params, args)))):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                assert np.isfinite(np.asarray(leaf, np.float32)).all()


def _weigh(outputs: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(jnp.sin(leaf.astype(jnp.float32) + 0.3).sum() for leaf in leaves)


def assert_named(module: nnx.Module) -> None:
    """Every parameter has one logical axis (or None) for each of its axes, and none twice."""
    for path, param in nnx.iter_graph(module):
        if isinstance(param, nnx.Param):
            axes = param.get_metadata("axes")
            assert len(axes) == param[...].ndim, path
            used = [axis for axis in axes if axis]
            assert len(used) == len(set(used)), path


def as_bfloat16(tree: Any) -> Any:
    """Floating leaves in bfloat16."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
