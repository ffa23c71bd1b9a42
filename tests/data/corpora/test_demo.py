"""The demo corpus: real files in RAVDESS's layout, the same every time, with cues that can be read and no others."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avjax.data import media
from avjax.data.corpora import SPLITS, Clip, demo, ravdess
from avjax.data.corpora.demo import Corpus, Knobs
from avjax.data.synthesis import face, speech

pytest.importorskip("espeakng_loader", reason="needs the extra: pip install avjax[demo]")

SMALL = Corpus(actors=6, clips_per_actor=4, workers=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Clip]]:
    root = tmp_path_factory.mktemp("demo")
    return root, SMALL.clips(root)


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*.mp4"))}


def test_files_are_what_ravdess_has(small: tuple[Path, list[Clip]]) -> None:
    root, clips = small
    read = ravdess.Corpus(protocol="14-4-6").clips(root)
    assert [clip.name for clip in read] == [clip.name for clip in clips]
    assert len(clips) == 24
    assert [clip.labels for clip in read] == [clip.labels for clip in clips]
    for clip in clips[::5]:
        assert isinstance(clip.video, Path)
        assert clip.video == clip.audio
        found = media.decode(clip.video)
        assert found.audio is not None
        assert found.video is not None
        assert not found.warnings
        assert (found.facts.video_codec, found.facts.audio_codec) == ("h264", "aac")
        assert found.facts.video_rate == pytest.approx(25)
        assert found.video.images.shape[1:] == (64, 64, 3)
        assert 1.2 <= found.audio.seconds <= 1.7
        assert found.audio.seconds == pytest.approx(len(found.video.images) / 25, abs=0.03)
        assert np.abs(found.audio.samples).max() > 300


def test_clips_are_listed_as_promised(small: tuple[Path, list[Clip]]) -> None:
    _, clips = small
    assert np.bincount([clip.labels["emotion"] for clip in clips]).tolist() == [3] * 8
    groups = {split: {clip.group for clip in clips if clip.split == split} for split in SPLITS}
    assert {split: len(actors) for split, actors in groups.items()} == {"train": 3, "validation": 1, "test": 2}
    assert len(set.union(*groups.values())) == 6
    for clip in clips:
        emotion = SMALL.classes["emotion"][clip.labels["emotion"]]
        code = ravdess.Code.parse(clip.name)
        assert (clip.cues["heard_level"], demo.emotions.SEEN[int(clip.cues["seen_level"])]) == demo.emotions.PAIRS[
            emotion
        ]
        assert clip.cues["strong"] == code.intensity - 1
        assert clip.cues["label"] == clip.labels["emotion"]
        assert abs(clip.cues["arousal"] - clip.cues["heard_level"]) < 0.15 + 6 * SMALL.heard_jitter


def test_all_24_actors_are_evenly_split() -> None:
    numbers = demo.actor_numbers(24)
    assert numbers == list(range(1, 25))
    sizes = {split: sum(ravdess.split_of(n, demo.PROTOCOL) == split for n in numbers) for split in SPLITS}
    assert sizes == {"train": 14, "validation": 4, "test": 6}
    assert len(demo.plan(Knobs())) == 960
    for count in range(3, 24):
        found = [ravdess.split_of(n, demo.PROTOCOL) for n in demo.actor_numbers(count)]
        assert len(found) == count
        assert set(found) == set(SPLITS)


def test_what_is_written_beside_the_clips(small: tuple[Path, list[Clip]]) -> None:
    root, clips = small
    manifest = json.loads((root / "demo.json").read_text())
    assert manifest["synthetic"] is True
    assert "SYNTHETIC" in manifest["note"]
    assert manifest["clips"] == 24
    assert manifest["ceilings"] == demo.ceilings(SMALL.knobs)
    assert manifest["ceilings"]["expected"]["audio"] == pytest.approx(0.5, abs=0.01)
    assert manifest["ceilings"]["test"]["both"] > 0.8
    cues = json.loads((root / "cues.json").read_text())["clips"]
    assert cues == {clip.name: clip.cues for clip in clips}


def test_it_goes_on_where_it_stopped(small: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    """Made by two processes, stopped and started again: the same bytes as made by one."""
    root, clips = small
    knobs = dataclasses.replace(SMALL, workers=2)
    reached = os.fspath(tmp_path / "again")
    assert [clip.cues for clip in knobs.clips(Path(reached))] == [clip.cues for clip in clips]
    files = digests(root)
    assert digests(tmp_path / "again") == files
    lost = sorted(files)[3::7]
    for name in lost:
        (root / name).unlink()
    (root / "Actor_01" / ".01-01-half.mp4").write_bytes(b"what a killed process leaves")
    kept = {name: (root / name).stat().st_mtime_ns for name in files if name not in lost}
    assert SMALL.clips(root) == clips
    assert digests(root).items() >= files.items()
    assert {name: (root / name).stat().st_mtime_ns for name in kept} == kept


def test_another_seed_is_another_corpus() -> None:
    first, second = (demo.perform(k, demo.plan(k)[0]) for k in (Knobs(seed=1), Knobs(seed=2)))
    assert first.images.shape != second.images.shape or np.any(first.images != second.images)


def test_folders_of_something_else_are_left_alone(small: tuple[Path, list[Clip]], tmp_path: Path) -> None:
    root, _ = small
    with pytest.raises(ValueError, match=r"seed is 0, not 5.*choose another folder"):
        dataclasses.replace(SMALL, seed=5).clips(root)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"not empty and holds no demo\.json"):
        SMALL.clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(ValueError, match="not the manifest of a demo corpus"):
        SMALL.clips(tmp_path)


def test_without_espeak_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install avjax\[demo\]"):
        SMALL.clips(tmp_path / "new")


def test_missing_modalities_are_absent_from_the_file(tmp_path: Path) -> None:
    corpus = Corpus(actors=3, clips_per_actor=4, missing_rate=1.0, workers=1)
    clips = corpus.clips(tmp_path)
    for clip in clips:
        assert (clip.audio is None) != (clip.video is None)
        found = media.decode(clip.audio or clip.video)
        assert (found.audio is None) == (clip.audio is None)
        assert (found.video is None) == (clip.video is None)
    rate = np.mean([not (c.has_audio and c.has_video) for c in demo.plan(Knobs(missing_rate=0.3, clips_per_actor=100))])
    assert rate == pytest.approx(0.3, abs=0.05)


def opening_seen(images: np.ndarray, look: face.Appearance) -> np.ndarray:
    """How far the mouth stands open [T], from the pixels: rows of red, dark and teeth below the nose."""
    middle = 32 * (1 + look.mouth)
    part = images[:, int(middle) - 7 : int(middle) + 9, 26:38].astype(float)
    unlike = np.abs(part - part[:, :1, :]).sum(-1)
    return (unlike > 90).mean((1, 2))


def loudness_heard(samples: np.ndarray, frames: int) -> np.ndarray:
    """Root mean square a frame, smoothed over three."""
    power = np.square(samples[: frames * 882].astype(float)).reshape(frames, 882).mean(1)
    return np.sqrt(np.convolve(power, np.ones(3) / 3, mode="same"))


def best_lag(first: np.ndarray, second: np.ndarray, reach: int, circular: bool = False) -> int:
    """By how many frames ``second`` comes after ``first``."""
    a, b = (x - x.mean() for x in (first, second))
    if circular:
        scores = {lag: a @ np.roll(b, -lag) for lag in range(-reach, reach + 1)}
    else:
        pad = np.pad(b, reach)
        scores = {lag: a @ pad[reach + lag : reach + lag + len(a)] for lag in range(-reach, reach + 1)}
    return max(scores, key=lambda lag: scores[lag])


def test_the_mouth_moves_with_the_sound() -> None:
    knobs = Knobs(actors=6, clips_per_actor=4)
    lags = []
    for clip in demo.plan(knobs):
        made = demo.perform(knobs, clip)
        seen = opening_seen(made.images, demo.actors.look(knobs, clip.code.actor))
        lags.append(best_lag(seen, loudness_heard(made.samples, len(made.images)), 6))
    assert np.mean(np.abs(lags) <= 2) > 0.9


def test_misalignment_delays_the_sound() -> None:
    knobs = Knobs(actors=6, clips_per_actor=4, misalignment=0.15)
    told, found = [], []
    for clip in demo.plan(knobs):
        made = demo.perform(knobs, clip)
        seen = opening_seen(made.images, demo.actors.look(knobs, clip.code.actor))
        told.append(clip.cues()["delay"] * 25)
        found.append(best_lag(seen, loudness_heard(made.samples, len(made.images)), 12))
    assert np.std(told) > 2
    assert np.median(np.abs(np.array(told) - found)) < 1.5


def test_order_is_in_neither_alone() -> None:
    knobs = Knobs(interaction="order", actors=6, clips_per_actor=24)
    clips = demo.plan(knobs)
    hits = []
    for clip in clips[::6]:
        made = demo.perform(knobs, clip)
        seen = opening_seen(made.images, demo.actors.look(knobs, clip.code.actor))
        lag = best_lag(seen, loudness_heard(made.samples, len(made.images)), 10, circular=True)
        hits.append((lag > 0) == (knobs.class_names[clip.label] == "picture_first"))
    assert np.mean(hits) > 0.85  # with both, it can be read
    # Alone, each begins anywhere on its circle, whatever the label: no mean direction.
    many = demo.plan(dataclasses.replace(knobs, actors=24, clips_per_actor=100))
    for begin in (lambda t: -t.turn, lambda t: t.delay - t.turn):
        for label in (0, 1):
            turns = np.array([begin(c.timing) / (c.timing.frames / 25) for c in many if c.label == label])
            assert np.abs(np.exp(2j * np.pi * turns).mean()) < 4 / np.sqrt(len(turns))


def features(knobs: Knobs, clips: list[demo.PlannedClip]) -> tuple[np.ndarray, np.ndarray]:
    """What anyone would try first: mean and spread over time of log band energies, mean of small grey frames."""
    heard, seen = [], []
    for clip in clips:
        made = demo.perform(knobs, clip)
        windows = np.lib.stride_tricks.sliding_window_view(made.samples / 32768, 512)[::220] * np.hanning(512)
        power = np.abs(np.fft.rfft(windows)) ** 2
        bands = np.log(np.add.reduceat(power, [1, 3, 6, 10, 15, 22, 32, 46, 66, 94, 134], axis=1) + 1e-7)
        heard.append(np.concatenate([bands.mean(0), bands.std(0)]))
        grey = made.images[np.linspace(0, len(made.images) - 1, 8).astype(int)].mean(-1) / 255
        small = grey.reshape(8, 16, 4, 16, 4).mean((2, 4)).reshape(8, -1)
        seen.append(small.mean(0))
    return np.array(heard), np.array(seen)


@pytest.mark.slow
def test_cues_are_read_on_unseen_actors_and_nothing_else_is(rng: np.random.Generator) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs the extra: pip install avjax[demo]")
    knobs = Knobs(seed=int(rng.integers(1 << 31)), clips_per_actor=8)
    clips = demo.plan(knobs)
    heard, seen = features(knobs, clips)
    train = np.array([clip.code.actor <= 14 for clip in clips])
    truth = {name: np.array([getattr(c, name) for c in clips]) for name in ("heard_level", "seen_level", "label")}

    def score(inputs: np.ndarray, name: str) -> float:
        scaled = (inputs - inputs[train].mean(0)) / (inputs[train].std(0) + 1e-3)
        model = linear_model.LogisticRegression(C=0.1, max_iter=200).fit(scaled[train], truth[name][train])
        return float(model.score(scaled[~train], truth[name][~train]))

    assert score(heard, "heard_level") >= 0.9
    assert score(seen, "seen_level") >= 0.9
    # Either alone leaves two emotions open: 80 clips, so 0.5 has a standard error of 0.056.
    assert 0.3 < score(heard, "label") < 0.72
    assert 0.3 < score(seen, "label") < 0.72


def test_worker_processes_do_not_load_jax() -> None:
    words = "import sys, avjax.data.corpora.demo; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_speech_fills_the_clip_whatever_it_says() -> None:
    """Neither length nor pause tells the label: timing is drawn apart, and speech keeps to it."""
    knobs = Knobs(actors=24, clips_per_actor=40)
    clips = demo.plan(knobs)
    frames = np.array([clip.timing.frames for clip in clips])
    means = [frames[np.array([clip.heard_level == level for clip in clips])].mean() for level in range(4)]
    assert np.ptp(means) < 6 * frames.std() / np.sqrt(len(clips) / 4)
    for clip in clips[:: len(clips) // 20]:
        spoken = speech.speak(demo.actors.voice(knobs, clip.code.actor), clip.code.statement - 1, clip.arousal, 1.25)
        assert spoken.seconds == pytest.approx(1.25, abs=0.1)
