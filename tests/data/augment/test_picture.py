"""Each augmentation of frames alone, against what it is defined to do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.data.augment import ColourJitter, Crop, PixelNoise
from tests.data.augment.common import keys, stream


def reference_crop(image, zoom, row, column, flip):
    """One frame [H, W, C]: bilinear between pixel centres, in loops."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            column_at = width - 1 - j if flip else j
            y = np.clip((row * (1 - 1 / zoom) + (i + 0.5) / height / zoom) * height - 0.5, 0, height - 1)
            x = np.clip((column * (1 - 1 / zoom) + (column_at + 0.5) / width / zoom) * width - 0.5, 0, width - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
                out[i, j] += weight * image[top + dy, left + dx]
    return out


def test_crop_equals_the_loop(rng, monkeypatch):
    draws = rng.uniform(size=(5, 3)).astype(np.float32)
    draws[4] = [0.2, 0.7, 0.4]  # Of flip = 0.5: yes, no, yes.
    monkeypatch.setattr("avjax.data.augment.picture.uniform", lambda keys, *names: jnp.asarray(draws))
    images = rng.uniform(size=(3, 2, 8, 11, 3)).astype(np.float32)
    out = Crop((1.0, 2.0))(stream(images), keys(3)).values
    for row in range(3):
        for frame in range(2):
            zoom, at_row, at_column, flip = 1 + draws[0, row], draws[2, row], draws[3, row], draws[4, row] < 0.5
            expected = reference_crop(images[row, frame].astype(np.float64), zoom, at_row, at_column, flip)
            np.testing.assert_allclose(out[row, frame], expected, atol=1e-5)


def test_crop_at_its_ends(rng):
    images = stream(rng.uniform(size=(64, 2, 8, 8, 1)))
    half = np.asarray(jax.jit(Crop((1.0, 1.0)))(images, keys(64)).values)
    flipped = (half == images.values[:, :, :, ::-1]).all((1, 2, 3, 4))
    assert (flipped | (half == images.values).all((1, 2, 3, 4))).all()
    assert 16 < flipped.sum() < 48
    # Shrinking repeats the border and makes nothing up; a flat picture stays flat at any zoom and aspect.
    flat = stream(np.full((16, 1, 9, 7, 3), 0.3))
    out = jax.jit(Crop((0.5, 3.0), (0.75, 4 / 3)))(flat, keys(16)).values
    np.testing.assert_allclose(out, 0.3, atol=1e-6)
    small = np.asarray(jax.jit(Crop((0.5, 0.5)))(images, keys(64)).values)
    assert small.min() >= images.values.min() - 1e-6
    assert small.max() <= images.values.max() + 1e-6


@pytest.mark.slow
def test_colour_jitter(rng):
    images = stream(rng.uniform(0.3, 0.6, (40, 2, 6, 5, 3)))
    images = images.replace(values=np.repeat(images.values[:, :1], 2, 1))

    def changed(*settings):
        values = np.asarray(jax.jit(ColourJitter(*settings))(images, keys(40)).values, np.float64)
        np.testing.assert_array_equal(values[:, 0], values[:, 1])  # The same in every frame of a clip.
        return values

    original = images.values.astype(np.float64)
    luma = original @ np.array([0.299, 0.587, 0.114])
    ratio = changed(0.4, 0.0, 0.0, 0.0, 1.0) / original
    np.testing.assert_allclose(ratio, ratio[:, :1, :1, :1, :1] * np.ones_like(ratio), rtol=1e-4)
    assert 0.6 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.4 + 1e-5
    mean = luma.mean((1, 2, 3))[:, None, None, None, None]
    for out, centre in ((changed(0.0, 0.3, 0.0, 0.0, 1.0), mean), (changed(0.0, 0.0, 0.3, 0.0, 1.0), luma[..., None])):
        factor = ((out - centre) * (original - centre)).sum((1, 2, 3, 4)) / ((original - centre) ** 2).sum((1, 2, 3, 4))
        np.testing.assert_allclose(out, centre + factor[:, None, None, None, None] * (original - centre), atol=1e-5)
        assert np.ptp(factor) > 0.3
        assert (np.abs(factor - 1) < 0.3 + 1e-4).all()
    grey = changed(0.0, 0.0, 0.0, 1.0, 1.0)
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, -1), atol=1e-6)
    same = (changed(0.4, 0.4, 0.4, 0.1, 0.5) == original).all((1, 2, 3, 4))
    assert 5 < same.sum() < 35


@pytest.mark.slow
def test_pixel_noise(rng):
    """White, of the deviation drawn for its clip, in every frame anew; none outside what is valid."""
    valid = np.ones((60, 3), bool)
    valid[:, 2] = False
    grey = stream(np.full((60, 3, 16, 16, 3), 0.5), valid)
    values = np.asarray(jax.jit(PixelNoise((0.02, 0.08), probability=0.5))(grey, keys(60)).values, np.float64)
    np.testing.assert_array_equal(values[:, 2], 0.5)
    noise = values[:, :2] - 0.5
    noisy = noise.any((1, 2, 3, 4))
    assert 5 < noisy.sum() < 55
    # Of 768 draws a frame: five standard errors of a deviation and of a correlation.
    deviation = noise[noisy].std((2, 3, 4))
    np.testing.assert_allclose(deviation[:, 0], deviation[:, 1], rtol=5 * np.sqrt(2 / (2 * 768)))
    assert 0.02 * 0.85 < deviation.min() < deviation.max() < 0.08 * 1.15
    flat = noise[noisy].reshape(noisy.sum(), 2, -1) / deviation[:, :, None]
    assert np.abs((flat[:, 0] * flat[:, 1]).mean(1)).max() < 6 / np.sqrt(768)
    ends = stream(rng.integers(0, 2, (4, 2, 8, 8, 3)))
    out = np.asarray(jax.jit(PixelNoise((0.5, 0.5), probability=1.0))(ends, keys(4)).values)
    assert out.min() == 0
    assert out.max() == 1
