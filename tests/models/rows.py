"""Whole models against NumPy in float64, row by row, with modalities and steps missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.training.step import split_model
from tests.models import tiny
from tests.models.reference import dense
from tests.models.systems import batch

ROWS = 5
Values = Mapping[str, np.ndarray]


def check_rows(config: Any, rng: np.random.Generator, expected: Callable[[dict, Values, Values], Values]) -> None:
    """Every output that ``expected`` names is what it says.

    Row 0 is whole, row 1 lacks the last modality, row 2 has nothing, and the others lack steps.

    Args:
      expected: (parameters, modality -> features [T, C] with 0 where they are not valid, modality -> valid [T]) of one
        row to name -> [K].
    """
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = tiny.randomise(params, rng)
    given = batch(config, rng, ROWS)
    names = [encoder.modality for encoder in config.modalities]
    valid = {m: rng.random(given.streams[m].valid.shape) < 0.6 for m in names}
    for m in names:
        valid[m][0], valid[m][2] = True, False
    valid[names[-1]][1] = False
    given = given.replace(streams={m: given.streams[m].replace(valid=valid[m]) for m in names})

    @tiny.jit
    def forward(params, given):
        return nnx.view(nnx.merge(graph, params, *rest), deterministic=True)(given).logits

    found = forward(params, jax.tree.map(jnp.asarray, given))
    weights = tiny.plain(params)
    for row in range(ROWS):
        there = {m: valid[m][row] for m in names}
        x = {m: np.where(there[m][:, None], np.float64(given.streams[m].values[row]), 0) for m in names}
        for name, numbers in expected(weights, x, there).items():
            np.testing.assert_allclose(found[name][row], numbers, rtol=1e-4, atol=2e-5, err_msg=f"{name}, row {row}")


def attention_pool(x: np.ndarray, valid: np.ndarray, p: dict) -> np.ndarray:
    """sum_t mu_t x_t, mu = softmax_t(w^T tanh(W x_t)) over the valid steps; 0 without any."""
    if not valid.any():
        return np.zeros(x.shape[1])
    scores = np.tanh(dense(x[valid], p["hidden"])) @ p["score"]["kernel"][:, 0]
    mu = np.exp(scores - scores.max())
    return mu / mu.sum() @ x[valid]


def mean_of_valid(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean over the valid steps; 0 without any."""
    return x[valid].mean(0) if valid.any() else np.zeros(x.shape[1])
