"""Light, colour, sensor and codec against their definitions, by colorsys and by loops."""

from __future__ import annotations

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress import picture
from avjax.diagnostics.stress.rows import Corruption
from avjax.streams import Stream
from tests.models import tiny


def applied(corruption: Corruption, frames: np.ndarray, level: float) -> np.ndarray:
    """One clip at one level, and no matter which of the five."""
    part = Stream(jnp.asarray(frames, jnp.float32), jnp.ones(len(frames), bool), jnp.zeros(()), 10.0)
    function = tiny.jit(corruption.function)
    return np.asarray(function({"video": part}, jnp.float32(level), jax.random.key(5))["video"].values)


def test_brightness_and_saturation_by_colorsys(rng):
    frames = rng.uniform(size=(1, 4, 5, 3)).astype(np.float32)
    frames[0, 0, 0] = 0
    frames[0, 0, 1] = 0.6

    def changed(change) -> np.ndarray:
        pixels = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, rgb)))) for rgb in frames.reshape(-1, 3)]
        return np.reshape(pixels, frames.shape)

    found = applied(picture.brightness, frames, 0.3)
    np.testing.assert_allclose(found, changed(lambda h, s, v: (h, s, min(v + 0.3, 1))), atol=1e-5)
    found = applied(picture.saturate, frames, 2)
    np.testing.assert_allclose(found, changed(lambda h, s, v: (h, min(2 * s, 1), v)), atol=1e-5)


def test_contrast_and_pixelate_by_loops(rng):
    frames = rng.uniform(size=(1, 10, 7, 3)).astype(np.float32)
    mean = frames.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(applied(picture.contrast, frames, 0.2), mean + 0.2 * (frames - mean), atol=1e-6)
    # 5 of 10 rows and 3 of 7 columns: rows in pairs, columns in pieces of 7 / 3.
    found = applied(picture.pixelate, frames, 0.5)
    for row in range(10):
        for column in range(7):
            piece = int((column + 0.5) * 3 / 7)
            weights = [max(0, min(at + 1, (piece + 1) * 7 / 3) - max(at, piece * 7 / 3)) for at in range(7)]
            rows = frames[0, row // 2 * 2 : row // 2 * 2 + 2].mean(0)
            np.testing.assert_allclose(found[0, row, column], np.average(rows, axis=0, weights=weights), atol=1e-5)


def test_sensor_noise_has_its_moments():
    """Of 3 frames of 64 x 64 x 3 equal pixels: 36,864 draws."""
    frames = np.full((3, 64, 64, 3), 0.4, np.float32)
    count = frames.size
    shot = applied(picture.shot_noise, frames, 5) * 5
    np.testing.assert_allclose(shot, np.round(shot), atol=1e-5)
    # Poisson of mean 2; values over 5 are cut off at 1, which takes 0.0225 from the mean.
    chances = [np.exp(-2), 2 * np.exp(-2), 2 * np.exp(-2), 4 / 3 * np.exp(-2)]
    for number, chance in enumerate(chances):
        share = (np.round(shot) == number).mean()
        assert share == pytest.approx(chance, abs=5 * (chance * (1 - chance) / count) ** 0.5)
    speckle = applied(picture.speckle_noise, frames, 0.15)
    assert speckle.std() == pytest.approx(0.15 * 0.4, rel=5 / (2 * count) ** 0.5)
    salt = applied(picture.impulse_noise, frames, 0.2)
    for value in (0, 1):
        assert (salt == value).mean() == pytest.approx(0.1, abs=5 * (0.09 / count) ** 0.5)
    dark = applied(picture.low_light, frames, 1)
    electrons = 2000 * dark.astype(np.float64) ** 2.2
    expected = 1000 * 0.4**2.2
    deviation = (expected + 16) ** 0.5
    assert electrons.mean() == pytest.approx(expected, abs=5 * deviation / count**0.5)
    assert electrons.std() == pytest.approx(deviation, rel=5 / (2 * count) ** 0.5 + 1e-3)
    for noisy in (shot, speckle, salt, dark):
        assert not np.array_equal(noisy[0], noisy[1])


def test_jpeg_by_loops(rng):
    """One block of luma alone, by the definition of the transform; a constant frame survives within a grey level."""
    block = rng.integers(0, 256, (8, 8)) / 255
    quality = 25
    table = np.clip(np.floor((picture.LUMA * (5000 / quality) + 50) / 100), 1, 255)
    scaled = 255 * block - 128
    at = np.arange(8)
    basis = [np.cos((2 * at + 1) * u * np.pi / 16) * (0.5 if u else 0.5 / 2**0.5) for u in at]
    expected = np.zeros((8, 8))
    for u in at:
        for v in at:
            coefficient = np.sum(np.outer(basis[u], basis[v]) * scaled)
            expected += np.round(coefficient / table[u, v]) * table[u, v] * np.outer(basis[u], basis[v])
    expected = np.clip(expected + 128, 0, 255)
    found = applied(picture.jpeg, block[None, :, :, None], quality)[0, ..., 0] * 255
    # Rounded to whole levels.
    assert np.abs(found - expected).max() < 0.5 + 1e-2
    flat = np.full((1, 11, 13, 3), (0.5, 0.25, 0.75), np.float32)
    # The mean of a block is a multiple of 8 tables' first step over 8: 4 levels of luma, 4.25 of chroma.
    assert np.abs(applied(picture.jpeg, flat, quality) - flat).max() * 255 < 2 + 1.8 * 2.2 + 1


def test_better_jpeg_is_nearer(rng):
    frames = rng.uniform(size=(1, 16, 16, 3))
    errors = [np.square(applied(picture.jpeg, frames, quality) - frames).mean() for quality in (100, 60, 7)]
    assert errors[0] < errors[1] < errors[2]
    # Quality 100 rounds coefficients to whole numbers, and the pixels of three channels once more.
    assert errors[0] ** 0.5 * 255 < 1
