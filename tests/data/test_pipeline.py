"""The order of samples, crops, absent modalities, filler rows."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.data.media import Frames, Waveform
from avjax.data.pipeline import AudioSampling, Crop, Data, VideoSampling, evaluation_batches, training_batches
from avjax.data.record import Audio, Record, Video, decode_record, encode_record
from avjax.data.records import Records
from tests.fixtures.records import write_records


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    path = write_records(tmp_path_factory.mktemp("data") / "records")
    return Data(records=str(path), batch=8, audio=AudioSampling(3200), video=VideoSampling(frames=3, rate=12.5))


def joined(parts):
    """The global batch from the parts of its processes."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batch(data, processes):
    whole = training_batches(data, seed=3, start=0, steps=5)
    shares = [
        training_batches(data, seed=3, start=0, steps=5, process=p, processes=processes) for p in range(processes)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, joined(parts))


def test_starting_at_a_step_gives_what_came_at_that_step(data):
    whole = list(training_batches(data, seed=3, start=0, steps=7))
    for batch, late in zip(whole[4:], training_batches(data, seed=3, start=4, steps=7), strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, late)


def test_an_epoch_holds_every_record_once_and_the_next_is_in_another_order(data):
    order = np.concatenate([batch.index for batch in training_batches(data, seed=0, start=0, steps=6)])
    first, second = order[:24], order[24:]
    assert sorted(first) == sorted(second) == list(range(24))
    assert list(first) != list(second)
    other = np.concatenate([batch.index for batch in training_batches(data, seed=1, start=0, steps=3)])
    assert list(other) != list(first)


def test_crops_of_one_record_start_at_different_times(data):
    starts = [
        float(batch.streams["audio"].start[row])
        for batch in training_batches(data, seed=0, start=0, steps=12)
        for row in np.flatnonzero(batch.index == 7)
    ]
    assert len(starts) == 4
    assert len(set(starts)) == 4


@pytest.mark.slow
def test_worker_processes_change_nothing(data):
    alone = training_batches(data, seed=3, start=2, steps=6)
    workers = training_batches(dataclasses.replace(data, workers=2), seed=3, start=2, steps=6)
    for one, other in itertools.zip_longest(alone, workers):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    workers.close()


def test_rows_are_the_samples_and_frames_of_their_record_from_the_start_they_name(data):
    split = Records(data.records).split("train")
    batch = next(training_batches(data, seed=5, start=0, steps=1))
    for row, index in enumerate(batch.index):
        record = split[int(index)]
        audio, video = (batch.streams[name] for name in ("audio", "video"))
        begin = round(float(audio.start[row]) * 16_000)
        if record.audio is None:
            assert not audio.valid[row].any()
            assert not audio.values[row].any()
        else:
            expected = record.audio.read(begin, begin + 3200)
            np.testing.assert_array_equal(audio.values[row][audio.valid[row]], expected)
        if record.video is None:
            assert not video.valid[row].any()
        else:
            times = float(video.start[row]) + np.arange(3) / 12.5
            shown = [max(i for i, t in enumerate(record.video.times) if t <= time + 1e-6) for time in times]
            np.testing.assert_array_equal(video.values[row], record.video.read(shown))
        assert batch.target["label"][row].argmax() == record.labels["label"]


def test_windows_of_different_lengths_lie_inside_one_another(data):
    """A short window reaches every moment of the clip, and never leaves the long one."""
    uneven = dataclasses.replace(data, audio=AudioSampling(4800), video=VideoSampling(frames=1, rate=25.0))
    lags = []
    for batch in training_batches(uneven, seed=0, start=0, steps=20):
        audio, video = (batch.streams[name] for name in ("audio", "video"))
        both = audio.valid.any(axis=1) & video.valid.any(axis=1)
        lags += list((video.start - audio.start)[both])
    assert min(lags) >= -1e-6
    assert max(lags) <= 4800 / 16_000 - 1 / 25 + 1e-6
    assert max(lags) - min(lags) > 0.2


def test_a_modality_that_is_not_sampled_does_not_stretch_the_window(data, rng):
    """Ten seconds of sound beside one of pictures: looked at alone, the pictures fill every crop."""
    frames = Frames(rng.integers(0, 255, (25, 8, 8, 3), dtype=np.uint8), np.arange(25) / 25)
    sound = Waveform(np.zeros(160_000, np.int16), 16_000)
    record = Record("clip", "test", "", {"label": 1}, {}, Audio.encode(sound), Video.encode(frames, "raw"))
    description = dataclasses.replace(Records(data.records).description, video={"height": 8, "width": 8, "channels": 3})
    crop = Crop(dataclasses.replace(data, audio=None), description)
    batch = crop.empty(3)
    for row, place in enumerate((0.0, 0.5, 1.0)):
        crop.fill(batch, row, record, 0, place)
    assert batch.streams["video"].valid.all()


