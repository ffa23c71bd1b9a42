"""Parts of sounds, videos and folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avjax.data import media
from avjax.data.blocks import encode_jpeg
from avjax.data.corpora import Clip
from avjax.data.parts import Part, PictureFiles, SoundPart, VideoPart
from avjax.data.prepare_worker import Settings, Task, write
from avjax.data.record import decode_record
from avjax.data.records import open_shard


def pictures(count: int) -> np.ndarray:
    """Grey frames, each brighter than the one before."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None] * 10, 16 * 16 * 3, axis=1).reshape(
        count, 16, 16, 3
    )


@pytest.fixture
def video(tmp_path: Path) -> Path:
    samples = np.repeat(np.arange(10, dtype=np.int16) * 100, 1600)
    frames = media.Frames(pictures(20), np.arange(20) / 20)
    media.encode(tmp_path / "a.mp4", frames, media.Waveform(samples, 16_000))
    media.encode(tmp_path / "a.wav", None, media.Waveform(samples, 16_000))
    return tmp_path / "a.mp4"


def test_seconds_of_a_sound(video: Path) -> None:
    part = SoundPart(video.with_suffix(".wav"), 0.2, 0.5)
    assert isinstance(part, Part)
    np.testing.assert_array_equal(part.read().samples, np.repeat([200, 300, 400], 1600))
    assert len(SoundPart(part.path, 0.9, 5.0).read().samples) == 1600
    with pytest.raises(media.MediaError, match=r"its 1\.00 s end before 1\.00 s"):
        SoundPart(part.path, 1.0, 2.0).read()


def test_frames_of_a_video(video: Path) -> None:
    frames = VideoPart(video, 5, 8, 20.0).read()
    np.testing.assert_allclose(frames.times, [0, 0.05, 0.1])
    np.testing.assert_allclose(frames.images.mean(axis=(1, 2, 3)), [50, 60, 70], atol=3)
    assert len(VideoPart(video, 18, 40, 20.0).read().times) == 2
    with pytest.raises(media.MediaError, match="its 20 frames end before frame 20"):
        VideoPart(video, 20, 40, 20.0).read()


def test_pictures_in_files(tmp_path: Path) -> None:
    for place, file in enumerate(encode_jpeg(pictures(6), 1), start=1):
        if place != 3:
            (tmp_path / f"{place:05d}.jpg").write_bytes(file)
    frames = PictureFiles(tmp_path, 1, 5, 10.0).read()
    np.testing.assert_allclose(frames.times, [0, 0.2, 0.3])
    np.testing.assert_allclose(frames.images.mean(axis=(1, 2, 3)), [10, 30, 40], atol=3)
    with pytest.raises(media.MediaError, match="pictures 3 to 3 have no file"):
        PictureFiles(tmp_path, 2, 3, 10.0).read()
    (tmp_path / "00003.jpg").write_bytes(b"no picture")
    with pytest.raises(media.MediaError, match=r"00003\.jpg: not a JPEG"):
        PictureFiles(tmp_path, 0, 5, 10.0).read()


def test_probing_decodes_nothing(video: Path) -> None:
    facts = media.probe(video)
    assert (facts.height, facts.width, facts.video_codec) == (16, 16, "h264")
    assert abs(facts.seconds - 1) < 0.05
    assert abs(facts.video_rate - 20) < 0.01


def test_a_clip_of_parts_becomes_a_record(video: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "plan").mkdir(parents=True)
    sound = SoundPart(video.with_suffix(".wav"), 0.2, 0.5)
    clips = [
        Clip("a", sound, VideoPart(video, 4, 10, 20.0), {}, "g", "train"),
        Clip("b", sound, VideoPart(video, 20, 30, 20.0), {}, "g", "train"),
    ]
    settings = Settings("jpeg", "pcm16", 16_000, (8, 8), 2, 60.0)
    done = write(Task("x.arrayrecord", str(tmp_path / "out"), str(tmp_path), clips, settings), lambda place: None)
    assert [bad["name"] for bad in done["bad"]] == ["b"]
    assert "its 20 frames end before frame 20" in done["bad"][0]["reason"]
    record = decode_record(open_shard(str(tmp_path / "out" / "x.arrayrecord"), 1).read([0])[0])
    assert record.video.read().shape == (6, 8, 8, 3)
    assert record.audio.samples == 4800
    assert [record.provenance[kind]["source"] for kind in ("audio", "video")] == ["a.wav", "a.mp4"]
