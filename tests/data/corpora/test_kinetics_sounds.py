"""Kinetics-Sounds: both layouts, splits, classes, what is left out, and the synthetic corpus in its layout."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from avjax.data import media
from avjax.data.corpora.kinetics_sounds import Corpus, scan
from experiments.synthetic import kinetics_sounds as synthetic

HEADER = "label,youtube_id,time_start,time_end,split\n"


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def splits(root: Path, **fields) -> dict[str, str]:
    return {clip.name: clip.split for clip in Corpus(**fields).clips(root)}


def test_splits_stand_in_folders(tmp_path: Path) -> None:
    put(
        tmp_path,
        "train/tap_dancing/AAAAAAAAAAA_000010_000020.mp4",
        "train/bowling/-_b_000000_000010.mp4",
        "val/bowling/CCCCCCCCCCC_000001_000011.mkv",
        "test/bowling/DDDDDDDDDDD_000001_000011.mp4",
    )
    corpus = Corpus()
    clips = corpus.clips(tmp_path)
    assert corpus.classes == {"action": ("bowling", "tap dancing")}
    assert [(clip.name, clip.split, clip.group, clip.labels["action"]) for clip in clips] == [
        ("bowling/-_b_000000_000010", "train", "-_b", 0),
        ("tap dancing/AAAAAAAAAAA_000010_000020", "train", "AAAAAAAAAAA", 1),
        ("bowling/CCCCCCCCCCC_000001_000011", "validation", "CCCCCCCCCCC", 0),
        ("bowling/DDDDDDDDDDD_000001_000011", "test", "DDDDDDDDDDD", 0),
    ]
    assert all(clip.audio == clip.video and clip.video.is_file() for clip in clips)


def test_splits_stand_in_tables(tmp_path: Path) -> None:
    put(tmp_path, "videos/a/A_000000_000010.mp4", "videos/a/B_000003_000013.mp4", "x/C_000000_000010.mp4")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(f"{HEADER}tap dancing,A,0,10,train\nbowling,Z,0,10,train\n")
    (tmp_path / "val.csv").write_text(f"{HEADER}bowling,B,3,13,validate\n,C,0,10,test\n")
    (tmp_path / "other.csv").write_text("id,name\n1,2\n")
    assert splits(tmp_path) == {"tap dancing/A_000000_000010": "train", "bowling/B_000003_000013": "test"}
    assert [(path.name, "no table" in reason) for path, reason in Corpus().strangers(tmp_path)] == [
        ("C_000000_000010.mp4", True)
    ]
    (tmp_path / "val.csv").write_text(f"{HEADER}bowling,B,soon,13,validate\n")
    with pytest.raises(ValueError, match=r"val\.csv, line 2: time_start 'soon'"):
        scan(tmp_path)


def test_without_a_test_split_validation_is_tested(tmp_path: Path) -> None:
    names = [f"train/a/{k:011d}_000000_000010.mp4" for k in range(300)]
    put(tmp_path, *names, "val/a/x_000000_000010.mp4", "train/a/00000000007_000010_000020.mp4")
    clips = Corpus(validation_share=0.2).clips(tmp_path)
    counts = collections.Counter(clip.split for clip in clips)
    assert counts["test"] == 1
    assert 30 < counts["validation"] < 90
    assert len({clip.split for clip in clips if clip.group == "00000000007"}) == 1
    fewer = tmp_path / names[0]
    fewer.unlink()
    before = {clip.name: clip.split for clip in clips}
    assert all(before[name] == split for name, split in splits(tmp_path, validation_share=0.2).items())


def test_a_source_is_in_one_split(tmp_path: Path) -> None:
    put(tmp_path, "train/a/A_000000_000010.mp4", "test/b/A_000030_000040.mp4", "val/a/B_000000_000010.mp4")
    assert splits(tmp_path) == {"b/A_000030_000040": "test", "a/B_000000_000010": "validation"}
    ((path, reason),) = Corpus().strangers(tmp_path)
    assert path.parent.name == "a"
    assert "its source A is in split test too" in reason


def test_classes_by_name_and_in_order(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/{name}/{split}{name}_000000_000010.mp4" for split in ("train", "val") for name in "abc"))
    corpus = Corpus(actions=("c", "a"))
    assert {clip.labels["action"] for clip in corpus.clips(tmp_path)} == {0, 1}
    assert corpus.classes == {"action": ("c", "a")}
    with pytest.raises(FileNotFoundError, match="no video of d; it has a, b, c"):
        Corpus(actions=("a", "d")).clips(tmp_path)


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Corpus().clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        Corpus().clips(tmp_path)
    put(tmp_path, "train/a/holiday.mp4", "a/A_000000_000010.mp4")
    with pytest.raises(FileNotFoundError, match="none of its 2 videos is a clip"):
        Corpus().clips(tmp_path)
    assert {reason.split(",")[0] for _, reason in Corpus().strangers(tmp_path)} == {
        "the name is not YOUTUBEID_SSSSSS_EEEEEE",
        "it is not in train/CLASS",
    }
    with pytest.raises(ValueError, match="a share"):
        Corpus(validation_share=1.0)


def test_the_synthetic_corpus_is_one(tmp_path: Path) -> None:
    options = synthetic.Options(tmp_path / "made", clips=4, seed=3, pixels=32, workers=1)
    assert synthetic.write(options) == 32
    corpus = Corpus()
    clips = corpus.clips(options.folder)
    assert len(corpus.classes["action"]) == 8
    assert not corpus.strangers(options.folder)
    counts = collections.Counter((clip.labels["action"], clip.split) for clip in clips)
    assert counts == {(k, split): n for k in range(8) for split, n in (("train", 2), ("validation", 1), ("test", 1))}
    decoded = media.decode(clips[0].video)
    assert decoded.video.images.shape == (24, 32, 32, 3)
    assert abs(decoded.audio.seconds - synthetic.SECONDS) < 0.01
    assert (options.folder / "SYNTHETIC").read_text().endswith("seed 3\n")
    with pytest.raises(SystemExit, match="not empty"):
        synthetic.write(options)


def test_every_motion_and_noise_leaves_actions_open() -> None:
    for part, most in ((0, [2, 2, 2, 2]), (1, [2, 3, 3])):
        counts = collections.Counter(action[part] for action in synthetic.ACTIONS)
        assert sorted(counts.values()) == most
    assert len(set(synthetic.ACTIONS)) == 8
