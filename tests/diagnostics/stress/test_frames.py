"""Frames in time: which frame is shown where, and what hides them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from avjax.diagnostics.stress import frames
from avjax.diagnostics.stress.rows import Corruption
from avjax.streams import Stream
from tests.models import tiny

COUNT = 20
# Frames that say their number; two of them are not there.
GAP = (4, 11)


def film(valid: np.ndarray | None = None, rate: float = 10.0, size: int = 8) -> Stream:
    there = np.ones(COUNT, bool) if valid is None else valid
    values = np.broadcast_to((np.arange(COUNT) / 100)[:, None, None, None], (COUNT, size, size, 3))
    return Stream(jnp.asarray(values, jnp.float32), jnp.asarray(there), jnp.zeros(()), rate)


def with_gap() -> Stream:
    return film(~np.isin(np.arange(COUNT), GAP))


def shown(corruption: Corruption, part: Stream, level: float, clips: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Number of the frame shown at each place, and which are valid, for so many clips."""
    apply = jax.vmap(lambda key: corruption.function({"video": part}, jnp.float32(level), key)["video"])
    found = tiny.jit(apply)(jax.random.split(jax.random.key(0), clips))
    return np.round(100 * np.asarray(found.values)[..., 0, 0, 0]).astype(int), np.asarray(found.valid)


def test_freeze_is_one_standstill():
    part = with_gap()
    there = np.asarray(part.valid)
    numbers, valid = shown(frames.freeze, part, 0.3)
    assert (valid == there).all()
    np.testing.assert_array_equal(numbers[:, list(GAP)], np.broadcast_to(GAP, (64, 2)))
    own = np.flatnonzero(there)
    changed = numbers[:, there] != own
    # 0.3 of 18 frames is 5.4.
    assert set(changed.sum(1)) == {5, 6}
    for row, moved in zip(numbers[:, there], changed, strict=True):
        first = np.argmax(moved)
        assert moved[first : first + moved.sum()].all()
        assert (row[moved] == own[first - 1]).all()


def test_drop_leaves_the_others():
    part = with_gap()
    numbers, valid = shown(frames.drop, part, 0.3)
    there = np.asarray(part.valid)
    assert not (valid & ~there).any()
    assert set(there.sum() - valid.sum(1)) == {5, 6}
    assert (numbers[valid] == np.broadcast_to(np.arange(COUNT), numbers.shape)[valid]).all()
    # Every frame is dropped about as often: of 64, with a deviation of 3.7.
    np.testing.assert_allclose((~valid[:, there]).sum(0), 0.3 * 64, atol=5 * 3.7)


def test_one_frame_is_never_dropped():
    _, valid = shown(frames.drop, film(np.arange(COUNT) == 3), 0.5)
    assert valid[:, 3].all()


def test_shuffle_stays_in_its_windows():
    part = with_gap()
    own = np.flatnonzero(np.asarray(part.valid))
    numbers, _ = shown(frames.shuffle, part, 4)
    numbers = numbers[:, own]
    for begin in range(0, len(own), 4):
        window = own[begin : begin + 4]
        np.testing.assert_array_equal(
            np.sort(numbers[:, begin : begin + 4], 1), np.broadcast_to(window, (64, len(window)))
        )
    assert (numbers != own).any(0).all()
    everywhere, _ = shown(frames.shuffle, part, np.inf)
    np.testing.assert_array_equal(np.sort(everywhere[:, own], 1), np.broadcast_to(own, (64, len(own))))
    assert (np.abs(everywhere[:, own] - own) > 8).any()


def test_reverse():
    part = with_gap()
    own = np.flatnonzero(np.asarray(part.valid))
    numbers, _ = shown(frames.reverse, part, np.inf, clips=1)
    np.testing.assert_array_equal(numbers[0, own], own[::-1])
    numbers, _ = shown(frames.reverse, part, 4, clips=1)
    np.testing.assert_array_equal(numbers[0, own], own[[3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 17, 16]])


def test_frame_rate_holds_frames():
    numbers, _ = shown(frames.frame_rate, film(), 1 / 3, clips=1)
    np.testing.assert_array_equal(numbers[0], np.arange(COUNT) // 3 * 3)
    numbers, _ = shown(frames.frame_rate, film(), 2 / 3, clips=1)
    np.testing.assert_array_equal(numbers[0, :7], [0, 0, 2, 3, 3, 5, 6])


def test_frame_blur_is_the_mean_of_the_joined_frames(rng):
    """Against a fine sum over the straight lines between frames."""
    values = rng.uniform(size=(COUNT, 2, 2, 1)).astype(np.float32)
    part = Stream(jnp.asarray(values), jnp.ones(COUNT, bool), jnp.zeros(()), 10.0)
    apply = tiny.jit(frames.frame_blur.function)
    found = np.asarray(apply({"video": part}, jnp.float32(0.23), jax.random.key(0))["video"].values)
    moments = 9 + np.linspace(-2.3, 2.3, 46_001)
    expected = np.interp(moments, np.arange(COUNT), values[:, 1, 0, 0]).mean()
    assert found[9, 1, 0, 0] == pytest.approx(expected, abs=1e-4)
    still = film().replace(values=jnp.full((COUNT, 8, 8, 3), 0.7))
    found = apply({"video": still}, jnp.float32(0.23), jax.random.key(0))["video"].values
    np.testing.assert_allclose(found, 0.7, atol=1e-6)


def test_occluders_cover_their_area():
    part = film(size=16).replace(values=jnp.zeros((COUNT, 16, 12, 3)))
    for corruption in (frames.occlusion, frames.moving_occlusion):
        apply = jax.vmap(lambda key, one=corruption: one.function({"video": part}, jnp.float32(0.3), key)["video"])
        found = np.asarray(tiny.jit(apply)(jax.random.split(jax.random.key(0), 8)).values)
        np.testing.assert_allclose(found.mean((2, 3, 4)), 0.5 * 0.3, atol=1e-5)
        still = np.ptp(found, axis=1).max() == 0
        assert still == (corruption is frames.occlusion)


def test_rotation_is_scipys(rng):
    image = rng.uniform(size=(9, 9, 2)).astype(np.float32)
    part = Stream(jnp.asarray(image[None]), jnp.ones(1, bool), jnp.zeros(()), 10.0)
    found = tiny.jit(frames.rotation.function)({"video": part}, jnp.float32(17), jax.random.key(0))["video"].values[0]
    turns = [scipy.ndimage.rotate(image, angle, order=1, mode="nearest", reshape=False) for angle in (17, -17)]
    assert min(np.abs(found - turn).max() for turn in turns) < 1e-4
