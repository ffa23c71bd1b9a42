"""Recurrence against its equations in float64, on sequences without the steps that are not valid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.temporal import Recurrent
from avjax.training.step import split_model
from tests.models import tiny

WIDTH, HIDDEN, STEPS = 3, 4, 7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(kind, cell, x):
    """Outputs [N, hidden] of one sequence without gaps, gate by gate."""
    inputs, recurrent = cell["dense_i"], cell["dense_h"]
    bias = inputs.get("bias", recurrent.get("bias"))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    units = recurrent["kernel"].shape[0]
    # W, U and b of every gate.
    w, u, b = ([part[..., g * units : (g + 1) * units] for g in range(gates)] for part in (
        inputs["kernel"], recurrent["kernel"], bias,
    ))  # fmt: skip
    h, c, outputs = np.zeros(units), np.zeros(units), []
    for x_t in x:
        if kind == "lstm":
            i, f, g, o = (x_t @ w[k] + h @ u[k] + b[k] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif kind == "gru":
            r, z = (sigmoid(x_t @ w[k] + b[k] + h @ u[k]) for k in range(2))
            n = np.tanh(x_t @ w[2] + b[2] + r * (h @ u[2]))
            h = (1 - z) * n + z * h
        else:
            h = np.tanh(x_t @ w[0] + b[0] + h @ u[0])
        outputs.append(h)
    return np.array(outputs).reshape(-1, units)


def made(rng, **options):
    graph, params, *rest = split_model(Recurrent(WIDTH, HIDDEN, rngs=nnx.Rngs(0), **options))
    params = tiny.randomise(params, rng)
    return params, lambda p, *a: nnx.merge(graph, p, *rest)(*a)


def with_gaps(rng):
    """Rows that are whole, that have gaps, and that are missing; what is not valid is anything."""
    x = rng.normal(size=(5, STEPS, WIDTH)).astype(np.float32)
    valid = rng.random((5, STEPS)) < 0.6
    valid[0], valid[1], valid[2, [0, 3, STEPS - 1]], valid[2, 1] = True, False, False, True
    noise = rng.choice([np.nan, np.inf, 7.0], size=x.shape)
    return x, np.where(valid[..., None], x, noise).astype(np.float32), valid


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(("bidirectional", "layers"), [(True, 2), (False, 1)])
def test_is_the_recurrence_over_what_is_valid(kind, bidirectional, layers, rng):
    params, call = made(rng, kind=kind, bidirectional=bidirectional, layers=layers)
    x, noisy, valid = with_gaps(rng)
    got = np.asarray(tiny.jit(call)(params, jnp.asarray(noisy), jnp.asarray(valid)))
    assert got.shape == (5, STEPS, HIDDEN * (2 if bidirectional else 1))
    weights = tiny.plain(params)["layers"]
    for row in range(5):
        sequence = x[row][valid[row]].astype(np.float64)
        for layer in range(layers):
            cells = weights[layer]
            runs = [run(kind, cells[0], sequence)]
            if bidirectional:
                runs.append(run(kind, cells[1], sequence[::-1])[::-1])
            sequence = np.concatenate(runs, axis=1)
        # Sums of some ten float32 products of size one, through seven steps.
        np.testing.assert_allclose(got[row][valid[row]], sequence, rtol=1e-5, atol=1e-5)
        assert (got[row][~valid[row]] == 0).all()


def test_gradients_are_finite_and_zero_where_nothing_is(rng):
    params, call = made(rng, kind="lstm")
    _, noisy, valid = with_gaps(rng)
    loss = tiny.jit(jax.grad(lambda p, x: (call(p, x, jnp.asarray(valid)) ** 2).sum(), argnums=(0, 1)))
    of_params, of_x = loss(params, jnp.asarray(noisy))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_params))
    assert (np.asarray(of_x)[~valid] == 0).all()
    assert np.isfinite(of_x).all()
    assert (np.abs(np.asarray(of_x)[valid]).sum(-1) > 0).all()


@pytest.mark.slow
def test_dropout_lies_between_layers(rng):
    x, valid = jnp.asarray(rng.normal(size=(2, 3, WIDTH)), jnp.float32), jnp.ones((2, 3), bool)
    one = Recurrent(WIDTH, HIDDEN, dropout=0.5, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(one(x, valid), one(x, valid))
    two = Recurrent(WIDTH, HIDDEN, layers=2, dropout=0.5, rngs=nnx.Rngs(0))
    assert (np.asarray(two(x, valid)) != np.asarray(two(x, valid))).any()
    still = nnx.view(two, deterministic=True)
    np.testing.assert_array_equal(still(x, valid), still(x, valid))


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_bfloat16_stays_near(kind, rng):
    params, call = made(rng, kind=kind, bidirectional=False)
    x, _, valid = with_gaps(rng)
    half, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, jnp.asarray(x)))
    got = tiny.jit(call)(half, x, jnp.asarray(valid))
    assert got.dtype == jnp.bfloat16
    rounded, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (half, x))
    whole = tiny.jit(call)(rounded, x, jnp.asarray(valid))
    # W x alone is bfloat16: it is off by 2^-9 of a size of up to eight, and seven steps add up.
    np.testing.assert_allclose(got.astype(jnp.float32), whole, atol=7 * 8 * 2**-9)
