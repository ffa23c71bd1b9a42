"""Calibrated scores of clips, and scores of frames."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import batch, forward, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_scores_are_calibrated_and_added(rng):
    config, model = small("klassify")
    made = without(without(batch(config, rng, 4), [1, 3], "audio"), [2, 3], "video")
    found = forward("klassify")(made)
    p = tiny.plain(split_model(model)[1])["calibrate"]["fake"]
    for row, there in enumerate((("audio", "video"), ("video",), ("audio",), ())):
        want = np.zeros(3)
        for number, m in enumerate(("audio", "video")):
            if m in there:
                want = want + p["scale"][number] * found.logits[f"fake/{m}"][row] + p["offset"][number]
        np.testing.assert_allclose(found.logits["fake"][row], want, rtol=1e-5, atol=1e-6)


def test_frames_are_scored_by_whom_there_is(rng):
    config, _ = small("klassify")
    made = without(batch(config, rng, 3), [1], "audio")
    segments = forward("klassify")(made).aux["segments"]
    own = {m: np.asarray(segments[f"eventness/{m}"]) for m in ("audio", "video")}
    assert segments["valid"].all()
    assert (own["audio"][1] == 0).all()
    np.testing.assert_allclose(segments["eventness"][1], own["video"][1], rtol=1e-6)
    np.testing.assert_allclose(segments["eventness"][0], (own["audio"][0] + own["video"][0]) / 2, rtol=1e-5)
