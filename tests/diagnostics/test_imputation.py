"""Imputation against NumPy's interpolation and a dense system in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.imputation import NOISE, along_time, imputed, over_pixels
from avjax.diagnostics.players import raw_players
from avjax.streams import Stream
from tests.models import tiny

SHAPE = (4, 5, 6)


def test_a_line_between_what_is_left(rng):
    values = rng.normal(size=(4, 30, 2)).astype(np.float32)
    valid, gone = rng.random((4, 30)) < 0.8, rng.random((4, 30)) < 0.6
    # Row 2 keeps nothing; row 3 keeps one step.
    gone[2], gone[3] = True, True
    valid[3, 7], gone[3, 7] = True, False
    found = np.asarray(tiny.jit(along_time)(values, valid, gone, np.float32(5)))
    for row in range(4):
        known = np.flatnonzero(valid[row] & ~gone[row])
        for channel in range(2):
            want = values[row, :, channel].copy()
            lost = np.flatnonzero(valid[row] & gone[row])
            want[lost] = np.interp(lost, known, want[known]) if len(known) else 5
            np.testing.assert_allclose(found[row, :, channel], want, rtol=1e-5, atol=1e-5)


def dense(values, valid, gone):
    """Every removed pixel the weighted mean of its neighbours, by one system of all of them."""
    removed = [place for place in np.ndindex(*SHAPE) if valid[place[0]] and gone[place]]
    number = {place: row for row, place in enumerate(removed)}
    matrix, given = np.zeros((len(removed), len(removed))), np.zeros((len(removed), values.shape[-1]))
    for place, row in number.items():
        for step in itertools.product((-1, 0, 1), repeat=3):
            far = sum(map(abs, step))
            other = tuple(np.add(place, step))
            inside = all(0 <= o < extent for o, extent in zip(other, SHAPE, strict=True))
            if far == 0 or far == 3 or (far == 2 and step[0]) or not inside or not valid[other[0]]:
                continue
            weight = 1 / 6 if far == 1 else 1 / 12
            matrix[row, row] += weight
            if other in number:
                matrix[row, number[other]] -= weight
            else:
                given[row] += weight * values[other]
    want = values.astype(np.float64).copy()
    want[tuple(np.array(removed).T)] = np.linalg.solve(matrix, given)
    return want


def test_pixels_are_the_mean_of_their_neighbours(rng):
    values = rng.normal(size=(4, *SHAPE, 2)).astype(np.float32)
    valid, gone = np.ones((4, SHAPE[0]), bool), rng.random((4, *SHAPE)) < 0.7
    valid[1, 2] = False
    gone[:, 0, 0, 0], gone[:, 1] = False, True  # a whole frame goes, and a pixel always stays
    gone[3] = True
    mean = rng.normal(size=SHAPE[1:] + (2,)).astype(np.float32)
    found = np.asarray(tiny.jit(over_pixels)(values, valid, gone, mean))
    for row in range(3):
        np.testing.assert_allclose(found[row], dense(values[row], valid[row], gone[row]), rtol=1e-2, atol=2e-3)
    # Where nothing is left the mean stands.
    np.testing.assert_array_equal(found[3], np.broadcast_to(mean, found[3].shape))


@pytest.fixture
def clips(rng):
    values = {
        "audio": rng.normal(size=(3, 64)).astype(np.float32),
        "video": rng.uniform(size=(3, 4, 8, 8, 3)).astype(np.float32),
    }
    streams = {m: Stream(x, np.ones(x.shape[:2], bool), np.zeros(3), 4.0) for m, x in values.items()}
    return Clips(streams, np.arange(3), tuple("abc"), np.arange(3))


def test_what_is_even_stays_even_but_for_the_noise(clips, rng):
    """And the noise follows from the record, wherever its row is, whatever else is gone."""
    players = raw_players(clips.streams)
    kept = rng.random((3, len(players))) < 0.5
    kept[:, 0] = kept[:, -1] = True
    even = clips.replace({m: s.replace(values=np.full_like(s.values, 0.25)) for m, s in clips.streams.items()})
    arguments = players, {m: np.zeros((), np.float32) for m in clips.streams}, {"audio": 2.0, "video": 0.5}
    found = imputed(even, kept, *arguments, rows=4, seed=1)
    order = [2, 0]
    again = imputed(even.take(order), kept[order], *arguments, rows=4, seed=1)
    for modality, deviation in arguments[2].items():
        where, values = players.where[modality], found.streams[modality].values
        noise = values - 0.25
        stays = kept[:, where]
        np.testing.assert_array_equal(noise[stays], 0)
        # 4.5 standard errors of a standard deviation.
        lost, size = noise[~stays], NOISE * deviation
        assert abs(lost.std() / size - 1) < 4.5 / np.sqrt(2 * lost.size) + 0.01
        np.testing.assert_allclose(again.streams[modality].values, values[order], rtol=0, atol=2e-4)


def test_nothing_gone_changes_nothing(clips):
    players = raw_players(clips.streams)
    mean, deviation = {m: np.zeros((), np.float32) for m in clips.streams}, dict.fromkeys(clips.streams, 1.0)
    found = imputed(clips, np.ones((3, len(players)), bool), players, mean, deviation, rows=3)
    for modality, stream in clips.streams.items():
        np.testing.assert_array_equal(found.streams[modality].values, stream.values)
