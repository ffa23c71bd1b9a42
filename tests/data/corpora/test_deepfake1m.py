"""AV-Deepfake1M's reader, on hand-made lists; and the synthetic corpus in its layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avjax.data.corpora import SPLITS
from avjax.data.corpora.deepfake1m import Corpus, Entry
from experiments.synthetic import deepfake1m as writer


def item(file: str, kind: str = "real", segments: Any = None, **more: Any) -> dict[str, Any]:
    segments = ([] if kind == "real" else [[0.2, 0.6]]) if segments is None else segments
    facts = {"file": file, "original": str(Path(file).with_name("real.mp4")), "modify_type": kind}
    return facts | {"fake_segments": segments, "video_frames": 25} | more


def lay(root: Path, train: list[Any], val: list[Any], absent: tuple[str, ...] = ()) -> Path:
    for split, items in (("train", train), ("val", val)):
        (root / f"{split}_metadata.json").write_text(json.dumps(items))
        for one in items:
            if isinstance(one, dict) and isinstance(one.get("file"), str) and one["file"] not in absent:
                path = root / split / one["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return root


def test_clips_of_both_lists(tmp_path: Path) -> None:
    train = [
        item("id00001/a/00001/real.mp4"),
        item("id00001/a/00001/fake.mp4", "audio_modified"),
        item("lrs3/id00002/b/fake.mp4", "both-modified"),
    ]
    val = [item(f"id1000{k}/c/real.mp4") for k in range(8)]
    clips = Corpus().clips(lay(tmp_path, train, val))
    assert [clip.labels["fake"] for clip in clips] == [0, 1, 1] + [0] * 8
    assert [clip.group for clip in clips[:3]] == ["id00001", "id00001", "id00002"]
    assert [clip.split for clip in clips[:3]] == ["train"] * 3
    assert {clip.split for clip in clips[3:]} == {"validation", "test"}
    assert clips[1].name == "train/id00001/a/00001/fake"
    assert clips[1].audio == clips[1].video == tmp_path / "train" / "id00001/a/00001/fake.mp4"
    kinds = Corpus(head="modify_type")
    assert [kinds.classes["modify_type"][clip.labels["modify_type"]] for clip in kinds.clips(tmp_path)[:3]] == [
        "real", "audio_modified", "both_modified",
    ]  # fmt: skip
    assert Corpus().strangers(tmp_path) == []


def test_an_identity_never_crosses_splits(tmp_path: Path) -> None:
    train = [item(f"id{k:05d}/a/real.mp4") for k in range(20)]
    val = [item(f"id{k:05d}/b/real.mp4") for k in range(10, 30)]
    lay(tmp_path, train, val)
    lists = Corpus()
    clips = lists.clips(tmp_path)
    assert {clip.group for clip in clips if clip.split != "train"} == {f"id{k:05d}" for k in range(20, 30)}
    left = lists.strangers(tmp_path)
    assert len(left) == 10
    assert all("in training as well" in reason for _, reason in left)
    both = Corpus(protocol="identities", test=0.2).clips(tmp_path)
    assert len(both) == 40
    splits: dict[str, str] = {}
    assert all(splits.setdefault(clip.group, clip.split) == clip.split for clip in both)
    assert set(splits.values()) == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("segments", "rate", "wanted"),
    [
        ([[0.2, 0.6]], 10.0, [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]),
        # An element counts where half of it is forged: 0.05 s here, which the first has and the last has not.
        ([[0.25, 0.54]], 10.0, [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]),
        ([[0.0, 0.2], [0.8, 1.0]], 5.0, [1, 0, 0, 0, 1]),
        ([[0.8, 1.4]], 5.0, [0, 0, 0, 0, 1, 1, 1]),  # beyond what the frames say
    ],
)
def test_the_series_says_when(segments: Any, rate: float, wanted: list[int], tmp_path: Path) -> None:
    entry = Entry.of(item("id1/a/fake.mp4", "visual_modified", segments))
    np.testing.assert_array_equal(entry.forged(rate)[:, 0], wanted)
    lay(tmp_path, [item("id1/a/fake.mp4", "visual_modified", segments)], [])
    (clip,) = Corpus(rate=rate).clips(tmp_path)
    series = clip.series["fake"].read()
    assert (series.rate, series.values.shape, series.values.dtype) == (rate, (len(wanted), 1), np.float32)


def test_other_spellings() -> None:
    plain = item("id1/a/fake.mp4", "audio_modified")
    segments = plain.pop("fake_segments")
    for other in ({"fake_periods": segments}, {"audio_fake_segments": segments, "visual_fake_segments": []}):
        np.testing.assert_array_equal(Entry.of(plain | other).segments, [[0.2, 0.6]])
    # Without an original the folder of the file says who it is; without idNNNNN its first one.
    assert Entry.of(item("someone/a/real.mp4", original=None)).identity == "someone"
    # Without a number of frames a clip lasts at least until its last forged second.
    assert Entry.of(plain | {"fake_segments": segments, "video_frames": None}).seconds == 0.6


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (item("id1/a.mp4", "swapped"), "modify_type 'swapped'"),
        (item("id1/a.mp4", "real", [[0.1, 0.2]]), "real, with 1 forged"),
        (item("id1/a.mp4", "audio_modified", []), "audio_modified, with 0 forged"),
        (item("id1/a.mp4", "audio_modified", [[0.5, 0.2]]), "do not begin before they end"),
        (item("id1/a.mp4", "audio_modified", [[0.5]]), "no pairs of seconds"),
        (item("id1/a.mp4", "audio_modified", "soon"), "no pairs of seconds"),
        ({"modify_type": "real"}, "without a file"),
        ("id1/a.mp4", "without a file"),
    ],
)
def test_a_wrong_item_is_left_out(wrong: Any, says: str, tmp_path: Path) -> None:
    lay(tmp_path, [item("id1/b.mp4"), wrong], [])
    assert [clip.name for clip in Corpus().clips(tmp_path)] == ["train/id1/b"]
    assert any(says in reason for _, reason in Corpus().strangers(tmp_path))


def test_what_is_said_of_files(tmp_path: Path) -> None:
    lay(tmp_path, [item("id1/a.mp4"), item("id1/a.mp4"), item("id1/gone.mp4")], [], absent=("id1/gone.mp4",))
    (tmp_path / "train" / "id1" / "new.mp4").touch()
    assert [reason for _, reason in Corpus().strangers(tmp_path)] == [
        "named twice", "there is no such file", "no list names it",
    ]  # fmt: skip


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_metadata\.json.*hand in the folder"):
        Corpus().clips(tmp_path)
    lay(tmp_path, [item("id1/gone.mp4")], [], absent=("id1/gone.mp4",))
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        Corpus().clips(tmp_path)
    (tmp_path / "val_metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="not a list"):
        Corpus().clips(tmp_path)
    (tmp_path / "val_metadata.json").write_text("[{")
    with pytest.raises(ValueError, match="is no JSON"):
        Corpus().clips(tmp_path)
    with pytest.raises(ValueError, match="test a share"):
        Corpus(test=1.5)


def test_takes_of_the_synthetic_corpus() -> None:
    options = writer.Options(Path("nowhere"), clips=400, people=8)
    takes = writer.plan(options)
    assert len(takes) == 100
    assert takes == writer.plan(options)
    for take in takes:
        heard, seen = (np.array(words) != np.array(take.said) for words in (take.heard, take.seen))
        np.testing.assert_array_equal(heard, seen)
        assert 1 <= heard.sum() <= 3
        assert (np.array(take.heard) != np.array(take.seen))[heard].all()
        real, audio, visual, both = take.items()
        assert real["fake_segments"] == []
        assert audio["audio_fake_segments"] == visual["fake_segments"]
        assert both["fake_segments"] == both["audio_fake_segments"] == both["visual_fake_segments"]
        for entry in map(Entry.of, (audio, visual, both)):
            np.testing.assert_array_equal(entry.forged(1 / writer.SLOT)[:, 0], heard)
    splits = {Corpus().split_of(take.identity, take.split) for take in takes}
    assert splits == {"train", "validation", "test"}
    # A replaced word is as likely as any other: neither side tells by its words alone.
    new = [b for take in takes for a, b in zip(take.said, take.heard, strict=True) if a != b]
    counts = np.bincount(new, minlength=len(writer.WORDS))
    assert counts.min() > 0


def test_forging_changes_its_part_alone() -> None:
    pytest.importorskip("espeakng_loader")
    options = writer.Options(Path("nowhere"), clips=4, people=3, pixels=32)
    take = writer.Take("train", "id00001", 0, 1, (0, 1, 2, 3, 4, 5), (0, 1, 7, 3, 4, 5), (0, 1, 9, 3, 4, 5))
    forged, nothing = [word == 2 for word in range(6)], [False] * 6
    voice = writer.actors.voice(writer.Knobs(), take.actor)
    for traces in (0.0, 1.0):
        real = writer.sound(voice, take.said, nothing, 0)
        fake = writer.sound(voice, take.heard, forged, traces)
        rate = writer.speech.RATE
        inside = slice(round(2 * writer.SLOT * rate), round(3 * writer.SLOT * rate))
        changed = np.flatnonzero(real != fake)
        assert inside.start <= changed[0]
        assert changed[-1] < inside.stop
        assert len(changed) > 1000
        options = dataclasses.replace(options, traces=traces)
        seen = writer.pictures(take, take.said, nothing, options), writer.pictures(take, take.seen, forged, options)
        differs = (seen[0] != seen[1]).any(axis=(1, 2, 3))
        # The lips prepare a word a little ahead, and leave it a little late.
        assert differs[20:30].mean() > 0.5
        assert not differs[:17].any()
        assert not differs[33:].any()


def test_the_written_corpus_is_read(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    made = writer.write(writer.Options(tmp_path, clips=12, people=3, pixels=32, workers=1))
    corpus = Corpus()
    clips = corpus.clips(tmp_path)
    assert made == len(clips) == 12
    assert corpus.strangers(tmp_path) == []
    assert "seed 0" in (tmp_path / "SYNTHETIC").read_text()
    assert {clip.split for clip in clips} == set(SPLITS)
    found = writer.media.decode(clips[1].audio)
    assert found.video.images.shape == (60, 32, 32, 3)
    assert abs(found.audio.seconds - writer.SECONDS) < 0.1
