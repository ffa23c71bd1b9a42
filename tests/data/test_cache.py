"""The cache gives what the split gives, decodes a frame once, and stops when it is full."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from avjax.data import blocks
from avjax.data.cache import Cache, RememberedVideo, size_of
from avjax.data.media import Frames
from avjax.data.record import Video
from avjax.data.records import Records
from tests.fixtures.records import write_records


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return Records(write_records(tmp_path_factory.mktemp("records") / "records")).split("train")


@pytest.fixture
def video(rng):
    return Video.encode(Frames(rng.integers(0, 255, (12, 16, 24, 3), dtype=np.uint8), np.arange(12) / 25), "jpeg")


@pytest.mark.parametrize("capacity", [0, 60_000, 2**30])
def test_records_are_those_of_the_split(capacity, split):
    cache = Cache(split, capacity)
    for _ in range(2):
        for index in range(len(split)):
            record, expected = cache[index], split[index]
            assert (record.name, record.labels) == (expected.name, expected.labels)
            for track, wanted in ((record.audio, expected.audio), (record.video, expected.video)):
                assert (track is None) == (wanted is None)
                if track is not None:
                    np.testing.assert_array_equal(track.read(), wanted.read())
    held = sum(size_of(split[index]) for index in range(len(split)) if cache[index] is cache[index])
    assert held <= capacity
    assert (held > 0) == (capacity > 0)


def test_a_frame_is_decoded_once(video, rng, monkeypatch):
    decoded, original = [], blocks.decode_jpeg
    monkeypatch.setattr(blocks, "decode_jpeg", lambda files, out: decoded.extend(files) or original(files, out))
    whole = np.empty((12, 16, 24, 3), np.uint8)
    original(video.data, whole)
    remembered = RememberedVideo.of(video)
    for _ in range(60):
        chosen = rng.integers(0, 12, rng.integers(0, 9))
        np.testing.assert_array_equal(remembered.read(chosen), whole[chosen])
    np.testing.assert_array_equal(remembered.read(), whole)
    assert sorted(decoded) == sorted(video.data)


@pytest.mark.parametrize("bad", [-1, 12, 99])
def test_frames_that_are_not_there_are_refused(bad, video):
    remembered = RememberedVideo.of(video)
    for _ in range(2):
        with pytest.raises(IndexError, match=f"frame {bad} was asked for; the clip has 12"):
            remembered.read([3, bad])
        remembered.read()


def test_what_is_read_is_one_s_own(video):
    remembered = RememberedVideo.of(video)
    remembered.read([1])[:] = 0
    assert remembered.read([1]).any()


def test_threads_may_share_it(split):
    cache, wrong = Cache(split, 2**30), []

    def read():
        for index in range(len(split)):
            record = cache[index]
            if record.video is not None and not np.array_equal(record.video.read(), split[index].video.read()):
                wrong.append(index)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_it_is_sent_empty(split):
    cache = Cache(split, 2**30)
    cache[0].video.read()
    assert len(pickle.dumps(cache)) < 4000
    again = pickle.loads(pickle.dumps(cache))  # noqa: S301, our own
    assert again[0].name == cache[0].name
    assert len(again) == len(split)
