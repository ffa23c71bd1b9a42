"""The GRID reader: names, layouts, alignments, splits, and the synthetic corpus in its layout."""

from __future__ import annotations

import collections
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avjax.data import media
from avjax.data.corpora import grid
from avjax.data.corpora.grid import Corpus, read_alignment, words_of

TIMES = "0 23750 sil,23750 29500 bin,29500 34000 blue,34000 35500 at,35500 41000 f,41000 47250 two,47250 53000 now,"
ALIGNMENT = TIMES.replace(",", "\n") + "53000 74500 sil\n"


def touch(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def said(corpus: Corpus, clip) -> list[str]:
    return [corpus.vocabulary["transcript"][number] for number in clip.sequences["transcript"]]


def test_a_name_says_the_sentence() -> None:
    assert words_of("bbaf2n") == ("bin", "blue", "at", "f", "two", "now")
    assert words_of("swwzzs") == ("set", "white", "with", "z", "zero", "soon")
    # The grammar: 4 x 4 x 4 x 25 x 10 x 4 sentences of 51 words.
    assert [len(slot) for slot in grid.SLOTS.values()] == [4, 4, 4, 25, 10, 4]
    assert len(set(grid.WORDS)) == 51


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("bbaf2", "six letters"),
        ("bbaf2nn", "bbaf2n"),
        ("bbaw2n", "'w' stands for no letter"),
        ("bbaf0n", "'0' stands for no digit"),
        ("xbaf2n", "'x' stands for no command, which is one of blps"),
    ],
)
def test_a_wrong_name_is_explained(code: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says.replace("six", "6"))):
        words_of(code)


def test_files_of_a_sentence_are_found_wherever_they_lie(tmp_path: Path) -> None:
    touch(
        tmp_path, "s1/bbaf2n.mpg", "s3/video/mpg_6000/lgaz9s.mpg", "audio_25k/s1/bbaf2n.wav", "audio_25k/s21/srwi4p.wav"
    )
    touch(tmp_path, "s1/align/bbaf2n.align", text=ALIGNMENT)
    touch(
        tmp_path,
        "align/s3/lgaz9s.align",
        text="0 10 sil\n10 20 lay\n20 30 green\n30 40 at\n40 50 z\n50 60 nine\n60 70 soon\n",
    )
    one, three, deaf = Corpus().clips(tmp_path)
    assert (one.name, one.group, one.split) == ("s1_bbaf2n", "s1", "test")
    assert (one.audio, one.video) == (tmp_path / "audio_25k/s1/bbaf2n.wav", tmp_path / "s1/bbaf2n.mpg")
    assert said(Corpus(), one) == ["bin", "blue", "at", "f", "two", "now"]
    # Without a file of its own the sound is the video's.
    assert three.audio == three.video == tmp_path / "s3/video/mpg_6000/lgaz9s.mpg"
    assert three.split == "validation"
    # Speaker 21 was never filmed.
    assert (deaf.video, deaf.audio.name, deaf.split) == (None, "srwi4p.wav", "train")
    assert said(Corpus(), deaf) == ["set", "red", "with", "i", "four", "please"]
    assert Corpus().strangers(tmp_path) == []


def test_characters(tmp_path: Path) -> None:
    touch(tmp_path, "s5/bbaf2n.avi")
    corpus = Corpus(tokens="characters")
    (clip,) = corpus.clips(tmp_path)
    assert "".join(said(corpus, clip)) == "bin blue at f two now"
    assert corpus.vocabulary["transcript"] == ("", " ", *"abcdefghijklmnopqrstuvwxyz")


def test_alignments_are_read_in_seconds(tmp_path: Path) -> None:
    touch(tmp_path, "bbaf2n.align", text=ALIGNMENT)
    spoken = read_alignment(tmp_path / "bbaf2n.align")
    assert (spoken[1].begin, spoken[1].end, spoken[1].word) == (0.95, 1.18, "bin")
    grid.write_alignment(tmp_path / "again.align", spoken)
    assert (tmp_path / "again.align").read_text() == ALIGNMENT


def test_an_alignment_that_is_not_its_name_s_is_told(tmp_path: Path) -> None:
    names = ("bbaf2n", "bbaf3n", "bbaf4n", "bbaf5n")
    touch(tmp_path, *(f"s7/{name}.mp4" for name in names))
    other = ALIGNMENT.replace("two", "six")
    for name, text in zip(names, (other, ALIGNMENT.replace("two", "tow"), "0 5\n", "0 75000 sil\n"), strict=True):
        touch(tmp_path, f"s7/align/{name}.align", text=text)
    clips = Corpus().clips(tmp_path)
    assert [said(Corpus(), clip)[4] for clip in clips] == ["six", "three", "four", "five"]
    told = [reason for _, reason in Corpus().strangers(tmp_path)]
    assert "'bin blue at f six now', its name 'bin blue at f two now'" in told[0]
    for reason, says in zip(told[1:], ("no word 'tow'", "line 1 is '0 5'", "has no word"), strict=True):
        assert says in reason
        assert "taken from the name" in reason


