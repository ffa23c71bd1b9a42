"""Triplets of a batch: whose face stands where, and what is missing."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from avjax.data.triplets import Triplets
from avjax.streams import Batch, Stream
from tests.models import tiny

triplets = tiny.jit(Triplets())


def clips(who: list[int], *, missing: tuple[int, ...] = (), filler: tuple[int, ...] = ()) -> Batch:
    """Row n has n for its voice and its face."""
    rows = len(who)
    numbers = np.arange(rows, dtype=np.float32)[:, None]
    valid = np.ones((rows, 1), bool)
    seen = valid.copy()
    seen[list(missing)] = False
    start = np.zeros(rows, np.float32)
    weight = np.ones(rows, np.float32)
    weight[list(filler)] = 0
    streams = {"audio": Stream(numbers, valid, start, 1.0), "video": Stream(numbers, seen, start, 1.0)}
    return Batch(streams, {"identity": np.eye(9, dtype=np.float32)[who]}, weight, np.arange(rows) + 100)


def faces(made: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which the own and the other face are."""
    both = np.stack([np.asarray(made.streams[f"face_{place}"].values)[:, 0] for place in "ab"], axis=1)
    own = np.asarray(made.target["match"]).argmax(axis=1)
    rows = np.arange(len(own))
    return both[rows, own], both[rows, 1 - own]


def test_evaluation_takes_the_next_other_person() -> None:
    made = triplets(clips([0, 0, 1, 2]))
    own, other = faces(made)
    np.testing.assert_array_equal(own, [0, 1, 2, 3])
    np.testing.assert_array_equal(other, [2, 2, 3, 0])
    np.testing.assert_array_equal(made.target["match"], [[1, 0], [0, 1], [1, 0], [0, 1]])
    assert set(made.streams) == {"voice", "face_a", "face_b"}
    assert set(made.target) == {"identity", "match"}


def test_training_draws_anew_and_by_record() -> None:
    who = [n % 5 for n in range(20)]
    seen = [triplets(clips(who), jax.random.key(step)) for step in range(30)]
    others = []
    for made in seen:
        own, other = faces(made)
        np.testing.assert_array_equal(own, np.arange(20))
        assert all(who[int(row)] != who[n] for n, row in enumerate(other))
        others.append(other)
    # Sixteen are possible for a row; thirty draws show most of them.
    assert min(len(set(column)) for column in np.array(others).T) > 8
    places = np.mean([np.asarray(made.target["match"])[:, 0] for made in seen])
    assert places == pytest.approx(0.5, abs=0.1)


def test_nobody_stands_for_what_is_not_there() -> None:
    made = triplets(clips([0, 1, 2, 3], missing=(1,), filler=(2,)))
    _, other = faces(made)
    np.testing.assert_array_equal(other, [3, 3, 3, 0])
    # The only person of a batch has no second face.
    alone = triplets(clips([4, 4, 4, 4]))
    there = [np.asarray(alone.streams[f"face_{place}"].valid)[:, 0] for place in "ab"]
    np.testing.assert_array_equal(np.stack(there, axis=1), [[True, False], [False, True]] * 2)


def test_who_is_who_has_to_be_told() -> None:
    with pytest.raises(ValueError, match="no target is 'person'; there are identity"):
        Triplets(identity="person")(clips([0, 1]))
