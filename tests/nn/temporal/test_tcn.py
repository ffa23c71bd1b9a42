"""The temporal convolutional network against loops in float64; causality, and how far a step sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.temporal import TemporalConvolution
from avjax.training.step import split_model
from tests.models import reference, tiny

EXAMPLES = 32


def made(rng, inputs=3, width=4, **options):
    graph, params, *rest = split_model(TemporalConvolution(inputs, width, rngs=nnx.Rngs(0), **options))
    params = tiny.randomise(params, rng)
    return params, lambda p, *a: nnx.merge(graph, p, *rest)(*a)


def convolve(x, there, p, dilation, causal):
    """[N, Cin] to [N, Cout], tap by tap; a step that is not there gives nothing."""
    taps = len(p["kernel"])
    out = np.tile(p["bias"], (len(x), 1))
    for n in range(len(x)):
        for tap in range(taps):
            at = n + (tap - (taps - 1 if causal else taps // 2)) * dilation
            if 0 <= at < len(x) and there[at]:
                out[n] += x[at] @ p["kernel"][tap]
    return out


def network(x, there, blocks, dilations, causal):
    for number, dilation in enumerate(dilations):
        p = blocks[number]
        branch = x
        for k in range(2):
            branch = reference.layer_norm(convolve(branch, there, p["convs"][k], dilation, causal), p["norms"][k])
            branch = np.maximum(branch, 0)
        residual = reference.dense(x, p["residual"]) if "residual" in p else x
        x = np.maximum(branch + residual, 0)
    return x


@pytest.mark.parametrize(("causal", "size"), [(True, 2), (True, 3), (False, 3)])
def test_is_the_sum_over_taps(causal, size, rng):
    params, call = made(rng, dilations=(1, 2, 4), size=size, causal=causal)
    x = rng.normal(size=(3, 9, 3)).astype(np.float32)
    valid = rng.random((3, 9)) < 0.7
    valid[0], valid[1] = True, False
    noisy = np.where(valid[..., None], x, rng.choice([np.nan, np.inf, 9.0], size=x.shape)).astype(np.float32)
    got = np.asarray(tiny.jit(call)(params, jnp.asarray(noisy), jnp.asarray(valid)))
    for row in range(3):
        clean = np.where(valid[row][:, None], x[row], 0).astype(np.float64)
        want = network(clean, valid[row], tiny.plain(params)["blocks"], (1, 2, 4), causal)
        # Normalising can enlarge a difference: six layers of sums of ten products.
        np.testing.assert_allclose(got[row][valid[row]], want[valid[row]], rtol=1e-4, atol=1e-4)
        assert (got[row][~valid[row]] == 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_a_step_sees_as_far_as_it_says(causal, rng):
    dilations, size, steps, here = (1, 2), 3, 31, 15
    params, call = made(rng, dilations=dilations, size=size, causal=causal)
    x, valid = jnp.asarray(rng.normal(size=(EXAMPLES, steps, 3)), jnp.float32), jnp.ones((EXAMPLES, steps), bool)
    # A derivative is zero to the bit where nothing leads there; two outputs differ by how each was compiled.
    slopes = tiny.jit(jax.jacobian(lambda x: call(params, x, valid)[:, here].sum(0)))(x)
    seen = (np.asarray(slopes) != 0).any((0, 1, 3))
    far = (size - 1) * sum(dilations) * (2 if causal else 1)
    reach = range(here - far, here + 1) if causal else range(here - far, here + far + 1)
    # Each is seen in some example: what relu hides, it hides in others.
    assert set(np.flatnonzero(seen)) == set(reach)


def test_gradients_are_finite_beside_what_is_not_valid(rng):
    params, call = made(rng, dilations=(1, 2))
    valid = jnp.asarray([[True, False, True, True], [False] * 4])
    x = jnp.where(valid[..., None], jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32), jnp.nan)
    of_params, of_x = tiny.jit(jax.grad(lambda p, x: (call(p, x, valid) ** 2).sum(), argnums=(0, 1)))(params, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((of_params, of_x)))
    assert (np.asarray(of_x)[~np.asarray(valid)] == 0).all()


@pytest.mark.slow
def test_dropout_drops_channels_of_a_whole_sequence():
    network = TemporalConvolution(4, 64, dilations=(1,), dropout=0.5, rngs=nnx.Rngs(0))
    block = network.blocks[0]
    kept = np.asarray(block.dropout(jnp.ones((8, 5, 64)))) != 0
    assert (kept == kept[:, :1]).all()
    assert abs(kept[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(8 * 64)
    x, valid = jnp.ones((1, 5, 4)), jnp.ones((1, 5), bool)
    still = nnx.view(network, deterministic=True)
    np.testing.assert_array_equal(still(x, valid), still(x, valid))
