"""Spoken and handwritten digits: splits, pools, noise levels, determinism, error messages."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from avjax.data.corpora.digits import CLASSES, Corpus, add_audio_noise, add_image_noise
from avjax.data.media import Waveform

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn, of the extra 'demo'")

SPEAKERS = ("anna", "bert", "carl")
RECORDINGS = 6
RATE = 8_000


def write_recordings(folder: Path, rng: np.random.Generator) -> None:
    """Three speakers, ten digits, six recordings each: a tone of its own for each speaker, at 8 kHz."""
    (folder / "recordings").mkdir(parents=True)
    for number, speaker in enumerate(SPEAKERS):
        for digit in range(10):
            for index in range(RECORDINGS):
                seconds = np.arange(int(rng.integers(1_600, 2_400))) / RATE
                samples = rng.uniform(3_000, 9_000) * np.sin(2 * np.pi * 500 * (number + 1) * seconds)
                # ffmpeg takes one in a hundred short WAV files of a bare tone for another format.
                samples += rng.normal(0, 300, len(seconds))
                with wave.open(str(folder / "recordings" / f"{digit}_{speaker}_{index}.wav"), "wb") as file:
                    file.setnchannels(1)
                    file.setsampwidth(2)
                    file.setframerate(RATE)
                    file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "fsdd"
    write_recordings(folder, np.random.default_rng())
    return folder


def test_splits_groups_and_pairs(folder: Path) -> None:
    clips = Corpus(held_out="bert", pairs=3).clips(folder)
    assert len({clip.name for clip in clips}) == len(clips)
    assert {split: sum(clip.split == split for clip in clips) for split in ("train", "validation", "test")} == {
        "train": 2 * 10 * (RECORDINGS - 5) * 3,
        "validation": 2 * 10 * 5,
        "test": 10 * RECORDINGS,
    }
    for clip in clips:
        digit, speaker, rest = clip.name.split("_")
        assert clip.labels == {"digit": int(digit)}
        assert (clip.split == "test") == (speaker == "bert")
        if clip.split != "test":
            assert (clip.split == "validation") == (int(rest.split("-")[0]) < 5)
        assert clip.group.startswith(speaker)
    splits = {}
    for clip in clips:
        assert splits.setdefault(clip.group, clip.split) == clip.split
    assert len(Corpus(held_out="bert").classes["digit"]) == len(CLASSES) == 10


def test_a_whole_speaker_validates(folder: Path) -> None:
    clips = Corpus(held_out="anna", validation="carl", pairs=1).clips(folder)
    assert {(clip.group, clip.split) for clip in clips} == {
        ("anna", "test"), ("bert", "train"), ("carl", "validation"),
    }  # fmt: skip


def test_pictures_match_their_class_and_no_pool_shares_one(folder: Path) -> None:
    digits = sklearn_datasets.load_digits()
    clips = Corpus(held_out="bert", pairs=8, image_noise=0.0).clips(folder)
    used: dict[str, set[int]] = {}
    for clip in clips:
        number = int(clip.cues["image"])
        assert digits.target[number] == clip.labels["digit"]
        assert clip.video.images.shape == (1, 8, 8, 1)
        np.testing.assert_array_equal(clip.video.images[0, :, :, 0], np.rint(digits.images[number] * 255 / 16))
        used.setdefault(clip.split, set()).add(number)
    assert not used["train"] & used["validation"]
    assert not used["train"] & used["test"]
    assert not used["validation"] & used["test"]
    assert len(used["train"]) > 100, "a training recording's pairs have pictures of their own"


def test_the_pools_are_all_the_pictures() -> None:
    _, pools = Corpus()._pictures()
    for digit in range(10):
        numbers = np.concatenate([pools[split][digit] for split in ("train", "validation", "test")])
        expected = np.flatnonzero(sklearn_datasets.load_digits().target == digit)
        np.testing.assert_array_equal(np.sort(numbers), expected)
        assert len(pools["test"][digit]) == pytest.approx(0.2 * len(expected), abs=1.5)


def test_sound_is_resampled_and_the_noise_has_its_level(folder: Path) -> None:
    clean = {clip.name: clip for clip in Corpus(held_out="anna", snr=None, pairs=1).clips(folder)}
    noisy = {clip.name: clip for clip in Corpus(held_out="anna", snr=5.0, pairs=1).clips(folder)}
    assert clean.keys() == noisy.keys()
    levels = []
    for name, clip in clean.items():
        assert "snr" not in clip.cues
        assert noisy[name].cues["snr"] == 5.0
        assert clip.audio.rate == 16_000
        with wave.open(str(folder / "recordings" / f"{name.split('-')[0]}.wav")) as file:
            assert len(clip.audio.samples) == 2 * file.getnframes()
        # Half a second's worth of bins around the tone that the file was written with.
        spectrum = np.abs(np.fft.rfft(clip.audio.samples * np.hanning(len(clip.audio.samples))))
        tone = np.argmax(spectrum) * 16_000 / len(clip.audio.samples)
        assert tone == pytest.approx(500 * (1 + SPEAKERS.index(name.split("_")[1])), abs=10)
        signal = clip.audio.samples.astype(float)
        noise = noisy[name].audio.samples - signal
        levels.append(10 * np.log10(np.mean(signal**2) / np.mean(noise**2)))
        # The picture does not hang on the sound's noise.
        np.testing.assert_array_equal(clip.video.images, noisy[name].video.images)
    assert np.mean(levels) == pytest.approx(5.0, abs=0.05)
    assert np.std(levels) < 0.3


def test_loud_noise_scales_the_sum_and_never_wraps(rng: np.random.Generator) -> None:
    samples = np.where(rng.random(8_000) < 0.5, -32_768, 32_767).astype(np.int16)
    mixed = add_audio_noise(Waveform(samples, 16_000), -10.0, rng)
    assert np.abs(mixed.samples.astype(int)).max() == 32_767
    assert np.corrcoef(mixed.samples, samples)[0, 1] == pytest.approx(1 / np.sqrt(1 + 10), abs=0.05)
    silence = Waveform(np.zeros(100, np.int16), 16_000)
    assert add_audio_noise(silence, 0.0, rng) is silence


def test_image_noise_has_its_deviation_and_is_clipped(rng: np.random.Generator) -> None:
    grey = add_image_noise(np.full((200, 200), 0.5), 0.1, rng)
    assert grey.dtype == np.uint8
    assert np.std(grey / 255) == pytest.approx(0.1, rel=0.03)
    assert np.mean(grey / 255) == pytest.approx(0.5, abs=0.003)
    black = add_image_noise(np.zeros((200, 200)), 0.5, rng)
    assert np.mean(black == 0) == pytest.approx(0.5, abs=0.02)
    assert black.max() == 255


def test_the_same_seed_makes_the_same_clips_whatever_else_is_there(folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    corpus = Corpus(held_out="anna", pairs=2)
    first = {clip.name: clip for clip in corpus.clips(folder)}
    for path in (folder / "recordings").glob("*_carl_5.wav"):
        path.unlink()
    second = {clip.name: clip for clip in corpus.clips(folder / "recordings")}
    assert set(second) < set(first)
    for name, clip in second.items():
        np.testing.assert_array_equal(clip.audio.samples, first[name].audio.samples)
        np.testing.assert_array_equal(clip.video.images, first[name].video.images)
    other = dataclasses.replace(corpus, seed=1).clips(folder)
    changed = [np.array_equal(clip.audio.samples, second[clip.name].audio.samples) for clip in other]
    assert not any(changed)


def test_frames_repeat_one_picture_over_the_recording(folder: Path) -> None:
    for clip in Corpus(held_out="anna", pairs=1, frames=4).clips(folder)[:20]:
        seconds = len(clip.audio.samples) / 16_000
        assert clip.video.images.shape == (4, 8, 8, 1)
        assert (clip.video.images == clip.video.images[:1]).all()
        np.testing.assert_allclose(clip.video.times, np.arange(4) * seconds / 4)


def test_a_recording_that_does_not_decode_is_passed_on(folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(folder, tmp_path / "copy")
    broken = folder / "recordings" / "3_bert_2.wav"
    broken.write_bytes(b"no sound at all")
    clips = {clip.name: clip for clip in Corpus(held_out="bert").clips(folder)}
    assert clips["3_bert_2-0"].audio == broken
    assert isinstance(clips["3_bert_3-0"].audio, Waveform)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"held_out": "ana"}, ValueError, "did you mean anna"),
        ({"held_out": "anna", "validation": "dora"}, ValueError, "validation is 'dora'"),
    ],
)
def test_unknown_speakers(folder: Path, changes: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Corpus(**changes).clips(folder)


def test_impossible_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name two speakers"):
        Corpus(held_out="anna", validation="anna")
    with pytest.raises(ValueError, match="at least 1"):
        Corpus(pairs=0)
    with pytest.raises(ValueError, match="standard deviation"):
        Corpus(image_noise=-0.1)
    with pytest.raises(FileNotFoundError, match="that holds recordings/"):
        Corpus().clips(tmp_path)
    with pytest.raises(FileNotFoundError, match="that holds recordings/"):
        Corpus().clips(tmp_path / "nowhere")


def test_without_scikit_learn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"avjax\[demo\]"):
        Corpus(held_out="anna").clips(folder)


def test_the_real_recordings(test_data: Path) -> None:
    recordings = Corpus(held_out="jackson").recordings(test_data / "fsdd")
    assert len(recordings) == 2_000
    counts = {split: sum(one.split == split for one in recordings) for split in ("train", "validation", "test")}
    assert counts == {"train": 1_350, "validation": 150, "test": 500}


def test_files_of_other_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for name in ("7_george_12.wav", "seven.wav", "README.md"):
        (tmp_path / "recordings" / name).touch()
    assert [path.name for path, _ in Corpus().strangers(tmp_path)] == ["seven.wav"]
