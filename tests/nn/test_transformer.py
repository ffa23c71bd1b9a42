"""The block against its equations in float64, dropout of branches, sizes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.attention import cross_mask, self_mask
from avjax.nn.transformer import SIZES, Block, PostNormBlock, Size, StochasticDepth, stochastic_depth_rates
from avjax.training.step import split_model
from kernels.attention import Layout
from tests.models import reference, tiny

SIZE = Size(width=12, depth=1, heads=3, hidden=2)


@pytest.mark.parametrize("other", [False, True])
def test_block_equals_the_equations(other, rng):
    graph, params, *rest = split_model(Block(SIZE, rngs=nnx.Rngs(0)))
    params = tiny.randomise(params, rng)
    x = rng.normal(size=(3, 5, 12)).astype(np.float32)
    y = rng.normal(size=(3, 7, 12)).astype(np.float32) if other else x
    valid = rng.random((3, y.shape[1])) < 0.6
    valid[:, 0] = True
    layout = Layout.of(queries=5), Layout.of(keys=y.shape[1])
    mask = cross_mask(*layout, jnp.asarray(valid)) if other else self_mask(jnp.asarray(valid))
    given = jnp.asarray(y) if other else None
    out = tiny.jit(lambda p, *a: nnx.merge(graph, p, *rest)(*a))(params, jnp.asarray(x), mask, given)
    weights = tiny.plain(params)
    for row in range(3):
        # Every token asks, those that are hidden too; only valid ones are seen.
        expected = reference.block(x[row].astype(float), y[row][valid[row]].astype(float), weights, 3)
        np.testing.assert_allclose(out[row], expected, rtol=1e-4, atol=1e-4)


def test_nothing_to_attend_to_adds_the_bias_alone(rng):
    graph, params, *rest = split_model(Block(SIZE, rngs=nnx.Rngs(0)))
    params = tiny.randomise(params, rng)
    x = jnp.asarray(rng.normal(size=(2, 4, 12)), jnp.float32)
    forward = tiny.jit(lambda p, x, valid: nnx.merge(graph, p, *rest)(x, self_mask(valid)))
    weights = tiny.plain(params)
    out = forward(params, x, jnp.zeros((2, 4), bool))
    after = np.asarray(x, np.float64) + weights["out"]["bias"]
    hidden = reference.gelu(
        reference.dense(reference.layer_norm(after, weights["norm_feed_forward"]), weights["feed_forward"]["up"])
    )
    np.testing.assert_allclose(out, after + reference.dense(hidden, weights["feed_forward"]["down"]), atol=1e-4)


def test_stochastic_depth_drops_examples_and_does_not_rescale():
    layer = StochasticDepth(0.3, rngs=nnx.Rngs(5))
    x = jnp.arange(1.0, 4001.0)[:, None, None] * jnp.ones((1, 2, 3))
    first, second = np.asarray(layer(x)), np.asarray(layer(x))
    for out in (first, second):
        kept = out[:, 0, 0] != 0
        # What is kept is kept whole, as it was.
        np.testing.assert_array_equal(out, np.where(kept[:, None, None], x, 0))
        # Four standard errors.
        assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / 4000)
    # The two branches of a block are drawn each by itself.
    assert abs(((first != 0) == (second != 0)).mean() - (0.7**2 + 0.3**2)) < 0.05
    still = nnx.view(layer, deterministic=True)
    np.testing.assert_array_equal(still(x), x)


def test_rates_rise_linearly():
    np.testing.assert_allclose(stochastic_depth_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
    assert stochastic_depth_rates(0.3, 1) == [0.0]


def test_sizes():
    assert {name: (s.width, s.depth, s.heads, s.hidden) for name, s in SIZES.items()} == {
        "Ti": (192, 12, 3, 4),
        "S": (384, 12, 6, 4),
        "B": (768, 12, 12, 4),
        "L": (1024, 24, 16, 4),
    }
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 3"):
        Size(10, 1, 3)


def test_post_norm_block_equals_the_equations(rng):
    graph, params, *rest = split_model(PostNormBlock(SIZE, activation=nnx.relu, rngs=nnx.Rngs(0)))
    params = tiny.randomise(params, rng)
    x, y = (rng.normal(size=(2, n, 12)).astype(np.float32) for n in (4, 6))
    valid = rng.random((2, 6)) < 0.6
    valid[:, 0] = True
    mask = cross_mask(Layout.of(queries=4), Layout.of(keys=6), jnp.asarray(valid))
    out = tiny.jit(lambda p, *a: nnx.merge(graph, p, *rest)(*a))(params, jnp.asarray(x), mask, jnp.asarray(y))
    p = tiny.plain(params)
    for row in range(2):
        at = x[row].astype(float)
        at = reference.layer_norm(
            at + reference.attention(at, y[row][valid[row]].astype(float), p, 3), p["norm_attention"]
        )
        hidden = np.maximum(reference.dense(at, p["feed_forward"]["up"]), 0)
        at = reference.layer_norm(at + reference.dense(hidden, p["feed_forward"]["down"]), p["norm_feed_forward"])
        np.testing.assert_allclose(out[row], at, rtol=1e-4, atol=1e-4)


def test_a_causal_mask_hides_the_future(rng):
    """What comes later changes nothing before it."""
    block = Block(SIZE, rngs=nnx.Rngs(0))
    x = rng.normal(size=(1, 6, 12)).astype(np.float32)
    changed = x.copy()
    changed[:, 4:] += 1
    mask = self_mask(jnp.ones((1, 6), bool)).replace(causal=True)
    one, other = block(jnp.asarray(x), mask), block(jnp.asarray(changed), mask)
    np.testing.assert_allclose(one[:, :4], other[:, :4], rtol=1e-6, atol=1e-6)
    assert (np.abs(np.asarray(one - other))[:, 4:].max(-1) > 1e-3).all()


def test_stochastic_depth_rescales_where_told():
    layer = StochasticDepth(0.25, rescale=True, rngs=nnx.Rngs(5))
    x = jnp.arange(1.0, 101.0)[:, None, None]
    out = np.asarray(layer(x))
    np.testing.assert_allclose(out, np.where(out != 0, np.asarray(x) / 0.75, 0), rtol=1e-6)
    assert 0 < (out != 0).sum() < 100
