"""What records know of where their labels are told."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.data.record import Record
from avjax.data.series import Series
from avjax.data.synthesis import face
from avjax.data.truth import Region, regions

CUES = {"onset": 0.1, "speaking": 1.2, "delay": -0.05}


def record(cues=CUES, **series) -> Record:
    return Record("clip", "test", "", {}, cues, None, None, series=series)


def test_the_demo_corpus_knows_when_it_speaks_and_where_its_face_is():
    found = regions(record(), "emotion")
    assert found["audio"].seconds == ((pytest.approx(0.05), pytest.approx(1.25)),)
    assert found["video"].seconds is None
    assert found == regions(record(), "congruence")
    assert regions(record(), "order") == {}
    assert regions(record({}), "emotion") == {}


@pytest.mark.parametrize("mouth", [0.36, 0.44])
@pytest.mark.parametrize("height", [0.04, 0.12])
def test_what_an_expression_changes_lies_in_its_box(height, mouth):
    """The expressions of a still face, drawn strongly, at the ends of where eyes and mouth may be: no pixel outside
    differs."""
    pixels = 64
    look = face.Appearance(
        (0.9, 0.7, 0.6), (0.2, 0.1, 0.1), (0.3, 0.4, 0.6), (0.7, 0.8, 0.9), (0.3, 0.2, 0.1),
        head=(0.6, 0.75), eyes=(0.28, height), mouth=mouth, long_hair=False, fringe=0.3, parting=0.0,
    )  # fmt: skip
    still = np.zeros(4)
    strong = 1.1 * np.array(list(face.EXPRESSIONS.values()))
    moving = face.Performance(strong, still, still, still + 1, np.zeros((4, 2)), still)
    drawn = face.draw(look, moving, pixels).astype(int)
    changed = np.ptp(drawn, axis=0).max(axis=-1) > 2
    inside = regions(record(), "emotion")["video"].pixels(pixels, pixels)
    assert changed.sum() > 100
    assert not (changed & ~inside).any()
    assert inside.mean() < 0.4


def test_seconds_with_an_event():
    there = np.array([[0], [1], [1], [0], [1]], np.uint8)
    found = regions(record({}, eventness=Series(there, rate=1.0)), "event")
    moments = np.arange(5) + 0.5
    np.testing.assert_array_equal(found["video"].moments(moments), there[:, 0] == 1)
    np.testing.assert_array_equal(found["audio"].later(1.0).moments(moments), [False, False, True, True, False])
    assert regions(record({}, eventness=Series(0 * there, rate=1.0)), "event") == {}
    assert Region().moments(moments).all()
    assert Region().later(3.0) == Region()
    assert Region().pixels(3, 4).all()
