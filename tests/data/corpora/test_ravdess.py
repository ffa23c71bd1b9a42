"""The RAVDESS reader: names, protocols, joined pairs, what it says of other files."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from avjax.data import faces
from avjax.data.corpora import SPLITS, ravdess
from avjax.data.corpora.ravdess import Code, Corpus, split_of

PROTOCOLS = [("16-4-4", 0), ("20-4", 0), ("14-4-6", 0), *(("six-folds", fold) for fold in range(6))]


def touch(root: Path, name: str, folder: str | None = None) -> Path:
    path = root / (folder or f"Actor_{name.split('.')[0][-2:]}") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def whole_corpus() -> list[str]:
    """Names of RAVDESS's 1,440 full audio-visual speech recordings, written down from its description."""
    return [
        f"01-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}.mp4"
        for actor in range(1, 25)
        for emotion in range(1, 9)
        for intensity in (1, 2)
        for statement in (1, 2)
        for repetition in (1, 2)
        if not (emotion == 1 and intensity == 2)
    ]


def test_a_name_says_the_label(tmp_path: Path) -> None:
    touch(tmp_path, "01-01-06-01-02-01-12.mp4")  # the example on RAVDESS's page: fearful, normal, "dogs", actor 12
    (clip,) = Corpus().clips(tmp_path)
    assert Corpus().classes["emotion"][clip.labels["emotion"]] == "fearful"
    assert (clip.name, clip.group, clip.split) == ("01-01-06-01-02-01-12", "Actor_12", "train")
    assert clip.audio == clip.video == tmp_path / "Actor_12" / "01-01-06-01-02-01-12.mp4"


def test_every_name_is_read_back(rng: np.random.Generator) -> None:
    tops = [3, 2, 8, 2, 2, 99, 24]
    for _ in range(200):
        numbers = [int(rng.integers(1, top + 1)) for top in tops]
        code = Code.parse("-".join(f"{number:02d}" for number in numbers))
        assert [code.modality, code.channel, code.emotion, code.intensity] == numbers[:4]
        assert [code.statement, code.repetition, code.actor] == numbers[4:]
        assert Code.parse(code.name) == code


@pytest.mark.parametrize(
    ("stem", "says"),
    [
        ("01-01-09-01-01-01-01", "emotion code 09"),
        ("04-01-01-01-01-01-01", "modality code 04"),
        ("01-01-01-01-01-01-25", "actor code 25"),
        ("01-01-01-00-01-01-01", "intensity code 00"),
        ("01-01-01-01-01-01", "MM-VV-EE"),
        ("1-1-1-1-1-1-1", "MM-VV-EE"),
        ("01-01-01-01-01-01-01-01", "MM-VV-EE"),
        ("holiday", "MM-VV-EE"),
    ],
)
def test_a_wrong_name_is_explained(stem: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Code.parse(stem)


def test_the_whole_corpus(tmp_path: Path, rng: np.random.Generator) -> None:
    names = whole_corpus()
    assert len(names) == 1440
    for name in rng.permutation(names):
        touch(tmp_path, str(name))
    clips = Corpus().clips(tmp_path)
    assert [f"{clip.name}.mp4" for clip in clips] == names  # by actor, then by name, however the files were made
    counts = np.bincount([clip.labels["emotion"] for clip in clips])
    assert counts.tolist() == [96] + [192] * 7
    per_split = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    assert per_split == {"train": 16 * 60, "validation": 4 * 60, "test": 4 * 60}


@pytest.mark.parametrize(("protocol", "fold"), PROTOCOLS)
def test_every_split_has_both_sexes_evenly(protocol: ravdess.Protocol, fold: int) -> None:
    members = {split: [a for a in range(1, 25) if split_of(a, protocol, fold) == split] for split in SPLITS}
    assert sorted(itertools.chain(*members.values())) == list(range(1, 25))
    for actors in members.values():
        assert actors
        assert sum(actor % 2 for actor in actors) * 2 == len(actors)


def test_the_protocols_are_the_published_ones() -> None:
    order = [split_of(actor, "16-4-4") for actor in range(1, 25)]
    assert order == ["test"] * 4 + ["validation"] * 4 + ["train"] * 16
    assert [actor for actor in range(1, 25) if split_of(actor, "20-4") == "test"] == [21, 22, 23, 24]
    tested = [[a for a in range(1, 25) if split_of(a, "six-folds", fold) == "test"] for fold in range(6)]
    assert all(len(actors) == 4 for actors in tested)
    assert sorted(itertools.chain(*tested)) == list(range(1, 25))


def test_a_fold_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="folds 0 to 5"):
        split_of(1, "six-folds", 6)
    with pytest.raises(ValueError, match="one fold"):
        split_of(1, "16-4-4", 1)