@pytest.mark.parametrize(("label", "expected"), [(1, [0, 1]), ((0, 1), [1, 1]), ((), [0, 0])])
def test_targets_hold_every_class_of_a_clip(data, label, expected):
    record = dataclasses.replace(Records(data.records).split("train")[0], labels={"label": label})
    record = decode_record(encode_record(record))
    crop = Crop(data, Records(data.records).description)
    batch = crop.empty(2)
    crop.fill(batch, 1, record, 0, 0.0)
    np.testing.assert_array_equal(batch.target["label"], [[0, 0], expected])


def test_cues_are_values_to_predict(data):
    cues = {"arousal": 0.25, "smile": -1.5, "x": 9.0}
    record = dataclasses.replace(Records(data.records).split("train")[0], cues=cues)
    data = dataclasses.replace(data, values=("smile", "arousal"))
    crop = Crop(data, Records(data.records).description)
    batch = crop.empty(2)
    crop.fill(batch, 1, decode_record(encode_record(record)), 0, 0.0)
    np.testing.assert_array_equal(batch.target["values"], [[0, 0], [-1.5, 0.25]])
    with pytest.raises(ValueError, match=r"no cue 'smile' to predict; set --data\.values to some of none"):
        crop.fill(batch, 0, dataclasses.replace(record, cues={}), 0, 0.0)


def test_every_declared_modality_is_present_though_absent(data):
    count, batches = evaluation_batches(data, "test")
    rows = joined(list(batches))
    assert count == 2
    assert rows.streams["audio"].valid.any(axis=1).tolist() == [i != 3 for i in range(10)] + [False] * 6
    assert rows.streams["video"].valid.any(axis=1).tolist() == [i != 4 for i in range(10)] + [False] * 6


def test_a_ragged_last_batch_is_filled_with_rows_of_weight_zero(data):
    rows = joined(list(evaluation_batches(data, "test")[1]))
    assert rows.weight.tolist() == [1.0] * 10 + [0.0] * 6
    assert rows.index.tolist() == [*range(10), *[-1] * 6]


def test_several_crops_of_a_test_clip_are_evenly_spaced(data):
    several = dataclasses.replace(data, test_clips=3)
    rows = joined(list(evaluation_batches(several, "test")[1]))
    assert rows.index[:6].tolist() == [0, 0, 0, 1, 1, 1]
    first, middle, last = rows.streams["audio"].start[:3]
    assert first < middle < last
    assert middle - first == pytest.approx(last - middle, abs=1e-6)


@given(processes=st.sampled_from([1, 2, 4, 8]))
def test_evaluation_is_the_same_for_any_number_of_processes(data, processes):
    whole = joined(list(evaluation_batches(data, "validation")[1]))
    shares = [list(evaluation_batches(data, "validation", process=p, processes=processes)[1]) for p in range(processes)]
    together = joined([joined(parts) for parts in zip(*shares, strict=True)])
    jax.tree.map(np.testing.assert_array_equal, whole, together)


def test_a_batch_that_does_not_divide_is_refused(data):
    with pytest.raises(ValueError, match="8 rows cannot be divided among 3 processes"):
        training_batches(data, seed=0, start=0, steps=1, processes=3)


def test_another_sample_rate_is_refused(data):
    wrong = dataclasses.replace(data, audio=AudioSampling(100, rate=8000))
    with pytest.raises(ValueError, match="recorded at 16000 Hz"):
        next(training_batches(wrong, seed=0, start=0, steps=1))


def test_a_clip_of_another_size_is_refused_by_name(data, rng):
    frames = Frames(rng.integers(0, 255, (25, 8, 8, 3), dtype=np.uint8), np.arange(25) / 25)
    record = Record("odd", "test", "", {"label": 1}, {}, None, Video.encode(frames, "raw"))
    crop = Crop(data, Records(data.records).description)
    with pytest.raises(ValueError, match=r"odd: frames of \(8, 8, 3\), where most clips have \(16, 16, 3\).*--size"):
        crop.fill(crop.empty(1), 0, record, 0, 0.0)


def test_pictures_that_no_clip_has_are_not_asked_for(data):
    description = dataclasses.replace(Records(data.records).description, video=None)
    with pytest.raises(ValueError, match=r"no clip of .* has pictures"):
        Crop(data, description).empty(1)


def test_rows_are_written_whole(data):
    """Memory of a batch is not cleared: what a clip does not fill must be."""
    crop = Crop(data, Records(data.records).description)
    split = Records(data.records).split("train")
    batch = crop.empty(len(split) + 1)
    for stream in batch.streams.values():
        stream.values[...] = 77
    for row in range(len(split)):
        crop.fill(batch, row, split[row], row, 1.0)
    crop.fill_with_nothing(batch, len(split))
    for stream in batch.streams.values():
        assert not stream.valid.all()
        assert not stream.values[~stream.valid].any()