def test_files_of_other_names_are_told(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "s1/bbaf2n.mpg",
        "s1/mpg_vcd/bbaf2n.mpg",
        "bbaf2n.mpg",
        "s35/bbaf2n.mpg",
        "s1/holiday.mp4",
        "s1/._bbaf2n.mpg",
    )
    assert len(Corpus().clips(tmp_path)) == 1
    told = {str(path.relative_to(tmp_path)): reason for path, reason in Corpus().strangers(tmp_path)}
    assert told.keys() == {"s1/mpg_vcd/bbaf2n.mpg", "bbaf2n.mpg", "s35/bbaf2n.mpg", "s1/holiday.mp4"}
    assert "the same video as s1/bbaf2n.mpg" in told["s1/mpg_vcd/bbaf2n.mpg"]
    assert "no folder s1 to s34" in told["s35/bbaf2n.mpg"]


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Corpus().clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no media files"):
        Corpus().clips(tmp_path)
    touch(tmp_path, "s1/holiday.mp4")
    with pytest.raises(FileNotFoundError, match="the first is holiday"):
        Corpus().clips(tmp_path)


def test_splits() -> None:
    codes = ["".join(letters) for letters in itertools.islice(itertools.product(*grid.SLOTS.values()), 0, 64_000, 64)]
    keys = [(speaker, code) for speaker in (1, 2, 3, 34) for code in codes]
    unseen = grid.split_of(keys, "unseen")
    by_speaker = {speaker: {unseen[key] for key in keys if key[0] == speaker} for speaker, _ in keys}
    assert by_speaker == {1: {"test"}, 2: {"test"}, 3: {"validation"}, 34: {"train"}}
    overlapped = grid.split_of(keys, "overlapped")
    for speaker in (1, 34):
        found = collections.Counter(overlapped[key] for key in keys if key[0] == speaker)
        assert found == {"test": 255, "validation": 45, "train": 700}
    # Not the same sentences of each.
    assert [overlapped[1, code] for code in codes] != [overlapped[2, code] for code in codes]
    assert overlapped == grid.split_of(keys[::-1], "overlapped")


@pytest.mark.slow
def test_the_synthetic_corpus_is_in_step(root: Path, tmp_path: Path) -> None:
    """Lips and sound follow the alignment; noise changes nothing else; the same words make the same files."""
    pytest.importorskip("espeakng_loader", reason="needs the extra: pip install avjax[demo]")
    program, words = (
        root / "experiments" / "synthetic" / "grid.py",
        ["--clips", "3", "--speakers", "2", "5", "--workers", "1"],
    )
    for folder, more in (("one", []), ("two", []), ("noisy", ["--snr", "-5", "-5"])):
        subprocess.run([sys.executable, program, tmp_path / folder, *words, *more], check=True, capture_output=True)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 18
    for file in files:
        same = [(tmp_path / folder / file).read_bytes() for folder in ("one", "two", "noisy")]
        assert same[0] == same[1]
        assert (same[0] == same[2]) == (file.suffix != ".wav")
    assert "SYNTHETIC" in (tmp_path / "one" / "SYNTHETIC").read_text()
    clips = Corpus().clips(tmp_path / "one")
    assert [clip.split for clip in clips] == ["test"] * 3 + ["train"] * 3
    assert not Corpus().strangers(tmp_path / "one")
    for clip in clips:
        speaker, code = clip.name.split("_")
        assert said(Corpus(), clip) == list(words_of(code))
        spoken = read_alignment(tmp_path / "one" / "align" / speaker / f"{code}.align")
        begin, end = spoken[0].end, spoken[-1].begin
        sound = media.decode(clip.audio, video=False).audio
        noisy = media.decode(tmp_path / "noisy" / clip.audio.relative_to(tmp_path / "one"), video=False).audio
        power = np.mean(sound.samples.astype(float) ** 2)
        # White noise up to 12.5 kHz, of which decoding at 16 kHz keeps what lies below 8.
        noise = np.mean((noisy.samples - noisy.samples.astype(float).mean()) ** 2) - power
        assert 10 * np.log10(power / noise) == pytest.approx(-5 + 10 * np.log10(12.5 / 8), abs=1.5)
        loud = np.flatnonzero(np.abs(sound.samples) > 1000) / sound.rate
        assert loud[0] == pytest.approx(begin, abs=0.1)
        assert loud[-1] == pytest.approx(end, abs=0.2)
        frames = media.decode(clip.video, audio=False).video
        assert frames.images.shape == (75, 48, 60, 3)
        lips = frames.images[:, 24:36, 18:42].astype(float)
        change = np.abs(np.diff(lips, axis=0)).mean(axis=(1, 2, 3))
        during = (frames.times[1:] > begin) & (frames.times[1:] < end)
        assert change[during].mean() > 2 * change[~during].mean()
