"""Point spreads sum to 1 and are what they are named after; the convolution is SciPy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from avjax.diagnostics.stress import fields
from tests.models import tiny


def test_convolution_is_scipys(rng):
    frame = rng.uniform(size=(12, 17, 2)).astype(np.float32)
    kernel = rng.uniform(size=(5, 9)).astype(np.float32)
    found = np.asarray(tiny.jit(fields.convolved)(jnp.asarray(frame), jnp.asarray(kernel)))
    for channel in range(2):
        expected = scipy.ndimage.convolve(frame[..., channel].astype(np.float64), kernel, mode="reflect")
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-4)


def test_gaussian_kernel():
    for sigma in (0.05, 1.0, 3.0):
        kernel = np.asarray(fields.gaussian_kernel(jnp.float32(sigma), 16), np.float64)
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        along = kernel.sum(0)
        # A pixel's own width adds 1 / 12 where sigma is not much below it.
        if sigma >= 1:
            assert along @ np.arange(-16, 17) ** 2 == pytest.approx(sigma**2 + 1 / 12, rel=1e-3)


def test_line_and_points():
    """A level line to the right, of weights exp(-i^2 / 2 s^2) at whole pixels; and points between pixels."""
    kernel = np.asarray(fields.line_kernel(jnp.float32(3), jnp.float32(2), jnp.float32(0), 5, 1.0), np.float64)
    middle = kernel.shape[0] // 2
    weights = np.exp(-(np.arange(4) ** 2) / 8)
    np.testing.assert_allclose(kernel[middle, middle : middle + 4], weights / weights.sum(), atol=1e-6)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    between = fields.point_kernel(jnp.array([0.25]), jnp.array([-0.5]), jnp.ones(1), 1)
    np.testing.assert_allclose(between, [[0, 0, 0], [0.375, 0.375, 0], [0.125, 0.125, 0]], atol=1e-6)


def test_samples_between_pixels(rng):
    frame = rng.uniform(size=(6, 7, 2)).astype(np.float32)
    rows, columns = rng.uniform(-2, 8, (2, 6, 7)).astype(np.float32)
    found = np.asarray(fields.sampled(*map(jnp.asarray, (frame, rows, columns))))
    expected = [
        scipy.ndimage.map_coordinates(frame[..., channel], [rows, columns], order=1, mode="nearest")
        for channel in range(2)
    ]
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=1e-4)


def test_plasma_is_a_fractal():
    """On [0, 1], and rougher the less it decays."""
    from_key = tiny.jit(lambda decay: fields.plasma(jax.random.key(0), (48, 64), decay))
    smooth, rough = (np.asarray(from_key(jnp.float32(decay))) for decay in (2.0, 1.4))
    for field in (smooth, rough):
        assert field.shape == (48, 64)
        assert field.min() >= 0
        assert field.max() <= 1
    steps = [np.square(np.diff(field, axis=0)).mean() / field.var() for field in (smooth, rough)]
    assert steps[0] < steps[1]
