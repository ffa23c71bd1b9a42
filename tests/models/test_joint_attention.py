"""JCA and RJCMA as whole models against their equations in NumPy and float64, one example at a time."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import jca, rjcma
from avjax.nn.encoders import Precomputed
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.reference import dense
from tests.models.systems import batch

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

LENGTH, WIDTHS = 4, {"audio": 3, "video": 5}
MODALITIES = tuple(Precomputed(m, (LENGTH, width)) for m, width in WIDTHS.items())
CLASSES = {"valence": 1, "arousal": 2}
JCA = jca.Config(MODALITIES, CLASSES, WIDTHS, segments=LENGTH, correlation=6, hidden=7)
RJCMA = rjcma.Config(MODALITIES, CLASSES, WIDTHS, segments=LENGTH, recursions=2, front="unit")


def relu(x):
    return np.maximum(x, 0)


def once(x, p, there):
    """X_m <- Wh ReLU(W X_m + Wc C_m^T) + X_m, C_m = tanh(X_m^T Wj J / sqrt(d))."""
    j = np.concatenate([x[m] for m in WIDTHS], axis=1)
    after = {}
    for m in WIDTHS:
        c = np.tanh(x[m].T @ p["joint"][m] @ j / np.sqrt(j.shape[1]))
        h = relu(p["own"][m] @ x[m] + p["correlation"][m] @ c.T)
        after[m] = (p["out"][m] @ h + x[m]) * there[m][:, None]
    return after


def again(x, p, there):
    """X_m <- X_m + ReLU(ReLU(tanh((X_m Wv) S_m)) W), S_m = tanh(X_m^T Wk J' / sqrt(d)), J' = J Wq."""
    anything = there["audio"] | there["video"]
    j = dense(np.concatenate([x[m] for m in WIDTHS], axis=1), p["query"]) * anything[:, None]
    after = {}
    for m in WIDTHS:
        s = np.tanh(x[m].T @ p["key"][m] @ j / np.sqrt(j.shape[1]))
        u = relu(np.tanh(dense(x[m], p["value"][m]) @ s))
        after[m] = (x[m] + relu(dense(u, p["out"][m]))) * there[m][:, None]
    return after


def expected(config, p, values, valid):
    """y_t of one example, and their mean over the segments that any modality has."""
    x = {m: np.where(valid[m][:, None], values[m].astype(np.float64), 0) for m in WIDTHS}
    if isinstance(config, jca.Config):
        x = once(x, p["attention"], valid)
    else:
        x = {m: x[m] / np.maximum(np.linalg.norm(x[m], axis=1, keepdims=True), 1e-6) for m in WIDTHS}
        for layer in range(config.recursions):
            x = again(x, p["recursion"][layer], valid)
    h = np.concatenate([x[m] for m in WIDTHS], axis=1)
    anything = valid["audio"] | valid["video"]
    steps, clip = {}, {}
    for head in CLASSES:
        head_params = p["regress"][head]
        hidden = relu(dense(h, head_params["hidden"])) if config.hidden else h
        steps[head] = dense(hidden, head_params["heads"][head])
        clip[head] = steps[head][anything].mean(0) if anything.any() else np.zeros(CLASSES[head])
    return steps, clip, anything


@functools.cache
def compiled(name: str):
    """Parameters' structure and the jitted model; dropout is off."""
    config = {"jca": JCA, "rjcma": RJCMA}[name]
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))

    @tiny.jit
    def forward(params, given):
        return nnx.view(nnx.merge(graph, params, *rest), deterministic=True)(given)

    return config, params, forward


@pytest.mark.parametrize("name", ["jca", "rjcma"])
def test_equations(name, rng):
    """Row 0 is whole, row 1 lacks a modality, row 2 has nothing, the others lack segments."""
    config, params, forward = compiled(name)
    params = tiny.randomise(params, rng)
    given = batch(config, rng, 6)
    valid = {m: rng.random((6, LENGTH)) < 0.6 for m in WIDTHS}
    for m in WIDTHS:
        valid[m][0], valid[m][2] = True, False
    valid["video"][1] = False
    given = given.replace(streams={m: given.streams[m].replace(valid=valid[m]) for m in WIDTHS})
    output = forward(params, jax.tree.map(jnp.asarray, given))
    for row in range(6):
        values = {m: given.streams[m].values[row] for m in WIDTHS}
        steps, clip, anything = expected(config, tiny.plain(params), values, {m: valid[m][row] for m in WIDTHS})
        np.testing.assert_array_equal(output.aux["segments"]["valid"][row], anything)
        for head in CLASSES:
            found = np.asarray(output.aux["segments"][head][row])
            # Float32 against float64: some ten sums of at most ten numbers of the size of the largest one.
            atol = 100 * np.finfo(np.float32).eps * max(np.abs(steps[head]).max(), 1)
            np.testing.assert_allclose(found[anything], steps[head][anything], rtol=0, atol=atol)
            np.testing.assert_allclose(output.logits[head][row], clip[head], rtol=0, atol=atol)


def test_no_recursion_is_a_regressor_of_features(rng):
    """l = 0 leaves the features as they are, of unit length."""
    config = dataclasses.replace(RJCMA, recursions=0)
    model = config.build(nnx.Rngs(0))
    given = jax.tree.map(jnp.asarray, batch(config, rng, 2))
    output = nnx.view(model, deterministic=True)(given)
    for m in WIDTHS:
        x = given.streams[m].values
        np.testing.assert_allclose(output.tokens[m].values, x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=1e-6)


def test_the_lstm_system_ends_on_unit_vectors(rng):
    """h is of unit length where anything is valid, and 0 elsewhere."""
    config = dataclasses.replace(RJCMA, lstm=1, lstm_hidden=4)
    model = nnx.view(config.build(nnx.Rngs(0)), deterministic=True)
    valid = jnp.asarray(rng.random((3, LENGTH)) < 0.5).at[0].set(True)
    h = model._in_time(jnp.asarray(rng.normal(size=(3, LENGTH, 8)), jnp.float32), valid)
    np.testing.assert_allclose(jnp.linalg.norm(h, axis=-1), valid, rtol=1e-5)
    paper = rjcma.Config.recursive_lstm()
    built = nnx.eval_shape(lambda: paper.build(nnx.Rngs(0)))
    assert built.embed.kernel.shape == (1024, 512)
