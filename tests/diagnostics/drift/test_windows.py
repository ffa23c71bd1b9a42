"""Windows of a clip: they cover it evenly, keep its mass, and see the same where the same happens."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.drift.grid import pooled, state
from avjax.diagnostics.drift.windows import FEWEST, content_change, in_windows, windows
from avjax.diagnostics.measured import Undefined

SPAN = (0.5, 2.5)


@hypothesis.given(st.floats(-2, 2), st.floats(0.01, 60))
def test_they_are_of_equal_support_and_together_the_span(begin, length):
    edges = windows((begin, begin + length))
    width = np.diff(edges, axis=1)[:, 0]
    np.testing.assert_allclose(width, width[0])
    np.testing.assert_allclose(np.diff(edges[:, 0]), width[0] / 2)
    assert (edges[0, 0], edges[-1, 1]) == (pytest.approx(begin), pytest.approx(begin + length))
    # A second, and less than a hop's worth more; or as many as a short clip is cut into.
    assert len(edges) == FEWEST or 1 - 1e-6 <= width[0] < 1 + 1 / (len(edges) + 1)


def test_a_second_and_half_a_second():
    np.testing.assert_allclose(windows((0.0, 4.0)), [[0.5 * k, 0.5 * k + 1] for k in range(7)])
    np.testing.assert_allclose(windows((0.0, 10.0)), [[0.5 * k, 0.5 * k + 1] for k in range(19)])
    with pytest.raises(Undefined, match="no time"):
        windows((1.0, 1.0))


@pytest.mark.parametrize("shape", [(13, 9, 8), (50, 11), (7,), (1, 9, 9)])
def test_two_windows_count_every_moment_but_the_ends(shape, rng):
    """Each window overlaps half of its neighbours, so that all together hold the middle twice and the ends once."""
    mass = rng.random(shape)
    edges = windows(SPAN)
    step = edges[1, 0] - edges[0, 0]
    ends = in_windows(mass, SPAN, np.array([[SPAN[0], SPAN[0] + step], [SPAN[1] - step, SPAN[1]]]))
    assert in_windows(mass, SPAN, edges).sum() + ends.sum() == pytest.approx(2 * mass.sum())
    # One window over everything is the state of the whole clip.
    (whole,) = in_windows(mass, SPAN, np.array([SPAN]))
    if len(shape) == 3:
        np.testing.assert_allclose(whole, pooled(mass.sum(axis=0), (7, 7)).ravel())
    elif len(shape) == 2:
        np.testing.assert_allclose(whole, pooled(mass.T, (4, 4)).ravel())
    else:
        np.testing.assert_allclose(whole, pooled(mass[None], (1, 16)).ravel())


def test_what_stays_the_same_has_the_same_state_in_every_window(rng):
    still = [np.repeat(rng.random((1, 9, 8)), 12, axis=0), np.repeat(rng.random((1, 11)), 40, axis=0)]
    edges = windows(SPAN)
    pi = state([in_windows(mass, SPAN, edges) for mass in still])
    assert pi.shape == (len(edges), 49 + 16)
    np.testing.assert_allclose(pi, np.broadcast_to(pi[:1], pi.shape), atol=1e-12)


def test_an_impulse_is_in_the_windows_of_its_moment():
    mass = np.zeros(16)
    mass[5] = 1
    # Of 16 steps of an eighth of a second: 0.625 s to 0.75 s, in the windows from 0.25 s and from 0.5 s.
    found = in_windows(mass, (0.0, 2.0), windows((0.0, 2.0)))
    np.testing.assert_allclose(found.sum(axis=1), [0, 1, 1, 0, 0, 0, 0], atol=1e-12)


def test_change_of_the_content(rng):
    edges = windows((0.0, 2.0))
    still = np.repeat(rng.random((1, 4, 4, 3)), 20, axis=0)
    np.testing.assert_array_equal(content_change(still, (0.0, 2.0), edges), np.zeros(len(edges) - 1))
    np.testing.assert_array_equal(content_change(still[:1], (0.0, 2.0), edges), np.zeros(len(edges) - 1))
    # Grey that grows by a tenth a step changes by a tenth everywhere.
    ramp = np.broadcast_to(0.1 * np.arange(20)[:, None, None, None], (20, 4, 4, 3))
    np.testing.assert_allclose(content_change(ramp, (0.0, 2.0), edges), 0.1, rtol=1e-5)
    # A cut between two stills at 1 s is between the windows' middles next to it, and nowhere else.
    cut = np.concatenate([still[:10], 1 - still[:10]])
    found = content_change(cut, (0.0, 2.0), edges)
    assert set(np.flatnonzero(found > 1e-6)) == {2, 3}
    # Features of a vector a step go as pictures do.
    np.testing.assert_allclose(content_change(ramp[:, 0, 0], (0.0, 2.0), edges), 0.1, rtol=1e-5)


def test_sound_changes_where_it_sets_in():
    rate, edges = 16000, windows((0.0, 2.0))
    time = np.arange(2 * rate) / rate
    tone = np.where(time > 1.375, 0.3 * np.sin(2 * np.pi * 440 * time), 0)
    found = content_change(tone, (0.0, 2.0), edges)
    # Between the middles at 1.25 s and 1.5 s.
    assert found.argmax() == 4
    assert found[4] > 20 * np.delete(found, 4).max()
    np.testing.assert_array_equal(content_change(np.zeros(2 * rate), (0.0, 2.0), edges), np.zeros(len(edges) - 1))
    np.testing.assert_array_equal(content_change(np.zeros(100), (0.0, 2.0), edges), np.zeros(len(edges) - 1))