def test_pictures_and_sounds_are_joined(tmp_path: Path) -> None:
    video = touch(tmp_path, "02-01-05-02-01-02-07.mp4", "Video_Speech_Actor_07/Actor_07")
    audio = touch(tmp_path, "03-01-05-02-01-02-07.wav", "Audio_Speech_Actors_01-24/Actor_07")
    silent = touch(tmp_path, "02-01-03-01-01-01-08.mp4")
    heard = touch(tmp_path, "03-01-02-01-01-01-08.wav")
    full = touch(tmp_path, "01-01-04-01-01-01-09.mp4")
    touch(tmp_path, "02-01-04-01-01-01-09.mp4")
    touch(tmp_path, "03-01-04-01-01-01-09.wav")
    clips = Corpus().clips(tmp_path)
    assert [(clip.audio, clip.video) for clip in clips] == [
        (audio, video),
        (heard, None),
        (None, silent),
        (full, full),
    ]
    assert len({clip.name for clip in clips}) == 4


def test_song_is_left_out_until_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "01-02-03-01-01-01-02.mp4")
    with pytest.raises(FileNotFoundError, match="--song"):
        Corpus().clips(tmp_path)
    touch(tmp_path, "01-01-03-01-01-01-02.mp4")
    assert [clip.name[3:5] for clip in Corpus().clips(tmp_path)] == ["01"]
    assert [clip.name[3:5] for clip in Corpus(song=True).clips(tmp_path)] == ["01", "02"]


def test_other_files_are_counted_not_fatal(tmp_path: Path) -> None:
    touch(tmp_path, "01-01-03-01-01-01-02.mp4")
    touch(tmp_path, "holiday.mp4", "Actor_02")
    touch(tmp_path, "01-01-03-01-01-02-02.mp4", "Actor_03")  # actor 2 in actor 3's folder
    touch(tmp_path, "01-01-03-01-01-01-02.wav", "Actor_02")  # the first once more
    touch(tmp_path, "notes.txt", "Actor_02")
    touch(tmp_path, "._01-01-03-01-01-01-02.mp4", "Actor_02")  # what macOS leaves behind
    assert [clip.name for clip in Corpus().clips(tmp_path)] == ["01-01-03-01-01-01-02"]
    reasons = sorted(reason for _, reason in Corpus().strangers(tmp_path))
    assert [reason.split()[0] for reason in reasons] == ["actor", "not", "the"]


def test_folders_without_ravdess(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Corpus().clips(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="Zenodo record 1188976"):
        Corpus().clips(tmp_path)
    touch(tmp_path, "holiday.mp4", "Actor_02")
    with pytest.raises(FileNotFoundError, match=r"none of its 1 media files .* holiday\.mp4: not of the form"):
        Corpus().clips(tmp_path)


def test_faces_take_the_pictures_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = touch(tmp_path / "data", "01-01-03-01-01-01-02.mp4")
    touch(tmp_path / "data", "03-01-02-01-01-01-08.wav")
    asked: list[Path] = []

    def cut_all(sources: list[Path], root: Path, out: Path) -> dict[Path, Path]:
        asked.extend(sources)
        return {source: out / source.name for source in sources}

    monkeypatch.setattr(faces, "cut_all", cut_all)
    clips = Corpus(faces=tmp_path / "cut").clips(tmp_path / "data")
    assert asked == [full]
    assert [(clip.audio is None, clip.video) for clip in clips] == [
        (False, tmp_path / "cut" / full.name),
        (False, None),
    ]


def test_a_missing_detector_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "data", "01-01-03-01-01-01-02.mp4")
    monkeypatch.setitem(sys.modules, "dlib", None)
    faces._dlib_detector.cache_clear()
    with pytest.raises(ImportError, match=r"pip install avjax\[faces\]"):
        Corpus(faces=tmp_path / "cut").clips(tmp_path / "data")
