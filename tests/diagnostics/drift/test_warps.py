"""Where cells go: quarter turns are exact, speeds are arithmetic, and a turn there and back ends where it began."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.drift.grid import against_warped
from avjax.diagnostics.drift.warps import late, sped, turned


def test_a_quarter_turn_is_that_of_the_array(rng):
    """From the rows' axis to the columns': what was below the middle comes to its right."""
    maps = rng.dirichlet(np.ones(36), size=2)
    warp = turned(np.array([np.pi / 2, -np.pi / 2]), (6, 6), (32, 32))
    assert warp.inside.all()
    quarter = np.stack([np.rot90(maps[0].reshape(6, 6), 1), np.rot90(maps[1].reshape(6, 6), -1)]).reshape(2, -1)
    (clean, moved), lost = against_warped(maps, quarter, *warp)
    np.testing.assert_allclose(clean, moved, rtol=1e-13)
    np.testing.assert_allclose(lost, 0, atol=1e-14)


def test_what_a_turn_takes_out_of_view(rng):
    """Of a square turned by an eighth, what is out of view is 3 - 2 sqrt(2) of its area, in and out alike."""
    area = 1 - 2 * (np.sqrt(2) - 1)
    warp = turned(np.array([np.pi / 4]), (200, 200), (50, 50))
    np.testing.assert_allclose((warp.target < 0).mean(), area, atol=0.01)
    np.testing.assert_allclose((~warp.inside).mean(), area, atol=0.01)


def test_a_faster_clip_ends_sooner():
    """At twice the speed, from the third of eight steps on: two steps come to one, and the end is empty."""
    warp = sped(np.array([2.0]), np.array([2 / 8]), np.array([1.0]), (1, 8))
    np.testing.assert_array_equal(warp.target[0, 2:], [2, 2, 3, 3, 4, 4])
    np.testing.assert_array_equal(warp.inside[0, 2:], [True, True, True, False, False, False])


def test_every_frequency_is_late(rng):
    warp = late(np.array([0.25, -0.25, 0.0]), (2, 4))
    np.testing.assert_array_equal(warp.target, [
        [1, 2, 3, -1, 5, 6, 7, -1], [-1, 0, 1, 2, -1, 4, 5, 6], np.arange(8),
    ])  # fmt: skip
    assert warp.inside.sum(axis=1).tolist() == [6, 6, 8]
