"""Players divide a clip without gaps, equally between its modalities."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from avjax.diagnostics.players import raw_players, split, token_players
from avjax.streams import Stream

GRIDS = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@given(GRIDS, GRIDS, st.integers(1, 20))
def test_as_many_of_each_and_none_is_empty(audio, video, count):
    players = token_players({"audio": audio, "video": video}, count)
    numbers = [players.of(name).sum() for name in ("audio", "video")]
    assert 1 <= numbers[0] == numbers[1] <= count
    assert sorted(set(np.concatenate(list(players.where.values())))) == list(range(len(players)))
    assert players.names == ("audio", "video")


@given(GRIDS, st.integers(1, 20))
def test_no_axis_is_cut_into_more_parts_than_it_has(grid, count):
    parts = split(grid, count)
    assert all(1 <= part <= extent for part, extent in zip(parts, grid, strict=True))
    assert math.prod(parts) <= count


@pytest.mark.parametrize(
    ("grid", "parts"),
    [((8, 4), (8, 2)), ((4, 4, 4), (4, 2, 2)), ((32,), (16,)), ((2, 8, 8), (2, 4, 2)), ((64, 4), (16, 1))],
)
def test_sixteen_players(grid, parts):
    assert split(grid, 16) == parts


def test_a_player_of_tokens_is_a_block_of_neighbours():
    players = token_players({"video": (4, 4, 4), "audio": (16,)})
    where = players.where["video"].reshape(4, 4, 4)
    assert (where[0, :2, :2] == 0).all()
    assert (where[0, :2, 2:] == 1).all()
    assert (where[1, :2, :2] == 4).all()


def test_raw_players_are_windows_and_cells():
    streams = {
        "audio": Stream(np.zeros((2, 160)), np.ones((2, 160), bool), np.zeros(2), 10.0),
        "video": Stream(np.zeros((2, 8, 6, 6, 3)), np.ones((2, 8), bool), np.zeros(2), 10.0),
    }
    players = raw_players(streams)
    assert players.raw
    assert len(players) == 32
    np.testing.assert_array_equal(players.where["audio"], np.repeat(np.arange(16), 10))
    assert players.where["video"].shape == (8, 6, 6)
    np.testing.assert_array_equal(np.bincount(players.where["video"].ravel())[16:], 18)
