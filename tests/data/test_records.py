"""Records: what is written is read, by crop, in any order, by threads and other processes; damage is named."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import pickle
import subprocess
import sys

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avjax.data import media, records
from avjax.data.media import Frames, Waveform
from avjax.data.records import Audio, Record, RecordError, Records, Video, decode_record, encode_record
from tests.fixtures import damage


def clip(rng, name="a", split="train", frames=5, samples=3_000, codecs=("jpeg", "pcm16")) -> Record:
    images = rng.integers(0, 256, (frames, 12, 16, 3)).astype(np.uint8)
    audio = Audio.encode(Waveform(rng.integers(-9_999, 9_999, samples).astype(np.int16), 16_000), codecs[1])
    video = Video.encode(Frames(images, np.arange(frames) / 25), codecs[0])
    origin = {"source": f"{name}.mp4", "bytes": 3, "sha256": "00", "warnings": ["one"]}
    return Record(
        name, split, "someone", {"emotion": 2}, {"pitch": 0.1}, audio, video, {"audio": origin, "video": origin}
    )


def folder(tmp_path, rng, counts=(3, 0, 2)):
    """A prepared folder made by hand, with an empty shard in the middle."""
    shards, written = [], []
    for place, count in enumerate(counts):
        made = [clip(rng, f"{place}_{number}") for number in range(count)]
        file = f"train-{place:05d}-of-{len(counts):05d}.arrayrecord"
        assert records.write_shard(tmp_path / file, map(encode_record, made)) == count
        shards.append({"file": file, "records": count, "bytes": (tmp_path / file).stat().st_size, "sha256": ""})
        written += made
    description = records.Description(
        name="toy",
        schema=records.SCHEMA,
        classes={"emotion": ["a", "b", "c"]},
        counts={"train": sum(counts)},
        audio={"rate": 16_000},
        video={"height": 12, "width": 16, "channels": 3, "rate": 25.0, "uniform": True},
        synthetic=True,
        licence="CC0",
        corpus={},
        provenance={},
        shards={"train": shards},
    )
    (tmp_path / "dataset.json").write_text(json.dumps(dataclasses.asdict(description)))
    return written


def assert_same(found: Record, expected: Record) -> None:
    assert dataclasses.replace(found, video=None, provenance={}) == dataclasses.replace(
        expected, video=None, provenance={}
    )
    assert found.video.data == expected.video.data
    np.testing.assert_array_equal(found.video.times, expected.video.times)


@given(
    hnp.arrays(np.int16, st.integers(0, 20_000)), st.integers(-10, 20_010), st.integers(-10, 20_010),
    st.sampled_from(records.AUDIO_CODECS),
)  # fmt: skip
def test_sound_is_exact_in_every_crop(samples, begin, end, codec):
    audio = Audio.encode(Waveform(samples, 16_000), codec)
    assert audio.samples == len(samples)
    found = audio.read(begin, end)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, samples[max(begin, 0) : max(end, 0)])
    np.testing.assert_array_equal(audio.read(), samples)


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 3]))),
    st.data(),
)  # fmt: skip
def test_raw_frames_are_exact(images, data):
    video = Video.encode(Frames(images, np.arange(len(images)) * 0.1), "raw")
    chosen = data.draw(st.lists(st.integers(0, len(images) - 1)))
    np.testing.assert_array_equal(video.read(chosen), images[chosen])
    np.testing.assert_array_equal(video.read(), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(37, 53), (64, 64), (8, 200)])
def test_jpeg_frames(rng, shape, channels):
    """Smooth pictures lose little; a chosen frame equals the same frame read among all."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    phase = rng.uniform(0, 6, (7, 1, 1, channels))
    waves = np.sin(rows[None, ..., None] / 9 + phase) + np.cos(columns[None, ..., None] / 7 - phase)
    images = np.clip(127 + 60 * waves, 0, 255).astype(np.uint8)
    video = Video.encode(Frames(images, np.arange(7) / 25), "jpeg")
    found = video.read()
    assert found.shape == images.shape
    assert np.abs(found.astype(int) - images).mean() < 1.5
    chosen = [6, 0, 3, 3]
    np.testing.assert_array_equal(video.read(chosen), found[chosen])
    coarse = Video.encode(Frames(images, np.arange(7) / 25), "jpeg", quality=31)
    assert sum(map(len, coarse.data)) < sum(map(len, video.data))


def test_jpeg_is_a_jpeg_file(rng):
    """Any program reads it: the standard markers, one file a frame."""
    record = clip(rng)
    assert len(record.video.data) == 5
    for file in record.video.data:
        assert file[:2] == b"\xff\xd8"
        assert file[-2:] == b"\xff\xd9"


def test_copied_video_is_frame_exact(tmp_path):
    path = tmp_path / "x.mp4"
    images = [damage.draw(number, 48, 64) for number in range(40)]
    damage.write(path, images, None, options={"x264-params": "keyint=9:bframes=3:open-gop=1"})
    decoded = media.decode(path)
    video = Video.copy(media.remux_video(path)[0], decoded.video)
    chosen = [39, 0, 17, 18, 5]
    assert [damage.number_of(image) for image in video.read(chosen)] == chosen
    np.testing.assert_array_equal(video.read(), decoded.video.images)
    assert sum(map(len, video.data)) < path.stat().st_size * 1.1


