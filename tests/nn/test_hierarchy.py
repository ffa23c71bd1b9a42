"""Hierarchies and progressive attention by hand in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.gates import AttentionPool
from avjax.nn.hierarchy import Hierarchy, Level, ProgressiveAttention
from avjax.nn.pooling import max_pool, mean_pool
from avjax.nn.temporal import Recurrent
from avjax.training.step import split_model
from tests.models import reference, tiny


def made(module, rng):
    graph, params, *rest = split_model(module)
    return tiny.randomise(params, rng), lambda p, *a: nnx.merge(graph, p, *rest)(*a)


def with_gaps(rng, rows, count, width):
    """Values and validity of whole rows, rows with gaps and one that is missing; and the same with noise in gaps."""
    x, valid = rng.normal(size=(rows, count, width)).astype(np.float32), rng.random((rows, count)) < 0.5
    valid[0], valid[1] = True, False
    noise = rng.choice([np.nan, np.inf, 5.0], size=x.shape)
    return x, jnp.asarray(np.where(valid[..., None], x, noise), jnp.float32), valid


@pytest.mark.parametrize("count", [12, 11])
def test_levels_pool_groups_of_those_below(count, rng):
    hierarchy = Hierarchy([Level(mean_pool, group=3), Level(max_pool, group=2), Level(mean_pool)])
    x, noisy, valid = with_gaps(rng, 4, count, 5)
    found = tiny.jit(lambda x, valid: hierarchy(x, valid))(noisy, jnp.asarray(valid))
    assert [tokens.shape[1] for tokens, _ in found] == [count, 4, 2, 1]
    for row in range(4):
        below = [x[row][n].astype(float) if valid[row][n] else None for n in range(count)]
        for (tokens, there), (size, pool) in zip(
            found, [(1, np.mean), (3, np.mean), (2, np.max), (2, np.mean)], strict=True
        ):
            groups = [[t for t in below[i : i + size] if t is not None] for i in range(0, len(below), size)]
            below = [pool(group, axis=0) if group else None for group in groups]
            np.testing.assert_array_equal(there[row], [token is not None for token in below])
            want = np.array([np.zeros(5) if token is None else token for token in below])
            np.testing.assert_allclose(tokens[row], want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_level_has_its_pool_and_model(rng):
    rngs = nnx.Rngs(0)
    level = Level(AttentionPool(4, 3, rngs=rngs), group=2, model=Recurrent(4, 2, rngs=rngs))
    params, call = made(level, rng)
    x, noisy, valid = with_gaps(rng, 3, 8, 4)
    tokens, there = tiny.jit(call)(params, noisy, jnp.asarray(valid))
    np.testing.assert_array_equal(there, valid.reshape(3, 4, 2).any(2))
    weights = tiny.plain(params)["pool"]
    pooled = np.zeros((3, 4, 4), np.float32)
    for row, group in np.argwhere(there):
        seen = x[row].reshape(4, 2, 4)[group][valid[row].reshape(4, 2)[group]].astype(float)
        scores = np.exp(np.tanh(reference.dense(seen, weights["hidden"])) @ weights["score"]["kernel"])[:, 0]
        pooled[row, group] = scores / scores.sum() @ seen
    graph, _, *rest = split_model(level.model)
    want = nnx.merge(graph, params["model"], *rest)(jnp.asarray(pooled), there)
    np.testing.assert_allclose(tokens, want, rtol=1e-5, atol=1e-5)

    def loss(p, x):
        return (call(p, x, jnp.asarray(valid))[0] ** 2).sum()

    of_params, of_x = tiny.jit(jax.grad(loss, argnums=(0, 1)))(params, noisy)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x)))
    assert (np.asarray(of_x)[~valid] == 0).all()
    assert np.asarray(of_x)[0].any()


def test_progressive_attention_adds_level_by_level(rng):
    params, call = made(ProgressiveAttention(6, 2, levels=2, rngs=nnx.Rngs(0)), rng)
    h, _, h_valid = with_gaps(rng, 4, 3, 6)
    x, _, x_valid = zip(*(with_gaps(rng, 4, count, 6) for count in (5, 2)), strict=True)
    # A row that lacks the second level alone.
    x_valid[0][2], x_valid[1][2], h_valid[2] = True, False, True
    noisy_h = jnp.asarray(np.where(h_valid[..., None], h, np.nan))
    levels = [(jnp.asarray(np.where(v[..., None], a, np.nan)), jnp.asarray(v)) for a, v in zip(x, x_valid, strict=True)]
    got = np.asarray(tiny.jit(call)(params, noisy_h, jnp.asarray(h_valid), levels))
    weights = tiny.plain(params)
    for row in range(4):
        want = h[row][h_valid[row]].astype(float)
        for k in range(2):
            seen = x[k][row][x_valid[k][row]].astype(float)
            if len(seen):
                normed = reference.layer_norm(want, weights["norms"][k])
                other = reference.layer_norm(seen, weights["norms_of_levels"][k])
                want = want + heads(normed, other, weights["attention"][k], 2)
        np.testing.assert_allclose(got[row][h_valid[row]], want, rtol=1e-4, atol=1e-4)
        assert (got[row][~h_valid[row]] == 0).all()

    def loss(p, h):
        return (call(p, h, jnp.asarray(h_valid), levels) ** 2).sum()

    found = tiny.jit(jax.grad(loss, argnums=(0, 1)))(params, noisy_h)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def heads(x, y, p, count):
    """Multi-head attention of x to y, head by head."""
    query, key, value = (reference.dense(z, p[name]) for z, name in ((x, "query"), (y, "key"), (y, "value")))
    size, outputs = x.shape[1] // count, []
    for head in range(count):
        part = slice(head * size, (head + 1) * size)
        scores = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
        outputs.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
    return reference.dense(np.concatenate(outputs, 1), p["out"])
