"""Linear layers, norms and learned tokens against NumPy, and the names of their axes."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.dense import Dense, SpectralDense, layer_norm, learned_tokens
from tests.models import reference


@hypothesis.given(st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=8)
def test_dense_is_the_product_over_the_last_axis(leading, seed):
    rng = np.random.default_rng(seed)
    dense = Dense(3, 5, axes=("embed", "hidden"), rngs=nnx.Rngs(seed % 1000))
    dense.bias[...] = jnp.asarray(rng.normal(size=5), jnp.float32)
    x = rng.normal(size=(*leading, 3)).astype(np.float32)
    expected = np.tensordot(x.astype(float), np.asarray(dense.kernel[...], float), 1) + np.asarray(dense.bias[...])
    np.testing.assert_allclose(dense(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_axes_have_names():
    dense = Dense(3, 5, axes=("embed", "hidden"), rngs=nnx.Rngs(0))
    assert dense.kernel.get_metadata("axes") == ("embed", "hidden")
    assert dense.bias.get_metadata("axes") == ("hidden",)
    assert learned_tokens(2, 3, nnx.Rngs(0)).get_metadata("axes") == ("token", "embed")
    norm = layer_norm(3, nnx.Rngs(0))
    assert norm.scale.get_metadata("axes") == norm.bias.get_metadata("axes") == ("embed",)
    assert Dense(3, 5, axes=("embed", "hidden"), bias=False, rngs=nnx.Rngs(0)).bias is None


def test_initial_values():
    kernel = np.asarray(Dense(200, 300, axes=("embed", "hidden"), rngs=nnx.Rngs(0)).kernel[...])
    # Xavier uniform: variance 2 / (in + out), bound sqrt(6 / (in + out)).
    assert kernel.var() == pytest.approx(2 / 500, rel=0.05)
    assert np.abs(kernel).max() <= np.sqrt(6 / 500)
    assert np.asarray(learned_tokens(100, 200, nnx.Rngs(0))[...]).std() == pytest.approx(0.02, rel=0.05)


def test_spectral_normalisation(rng):
    """Call by call a power iteration, which ends at the largest singular value; evaluated, it stands still."""
    dense = SpectralDense(4, 3, axes=("embed", "hidden"), rngs=nnx.Rngs(0))
    kernel, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    dense.kernel[...], dense.bias[...] = jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32)
    u, x = np.asarray(dense.direction[...], float), rng.normal(size=(2, 5, 4))
    for _ in range(3):
        v = kernel @ u / np.linalg.norm(kernel @ u)
        u = v @ kernel / np.linalg.norm(v @ kernel)
        expected = x @ kernel / (v @ kernel @ u) + bias
        np.testing.assert_allclose(dense(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(dense.direction[...], u, rtol=1e-4, atol=1e-5)
    still = nnx.view(dense, use_running_average=True)
    before = np.asarray(dense.direction[...])
    still(jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(still.direction[...], before)
    _, _, right = np.linalg.svd(kernel)
    dense.direction[...] = jnp.asarray(right[0], jnp.float32)
    assert float(dense.singular_value()) == pytest.approx(np.linalg.norm(kernel, 2), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norm(dtype, rng):
    norm = layer_norm(16, nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = (jnp.asarray(rng.normal(size=16), jnp.float32) for _ in range(2))
    # Far from zero: in bfloat16 statistics the variance would be lost.
    x = jnp.asarray(100 + rng.normal(size=(3, 16)), dtype)
    weights = {"scale": np.asarray(norm.scale[...], float), "bias": np.asarray(norm.bias[...], float)}
    expected = reference.layer_norm(np.asarray(x, float), weights)
    # The release of Flax computes the variance as E[x^2] - E[x]^2.
    np.testing.assert_allclose(norm(x), expected, rtol=0.02, atol=0.02)
