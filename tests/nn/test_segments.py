"""Segments against a loop over tokens."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.nn.segments import aligned
from avjax.streams import Stream


def stream(rng, rows, count, rate, start):
    return Stream(
        values=rng.normal(size=(rows, count, 2)).astype(np.float32),
        valid=rng.random((rows, count)) < 0.7,
        start=np.full(rows, start, np.float32),
        rate=rate,
    )


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    audio=st.tuples(st.integers(1, 20), st.sampled_from([5.0, 10.0, 12.5])),
    video=st.tuples(st.integers(1, 20), st.sampled_from([4.0, 10.0])),
    apart=st.sampled_from([0.0, 0.5]),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.slow
def test_equals_a_loop(audio, video, apart, count, seed):
    rng = np.random.default_rng(seed)
    tokens = {"audio": stream(rng, 3, *audio, 1.0), "video": stream(rng, 3, *video, 1.0 + apart)}
    tokens["audio"].valid[0] = False
    got = aligned(tokens, count)
    length = max(s.values.shape[1] / s.rate for s in tokens.values()) / count
    for row in range(3):
        begin = min((float(s.start[row]) for s in tokens.values() if s.valid[row].any()), default=0.0)
        for name, s in tokens.items():
            kept = [[] for _ in range(count)]
            for n in range(s.values.shape[1]):
                place = int(np.floor((s.start[row] + n / s.rate - begin) / length + 1e-4))
                if s.valid[row, n] and 0 <= place < count:
                    kept[place].append(s.values[row, n])
            np.testing.assert_array_equal(got[name].valid[row], [bool(part) for part in kept])
            want = [np.mean(part, 0) if part else np.zeros(2) for part in kept]
            np.testing.assert_allclose(got[name].values[row], want, rtol=1e-5, atol=1e-6)


def test_what_sounds_when_it_is_seen_meets():
    """Audio from 0 s and video from 0.5 s: the second half of the one meets the first of the other."""
    audio = Stream(np.arange(10.0, dtype=np.float32).reshape(1, 10, 1), np.ones((1, 10), bool), np.zeros(1), 10.0)
    video = Stream(np.arange(5.0, dtype=np.float32).reshape(1, 5, 1), np.ones((1, 5), bool), np.full(1, 0.5), 10.0)
    got = aligned({"audio": audio, "video": video}, 2)
    np.testing.assert_allclose(got["audio"].values[0, :, 0], [2.0, 7.0])
    np.testing.assert_array_equal(got["video"].valid[0], [False, True])
    np.testing.assert_allclose(got["video"].values[0, 1], [2.0])


def test_cells_keep_their_places(rng):
    """Cells side by side are as many streams of their own, whichever of them are hidden."""
    audio, video = stream(rng, 3, 6, 3.0, 0.0), stream(rng, 3, 4 * 5, 2.0 * 5, 0.5)
    got = aligned({"audio": audio, "video": video}, 3, {"video": 5})["video"]
    assert got.values.shape == (3, 3, 5, 2)
    # The stream lasts as long, wherever it is valid, so that one cell alone has the clip's own segments.
    video.valid[:, :5] = audio.valid[:, 0] = True
    got = aligned({"audio": audio, "video": video}, 3, {"video": 5})["video"]
    for cell in range(5):
        alone = Stream(video.values[:, cell::5], video.valid[:, cell::5], video.start, 2.0)
        want = aligned({"audio": audio, "video": alone}, 3)["video"]
        np.testing.assert_array_equal(got.valid[:, :, cell], want.valid)
        np.testing.assert_allclose(got.values[:, :, cell], want.values, rtol=1e-6)
