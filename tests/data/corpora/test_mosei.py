"""MOSI and MOSEI: both layouts of their files, padding at either end, labels that are none, what is no such file."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avjax.data.corpora import mosei
from avjax.data.pipeline import Data, SeriesSampling, evaluation_batches
from avjax.data.prepare import prepare
from avjax.data.unpickle import PickleRefused, read_pickle
from experiments.synthetic import mosei as synthetic

WIDTHS = {"text": 4, "audio": 3, "vision": 2}


def features(rng: np.random.Generator, rows: int, steps: dict[str, int]) -> dict[str, np.ndarray]:
    """Numbers of which none is 0."""
    return {key: rng.uniform(1, 2, (rows, steps[key], WIDTHS[key])).astype(np.float32) for key in WIDTHS}


def mmsa(rng: np.random.Generator, rows: int = 3, steps: dict[str, int] | None = None, **extra: Any) -> dict[str, Any]:
    """A split as MMSA writes it."""
    video = video_id(rng)
    return {
        **features(rng, rows, steps or {"text": 5, "audio": 10, "vision": 8}),
        "id": [f"{video}$_${row}" for row in range(rows)],
        "raw_text": np.array(["some words"] * rows, object),
        "regression_labels": np.linspace(-3, 3, rows, dtype=np.float32),
        "annotations": np.array(["Negative"] * rows, object),
        **extra,
    }


def mult(rng: np.random.Generator, rows: int = 3, steps: int = 5, columns: int = 1) -> dict[str, Any]:
    """A split as MulT writes it."""
    video = video_id(rng)
    return {
        **features(rng, rows, dict.fromkeys(WIDTHS, steps)),
        "labels": rng.uniform(-3, 3, (rows, 1, columns)),
        "id": np.array([[f"{video}[{row}]".encode(), b"0.5", b"1.5"] for row in range(rows)]),
    }


def video_id(rng: np.random.Generator) -> str:
    """The id of a video."""
    return f"video{rng.integers(1e9)}"


def write(path: Path, make: Any, **changes: dict[str, Any]) -> Path:
    """The three splits in a file; its folder."""
    splits = {split: make() | changes.get(split, {}) for split in ("train", "valid", "test")}
    path.write_bytes(pickle.dumps(splits, protocol=4))
    return path.parent


def test_mmsa_s_layout(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write(tmp_path / "unaligned_50.pkl", lambda: mmsa(rng))
    clips = mosei.Corpus().clips(root)
    assert [clip.split for clip in clips] == ["train"] * 3 + ["validation"] * 3 + ["test"] * 3
    assert [clip.cues["sentiment"] for clip in clips[:3]] == [-3, 0, 3]
    assert [mosei.POLARITIES[clip.labels["polarity"]] for clip in clips[:3]] == ["negative", "neutral", "positive"]
    assert len({clip.group for clip in clips}) == 3
    assert len({clip.name for clip in clips}) == 9
    assert clips[0].group.startswith("video")
    assert clips[0].name == f"train-00000-{clips[0].group}$_$0"
    assert not mosei.Corpus().strangers(root)
    whole = read_pickle(tmp_path / "unaligned_50.pkl")
    for split, name in (("train", "train"), ("valid", "validation"), ("test", "test")):
        for row, clip in enumerate(clip for clip in clips if clip.split == name):
            for key, ours in (("text", "text"), ("audio", "audio"), ("vision", "video")):
                series = clip.series[ours].read()
                assert np.array_equal(series.values, whole[split][key][row])
                # As long as the text, whatever the number of steps.
                assert series.end == 5


def test_mult_s_layout(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write(tmp_path / "mosi_data.pkl", lambda: mult(rng))
    clips = mosei.Corpus().clips(root)
    whole = read_pickle(tmp_path / "mosi_data.pkl")
    assert np.allclose([clip.cues["sentiment"] for clip in clips[:3]], whole["train"]["labels"].ravel())
    assert {f"{clip.group}[0]".encode() for clip in clips} == {whole[split]["id"][0, 0] for split in whole}
    assert clips[4].name == f"validation-00001-{clips[4].group}[1]-0.5-1.5".replace("validation", "valid")


def test_emotions_are_read_where_a_file_has_them(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write(tmp_path / "a.pkl", lambda: mult(rng, columns=7))
    whole = read_pickle(tmp_path / "a.pkl")
    corpus = mosei.Corpus(emotions=True)
    assert list(corpus.classes) == ["polarity", "emotion"]
    labels = [clip.labels["emotion"] for clip in corpus.clips(root) if clip.split == "train"]
    assert labels == [tuple(np.flatnonzero(row > 0)) for row in whole["train"]["labels"][:, 0, 1:]]
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="1 labels a clip; sentiment and six emotions are 7"):
        corpus.clips(write(tmp_path / "other" / "b.pkl", lambda: mult(rng)))


def test_clips_without_an_id_are_groups_of_their_own(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write(tmp_path / "a.pkl", lambda: {key: value for key, value in mult(rng).items() if key != "id"})
    assert len({clip.group for clip in mosei.Corpus().clips(root)}) == 9


def padded(part: dict[str, Any], lengths: dict[str, list[int]], front: bool) -> dict[str, Any]:
    """With zeros where a row is shorter than the room."""
    for key, numbers in lengths.items():
        for row, length in enumerate(numbers):
            room = part[key].shape[1]
            part[key][row, slice(0, room - length) if front else slice(length, room)] = 0
    return part


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("said", [False, True])
def test_padding_is_not_there(front: bool, said: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    """At either end, by the lengths that a file states or by its zeros."""
    lengths = {"text": [5, 2, 1], "audio": [1, 10, 7], "vision": [8, 3, 5]}
    whole = {split: padded(mmsa(rng), lengths, front) for split in ("train", "valid", "test")}
    for part in whole.values():
        # Within its length a clip may have a step of zeros.
        part["audio"][1, 5] = 0
        if said:
            part |= {f"{key}_lengths": lengths[key] for key in ("audio", "vision")}
            part["text_bert"] = np.zeros((3, 3, 5))
            for row, length in enumerate(lengths["text"]):
                part["text_bert"][row, 1, slice(5 - length, 5) if front else slice(length)] = 1
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(whole))
    for row, clip in enumerate(mosei.Corpus().clips(tmp_path)[:3]):
        for key, ours in (("text", "text"), ("audio", "audio"), ("vision", "video")):
            there = whole["train"][key][row]
            there = there[len(there) - lengths[key][row] :] if front else there[: lengths[key][row]]
            assert np.array_equal(clip.series[ours].read().values, there)


def test_aligned_steps_stay_aligned(tmp_path: Path, rng: np.random.Generator) -> None:
    """All three are cut where the longest of them ends, and one that is not there at all says so."""
    lengths = {"text": [4, 3, 5], "audio": [2, 3, 0], "vision": [3, 1, 2]}
    whole = {split: padded(mult(rng), lengths, front=True) for split in ("train", "valid", "test")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(whole))
    clips = mosei.Corpus().clips(tmp_path)
    for row, clip in enumerate(clips[:3]):
        longest = max(numbers[row] for numbers in lengths.values())
        for key, ours in (("text", "text"), ("audio", "audio"), ("vision", "video")):
            assert np.array_equal(clip.series[ours].read().values, whole["train"][key][row, 5 - longest :])
    nothing = mmsa(rng)
    nothing["audio"][:] = 0
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"train": nothing, "valid": mmsa(rng), "test": mmsa(rng)}))
    series = mosei.Corpus(file="b.pkl").clips(tmp_path)[0].series["audio"].read()
    assert series.values.shape == (1, 3)
    assert not series.valid.any()


def test_labels_that_are_none_are_told_and_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    part = mmsa(rng, rows=4, regression_labels=[1.0, np.nan, -3.4, -1.0])
    root = write(tmp_path / "a.pkl", lambda: mmsa(rng), valid=part)
    kept = [clip.cues["sentiment"] for clip in mosei.Corpus().clips(root) if clip.split == "validation"]
    assert kept == [1, -1]
    reasons = [reason for _, reason in mosei.Corpus().strangers(root)]
    assert reasons == [f"valid, row {row}: its sentiment is {value}, not a number from -3 to 3"
                       for row, value in ((1, "nan"), (2, "-3.4"))]  # fmt: skip


def test_what_is_no_such_file_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    corpus = mosei.Corpus()
    with pytest.raises(FileNotFoundError, match=r"holds no \.pkl file"):
        corpus.clips(tmp_path)
    good = mmsa(rng)

    def all_three(**changes: Any) -> dict[str, Any]:
        return dict.fromkeys(("train", "valid", "test"), good | changes)

    wrong = {
        "has not the parts train, valid, test but a list": [1],
        "has not the parts train, valid, test but train": {"train": good},
        "valid has not text, audio, vision but text": {"train": good, "valid": {"text": good["text"]}, "test": good},
        "test, audio: list, not numbers": {"train": good, "valid": good, "test": good | {"audio": [1, 2, 3]}},
        r"train, text: object \(3,\), not numbers": all_three(text=good["raw_text"]),
        "3 of text, 2 of audio, 3 of vision": all_three(audio=good["audio"][:2]),
        "train: no number a clip": all_three(regression_labels=None),
    }  # fmt: skip
    for number, (says, whole) in enumerate(wrong.items()):
        file = tmp_path / f"{number}.pkl"
        file.write_bytes(pickle.dumps(whole))
        with pytest.raises(ValueError, match=says):
            mosei.Corpus(file=file.name).clips(tmp_path)
    with pytest.raises(ValueError, match=r"holds 0\.pkl, 1\.pkl, .*name one of them"):
        corpus.clips(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"train": np.load}))
    with pytest.raises(PickleRefused, match=r"a\.pkl: .* names 'numpy\.load'"):
        mosei.Corpus(file="a.pkl").clips(tmp_path)


def test_a_bad_clip_is_reported_and_the_rest_is_prepared(tmp_path: Path, rng: np.random.Generator) -> None:
    """Numbers that are not finite are 0 and told; windows of the three modalities cover the same time."""
    part = padded(mmsa(rng, audio_lengths=[10, 4]), {"audio": [10, 4, 10]}, front=False)
    part["audio"][0, 3, 1] = -np.inf
    root = write(tmp_path / "a.pkl", lambda: mmsa(rng), train=part)
    report = prepare(mosei.Corpus(), root, tmp_path / "records", workers=1, progress=False)
    assert report.counts == {"train": 2, "validation": 3, "test": 3}
    assert [bad["name"][:11] for bad in report.bad] == ["train-00002"]
    assert "not finite" in report.warnings[0]["warning"]
    many = dataclasses.replace(report, warnings=[*report.warnings] * 60)
    assert "Decoded in part: 60" in many.text()
    assert "  and 10 more, in report.json" in many.text()
    description = json.loads((tmp_path / "records" / "dataset.json").read_text())
    assert {name: facts["rate"] for name, facts in description["series"].items()} == {
        "text": 1.0, "audio": 2.0, "video": 1.6,
    }  # fmt: skip
    data = Data(
        records=str(tmp_path / "records"), batch=3, values=("sentiment",),
        features={"text": SeriesSampling(5), "audio": SeriesSampling(10), "video": SeriesSampling(8)},
    )  # fmt: skip
    batch = next(evaluation_batches(data, "train")[1])
    assert batch.streams["audio"].valid.sum(axis=1).tolist() == [10, 4, 0]
    assert batch.streams["text"].valid.sum(axis=1).tolist() == [5, 5, 0]
    assert batch.streams["audio"].values[0, 3, 1] == 0
    assert np.array_equal(batch.streams["video"].values[:2], part["vision"][:2])
    assert batch.target["values"][:, 0].tolist() == [-3, 0, 0]


def test_the_synthetic_corpus_is_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthetic.write(synthetic.Options(tmp_path, clips=53, seed=1))
    assert "53 clips" in capsys.readouterr().out
    assert "seed 1" in (tmp_path / "SYNTHETIC").read_text()
    clips = mosei.Corpus().clips(tmp_path)
    assert len(clips) == 53
    assert all(len({clip.split for clip in clips if clip.group == group}) == 1 for group in {c.group for c in clips})
    lengths = [[len(clip.series[name].read()) for name in ("text", "audio", "video")] for clip in clips]
    assert all(6 <= text <= 12 and audio == 30 * text // 12 and video == 2 * text for text, audio, video in lengths)
    part = read_pickle(tmp_path / "unaligned_50.pkl")["train"]
    means = [sum(synthetic.MEANINGS.get(word, 0) for word in text.split()) for text in part["raw_text"]]
    assert set(means) <= {-2, -1, 0, 1, 2}
    assert part["annotations"].tolist() == [
        ["Negative", "Neutral", "Positive"][int(number)] for number in part["classification_labels"]
    ]


def test_what_each_modality_of_the_synthetic_corpus_is_worth(rng: np.random.Generator) -> None:
    """Of E[y] given what is had, with var s w = 2 and var f = 2/3: correlation = sqrt(var E / var y)."""
    found = synthetic.ceilings([synthetic.draw(rng) for _ in range(3000)])
    variance = 2 + 2 / 3 + synthetic.RATERS**2 + 1 / 108  # and that of rounding to thirds
    expected = {"text": 0.5, "audio": 0, "video": 2 / 3, "text and audio": 2, "text and video": 7 / 6, "all": 8 / 3}
    for name, explained in expected.items():
        # Five deviations of a correlation, and a little for sentiments that are cut at 3.
        assert found[name][1] == pytest.approx(np.sqrt(explained / variance), abs=0.08), name
    pairs = [found[name][0] for name in ("text and video", "text and audio")]
    assert found["all"][0] < 0.2 < 0.55 < min(pairs) < max(pairs) < 0.85 < found["text"][0]