def test_codecs_are_checked(rng):
    frames = Frames(rng.integers(0, 256, (2, 8, 8, 3)).astype(np.uint8), np.arange(2.0))
    with pytest.raises(ValueError, match="none of jpeg, raw"):
        Video.encode(frames, "h264")
    with pytest.raises(ValueError, match="none of pcm16, flac"):
        Audio.encode(Waveform(np.zeros(3, np.int16), 8_000), "mp3")
    with pytest.raises(ValueError, match="uint8"):
        Video.encode(Frames(frames.images.astype(np.float32), frames.times))
    with pytest.raises(ValueError, match="int16"):
        Audio.encode(Waveform(np.zeros(3, np.float32), 8_000))
    with pytest.raises(IndexError, match="frame 2 was asked for; the clip has 2"):
        Video.encode(frames, "raw").read([0, 2])


@pytest.mark.parametrize("codecs", [("jpeg", "pcm16"), ("raw", "flac")])
def test_record_round_trip(rng, codecs):
    record = clip(rng, codecs=codecs)
    found = decode_record(encode_record(record))
    assert_same(found, record)
    assert found.provenance["audio"]["source"] == "a.mp4"


def test_missing_modalities_are_none(rng):
    known = {"k": np.int64(3), "c": np.float32(0.5)}
    record = dataclasses.replace(clip(rng), audio=None, video=None, provenance=known)
    found = decode_record(encode_record(record))
    assert found.audio is None
    assert found.video is None
    assert found.provenance == {"k": 3, "c": 0.5}
    with pytest.raises(TypeError, match="cannot be kept in a record"):
        encode_record(dataclasses.replace(record, provenance={"k": object()}))


def test_other_schemas_are_named():
    with pytest.raises(RecordError, match=r"schema 99, this version of avjax reads schema .*avjax prepare"):
        decode_record(msgpack.packb({"schema": 99, "name": "x"}))
    for data in (b"", b"\x93\x01\x02", pickle.dumps({"schema": 1})):
        with pytest.raises(RecordError, match="not an avjax record"):
            decode_record(data)


def test_random_access(tmp_path, rng):
    written = folder(tmp_path, rng)
    split = Records(tmp_path).split("train")
    assert len(split) == 5
    for index in rng.permutation(5):
        assert_same(split[int(index)], written[index])
    with pytest.raises(IndexError, match="record 5 of 5"):
        split[5]
    with pytest.raises(IndexError, match="record -1"):
        split[-1]
    assert [record.name for record in split] == [record.name for record in written]


def test_pickles_and_threads(tmp_path, rng):
    written = folder(tmp_path, rng)
    split = Records(tmp_path).split("train")
    split[0]
    copied = pickle.loads(pickle.dumps(split))  # noqa: S301
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(copied.__getitem__, range(5))):
            assert_same(found, written[index])


def test_fingerprint_follows_the_data(tmp_path, rng):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    state = rng.bit_generator.state
    folder(tmp_path / "a", rng)
    rng.bit_generator.state = state
    folder(tmp_path / "b", rng)
    first = Records(tmp_path / "a").fingerprint
    assert first == Records(tmp_path / "b").fingerprint
    text = (tmp_path / "b" / "dataset.json").read_text()
    (tmp_path / "b" / "dataset.json").write_text(text.replace('"toy"', '"other"'))
    assert first != Records(tmp_path / "b").fingerprint


def test_errors_say_what_to_do(tmp_path, rng):
    with pytest.raises(RecordError, match=r"is not a prepared folder.*avjax prepare"):
        Records(tmp_path)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.json").write_text("{}")
    with pytest.raises(RecordError, match="is not finished"):
        Records(tmp_path)
    (tmp_path / "dataset.json").write_text("not json")
    with pytest.raises(RecordError, match="cannot be read"):
        Records(tmp_path)
    (tmp_path / "dataset.json").write_text('{"schema": 7}')
    with pytest.raises(RecordError, match="schema 7"):
        Records(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"schema": records.SCHEMA, "name": "x"}))
    with pytest.raises(RecordError, match="cannot be read"):
        Records(tmp_path)
    folder(tmp_path, rng)
    with pytest.raises(RecordError, match="no split 'dev'; it has train"):
        Records(tmp_path).split("dev")
    shard = tmp_path / "train-00000-of-00003.arrayrecord"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(RecordError, match="it was cut or changed"):
        Records(tmp_path)
    shard.unlink()
    with pytest.raises(RecordError, match=r"train-00000-of-00003.arrayrecord is missing"):
        Records(tmp_path)


def test_what_is_no_shard(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing" * 20_000)
    with pytest.raises(RecordError, match=r"holds 0 records, not 2|not a whole ArrayRecord file"):
        records.open_shard(str(tmp_path / "x"), 2)
    with pytest.raises(RecordError, match="local files alone"):
        records.open_shard("gs://bucket/x")
    with pytest.raises(OSError, match="cannot be written"):
        records.write_shard(tmp_path / "nowhere" / "x", [b"data"])


def test_verify_finds_a_flipped_byte(tmp_path, rng):
    folder(tmp_path, rng)
    assert records.verify(tmp_path) == []
    shard = tmp_path / "train-00002-of-00003.arrayrecord"
    data = bytearray(shard.read_bytes())
    at = data.index(b"2_1.mp4")
    data[at] ^= 1
    shard.write_bytes(bytes(data))
    assert any("train 4" in problem for problem in records.verify(tmp_path))


def test_workers_import_no_jax():
    """Preparing processes start in a fraction of a second because of it."""
    code = "import sys, avjax.data.prepare_worker; print(sorted({'jax', 'flax', 'grain', 'scipy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
