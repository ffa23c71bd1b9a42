"""Convolution and batch normalisation against NumPy in float64; what is not valid counts nowhere."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.convolution import BatchNorm, Conv, masked


@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 4)])
def test_convolution_is_the_sum(rng, stride, dilation, groups):
    conv = Conv(4, 4, (3,), stride=stride, dilation=dilation, groups=groups, padding="VALID", rngs=nnx.Rngs(0))
    x = rng.normal(size=(2, 9, 4)).astype(np.float32)
    kernel, bias = np.asarray(conv.kernel[...], np.float64), np.asarray(conv.bias[...], np.float64)
    steps = range(0, 9 - 2 * dilation, stride)
    want = np.zeros((2, len(steps), 4))
    for number, begin in enumerate(steps):
        for tap in range(3):
            at = x[:, begin + tap * dilation].astype(np.float64)
            for out in range(4):
                seen = range(4) if groups == 1 else [out]
                want[:, number, out] += sum(at[:, i] * kernel[tap, k, out] for k, i in enumerate(seen))
    np.testing.assert_allclose(conv(x), want + bias, rtol=1e-5, atol=1e-5)


def test_batch_norm_counts_what_is_valid(rng):
    norm = BatchNorm(3, momentum=0.5, rngs=nnx.Rngs(0))
    x = rng.normal(size=(4, 6, 3)).astype(np.float32)
    valid = rng.random((4, 6)) < 0.5
    valid[0, 0], valid[1] = True, False
    noisy = np.where(valid[..., None], x, np.nan)
    got = np.asarray(norm(jnp.asarray(noisy), jnp.asarray(valid)))
    there = x[valid].astype(np.float64)
    want = (x - there.mean(0)) / np.sqrt(there.var(0) + 1e-5)
    np.testing.assert_allclose(got[valid], want[valid], rtol=1e-4, atol=1e-5)
    assert (got[~valid] == 0).all()
    np.testing.assert_allclose(norm.mean[...], there.mean(0) / 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.5 + there.var(0) / 2, rtol=1e-4, atol=1e-6)


def test_batch_norm_of_nothing_is_no_nan():
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    got = norm(jnp.full((2, 5, 3), jnp.nan), jnp.zeros((2, 5), bool))
    assert (np.asarray(got) == 0).all()
    assert np.isfinite(np.asarray(norm.mean[...])).all()


def test_masked_hides_whatever_is_there():
    x = jnp.array([[[jnp.nan], [2.0]]])
    np.testing.assert_array_equal(masked(x, jnp.array([[False, True]])), [[[0.0], [2.0]]])
