"""States on fixed cells: mass is kept, padding and warps are taken out."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.drift.divergence import drift
from avjax.diagnostics.drift.grid import AUDIO_GRID, VISUAL_GRID, against_warped, cells, co_valid, pooled, state
from avjax.diagnostics.drift.warps import late
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)
NAMES = ("audio", "video")
sides = st.tuples(st.integers(1, 20), st.integers(1, 20))


@hypothesis.given(seeds, sides, sides)
def test_pooling_keeps_the_mass(seed, shape, grid):
    rng = np.random.default_rng(seed)
    mass = rng.random((3, *shape))
    small = pooled(mass, grid)
    assert small.shape == (3, *grid)
    np.testing.assert_allclose(small.sum(axis=(1, 2)), mass.sum(axis=(1, 2)), rtol=1e-13)
    # Pooling by way of a finer grid that both divide is the same.
    fine = np.kron(mass, np.ones(grid)) / (grid[0] * grid[1])
    blocks = fine.reshape(3, grid[0], shape[0], grid[1], shape[1])
    np.testing.assert_allclose(small, blocks.sum(axis=(2, 4)), rtol=1e-12)
    np.testing.assert_allclose(pooled(mass, shape), mass, rtol=1e-15)


def test_the_fixed_cells(rng):
    """CMSD version 1: 16 of audio and 49 of video, and mass shares as before pooling."""
    audio, video = rng.random((5, 8, 25)), rng.random((5, 14, 14))
    parts = [pooled(audio, AUDIO_GRID).reshape(5, -1), pooled(video, VISUAL_GRID).reshape(5, -1)]
    groups = cells(NAMES, [part.shape[1] for part in parts])
    assert groups.count("audio") == 16
    assert groups.count("video") == 49
    pi = state(parts)
    np.testing.assert_allclose(pi.sum(axis=1), 1, rtol=1e-14)
    whole = audio.sum(axis=(1, 2)) + video.sum(axis=(1, 2))
    np.testing.assert_allclose(pi[:, :16].sum(axis=1), audio.sum(axis=(1, 2)) / whole, rtol=1e-13)


def test_what_is_no_mass_is_refused():
    with pytest.raises(ValueError, match="magnitudes"):
        pooled(np.array([[1.0, -1.0]]), (1, 1))
    with pytest.raises(ValueError, match="magnitudes"):
        state([np.array([1.0, -1.0])])
    with pytest.raises(ValueError, match="negative"):
        state([np.array([np.nan, 1.0])])
    with pytest.raises(Undefined, match="1 of 2 rows"):
        state([np.array([[0.0], [1.0]]), np.array([[0.0], [0.0]])])


def test_only_shared_cells_are_compared():
    """A clip and its padded copy, whose extra cells hold nonsense."""
    one = np.array([0.1, 0.3, 0.2, 0.4])
    other = np.array([0.15, 0.45, np.nan, 0.6])
    (a, b), (lost_a, lost_b) = co_valid(one, np.nan_to_num(other, nan=7.0), np.array([True, True, False, True]))
    np.testing.assert_allclose(a, [0.125, 0.375, 0, 0.5], rtol=1e-14)
    np.testing.assert_allclose(b, a, rtol=0, atol=1e-15)
    assert float(lost_a) == pytest.approx(0.2)
    assert float(lost_b) == 0
    (a, b), _ = co_valid(one, other, np.array([True, True, False, True]))
    groups = ("audio", "audio", "video", "video")
    assert float(drift(a, b, groups, NAMES).total) == pytest.approx(0, abs=1e-15)
    with pytest.raises(Undefined, match="no saliency"):
        co_valid(np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([False, True]))


def test_a_map_that_moves_with_its_input_does_not_drift():
    """KA: a delta shifted in time, with the correction, 0; without, 1."""
    delta = np.eye(10)
    warp = late(np.array([0.3]), (1, 10))
    groups = ("audio",) * 10
    (clean, moved), (left, outside) = against_warped(delta[[2]], delta[[5]], *warp)
    assert drift(clean, moved, groups, NAMES).total.tolist() == [0]
    assert left.tolist() == outside.tolist() == [0]
    assert float(drift(delta[2], delta[5], groups, NAMES).total) == 1


@hypothesis.given(seeds, st.integers(-6, 6))
def test_mass_that_leaves_the_view_is_reported(seed, shift):
    """A shift of 8 cells by some: the clean state's end is gone, and the moved state's beginning is new."""
    rng = np.random.default_rng(seed)
    clean, moved = rng.dirichlet(np.ones(8), size=2)
    (a, b), (left, outside) = against_warped(clean[None], moved[None], *late(np.array([shift / 8]), (1, 8)))
    a, b = a[0], b[0]
    gone = [j for j in range(8) if not 0 <= j + shift < 8]
    new = [j for j in range(8) if not 0 <= j - shift < 8]
    assert float(left[0]) == pytest.approx(clean[gone].sum(), abs=1e-15)
    assert float(outside[0]) == pytest.approx(moved[new].sum(), abs=1e-15)
    assert not a[new].any()
    assert not b[new].any()
    np.testing.assert_allclose([a.sum(), b.sum()], 1, rtol=1e-14)


def test_a_flip_of_an_image(rng):
    image = rng.dirichlet(np.ones(49))
    target, inside = np.arange(49).reshape(1, 7, 7)[..., ::-1].reshape(1, -1), np.ones((1, 49), bool)
    (a, b), _ = against_warped(image[None], image.reshape(1, 7, 7)[..., ::-1].reshape(1, -1), target, inside)
    np.testing.assert_allclose(a, b, rtol=1e-15)
