"""Aff-Wild2: annotations, clips and their series, splits, what is missing, and the synthetic corpus in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avjax.data import media
from avjax.data.blocks import encode_jpeg
from avjax.data.corpora.affwild import Corpus, averaged, read_affect, scan
from avjax.data.parts import PictureFiles, SoundPart, VideoPart
from experiments.synthetic import affwild as synthetic


def annotate(root: Path, name: str, rows: np.ndarray, group: str = "Train_Set") -> Path:
    path = root / "annotations" / "VA_Estimation_Challenge" / group / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("valence,arousal\n" + "".join(f"{v},{a}\n" for v, a in rows))
    return path


def faces(root: Path, name: str, places: list[int]) -> None:
    (root / "cropped_aligned" / name).mkdir(parents=True)
    (file,) = encode_jpeg(np.zeros((1, 16, 16, 3), np.uint8), 5)
    for place in places:
        (root / "cropped_aligned" / name / f"{place:05d}.jpg").write_bytes(file)


def sound(root: Path, name: str, seconds: float) -> None:
    (root / "audio").mkdir(exist_ok=True)
    silence = np.zeros(round(seconds * 16_000), np.int16)
    media.encode(root / "audio" / f"{name}.wav", None, media.Waveform(silence, 16_000))


def test_annotations_are_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("valence,arousal\n0.5,-1\n-5,-5\n0.1\n\n1.5,0\nx,0\n-0.25,0.75\n")
    affect = read_affect(path)
    assert affect.shape == (7, 2)
    np.testing.assert_array_equal(affect[[0, 6]], [[0.5, -1], [-0.25, 0.75]])
    assert np.isnan(affect[1:6]).all()
    path.write_text("Neutral,Anger,Disgust\n0\n1\n")
    assert read_affect(path) is None
    path.write_text("valence,arousal\n-5,-5\n")
    with pytest.raises(ValueError, match="no frame has values"):
        read_affect(path)


def test_steps_are_means_of_their_labelled_frames(rng: np.random.Generator) -> None:
    affect = rng.uniform(-1, 1, (29, 2)).astype(np.float32)
    affect[[3, 4, 5, 6, 7, 8, 20]] = np.nan
    series = averaged(affect, 10.0, 2.5)
    assert series.rate == 2.5
    assert series.values.shape == (8, 2)
    for step in range(8):
        own = affect[4 * step : 4 * step + 4]
        own = own[~np.isnan(own[:, 0])]
        assert series.valid[step] == bool(len(own))
        np.testing.assert_allclose(series.values[step], own.mean(axis=0) if len(own) else [0, 0], rtol=1e-5)


def test_videos_are_cut_into_clips(tmp_path: Path) -> None:
    rows = np.stack([np.linspace(-1, 1, 100), np.full(100, 0.5)], axis=1)
    rows[40:80] = -5
    annotate(tmp_path, "7-60", rows)
    faces(tmp_path, "7-60", [1, 2, 5, 30])
    sound(tmp_path, "7-60", 10.0)
    clips = Corpus(seconds=2.0, rate=5.0).clips(tmp_path)
    # 100 rows in 10 s are 10 a second; clips 2 and 3 have no label.
    assert [clip.name for clip in clips] == ["7-60/0000", "7-60/0001", "7-60/0004"]
    assert {(clip.group, clip.split) for clip in clips} == {("7-60", "train")}
    folder = tmp_path / "cropped_aligned" / "7-60"
    pictures = [PictureFiles(folder, 0, 20, 10.0), PictureFiles(folder, 20, 40, 10.0), None]
    assert [clip.video for clip in clips] == pictures
    assert clips[2].audio == SoundPart(tmp_path / "audio" / "7-60.wav", 8.0, 10.0)
    series = clips[1].series["affect"].read()
    assert series.values.shape == (10, 2)
    np.testing.assert_allclose(series.values[3], rows[26:28].mean(axis=0), rtol=1e-5)
    assert len(clips[0].video.read().times) == 3


def test_the_rest_of_a_video_is_a_shorter_clip(tmp_path: Path) -> None:
    annotate(tmp_path, "a", np.zeros((75, 2)))
    faces(tmp_path, "a", [1])
    clips = Corpus(seconds=1.0, rate=5.0).clips(tmp_path)
    assert [len(clip.series["affect"].values) for clip in clips] == [5, 5, 3]  # 30 frames a second
    (whole,) = Corpus(seconds=3.0, rate=2.0, frame_rate=25.0).clips(tmp_path)
    assert len(whole.series["affect"].values) == 6


def test_two_people_share_sound_but_not_the_picture(tmp_path: Path) -> None:
    (tmp_path / "batch1").mkdir()
    frames = media.Frames(np.zeros((24, 16, 16, 3), np.uint8), np.arange(24) / 12)
    media.encode(tmp_path / "batch1" / "v.mp4", frames, media.Waveform(np.zeros(32_000, np.int16), 16_000))
    for name in ("v", "v_left", "v_right"):
        annotate(tmp_path, name, np.zeros((24, 2)))
    faces(tmp_path, "v_left", [3])
    whole, left, right = Corpus(seconds=2.0).clips(tmp_path)
    video = tmp_path / "batch1" / "v.mp4"
    assert (whole.audio, whole.video) == (SoundPart(video, 0.0, 2.0), VideoPart(video, 0, 24, 12.0))
    assert left.video.path.name == "v_left"
    assert right.video is None
    assert {clip.group for clip in (whole, left, right)} == {"v"}


def test_validation_videos_are_shared_out_where_no_test_is_annotated(tmp_path: Path) -> None:
    for number in range(10):
        annotate(tmp_path, f"v{number}", np.zeros((30, 2)), "Validation_Set" if number < 8 else "Train_Set")
        faces(tmp_path, f"v{number}", [1])
    annotate(tmp_path, "v0_left", np.zeros((30, 2)), "Validation_Set")
    faces(tmp_path, "v0_left", [1])
    clips = Corpus().clips(tmp_path)
    split = {clip.group: clip.split for clip in clips}
    assert sorted(split.values()) == ["test"] * 4 + ["train"] * 2 + ["validation"] * 4
    assert len({clip.split for clip in clips if clip.group == "v0"}) == 1
    annotate(tmp_path, "v9", np.zeros((30, 2)), "Test_Set")
    (tmp_path / "annotations" / "VA_Estimation_Challenge" / "Train_Set" / "v9.txt").unlink()
    split = {clip.group: clip.split for clip in Corpus().clips(tmp_path)}
    assert sorted(split.values()) == ["test", "train"] + ["validation"] * 8


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Corpus().clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no annotations"):
        Corpus().clips(tmp_path)
    annotate(tmp_path, "alone", np.zeros((3, 2)))
    with pytest.raises(FileNotFoundError, match=r"alone\.txt: there is neither"):
        Corpus().clips(tmp_path)
    annotate(tmp_path, "blank", np.full((3, 2), -5))
    annotate(tmp_path, "a", np.zeros((30, 2)))
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"no sound")
    assert [clip.name for clip in Corpus().clips(tmp_path)] == ["a/0000"]
    assert [path.stem for path, _ in Corpus().strangers(tmp_path)] == ["alone", "blank"]
    with pytest.raises(ValueError, match="a clip has to have a step"):
        Corpus(seconds=0.1, rate=4.0)


def test_the_synthetic_corpus_is_one(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs espeak-ng, of the extra 'demo'")
    options = synthetic.Options(tmp_path / "made", clips=3, seconds=3.0, seed=5, workers=1)
    assert synthetic.write(options) == 3
    recordings, strangers = scan(options.folder)
    assert not strangers
    assert [recording.split for recording in recordings] == ["validation", "train", "train"]
    assert all(abs(recording.rate() - synthetic.FRAME_RATE) < 0.01 for recording in recordings)
    clips = Corpus(seconds=2.0, rate=5.0).clips(options.folder)
    assert len(clips) == 6
    assert clips[0].video.read().images.shape == (20, 32, 32, 3)
    assert clips[0].audio.read().seconds == 2.0
    assert clips[0].series["affect"].valid.any()
    with pytest.raises(SystemExit, match="not empty"):
        synthetic.write(options)
