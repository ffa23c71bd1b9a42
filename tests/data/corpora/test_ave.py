"""AVE: both layouts, splits, labels by second, weak labels, what is wrong with a folder; and its synthetic corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avjax.data.corpora.ave import BACKGROUND, EVENTS, Annotation, Corpus, seconds_of
from avjax.data.prepare import prepare
from avjax.data.records import Records
from avjax.training.metrics.tasks import TASKS

h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra 'corpora'")

ROWS, NOISY = 6, 2
SPLITS = {"train": [4, 0, 2], "val": [1], "test": [5, 3]}


def save(path: Path, values, key: str = "avadataset") -> None:
    with h5py.File(path, "w") as file:
        file[key] = values


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six clips, of which the last has no event, and two of the noisy part; in ``data``, as the release has it."""
    folder = tmp_path / "ave" / "data"
    folder.mkdir(parents=True)
    labels = np.zeros((ROWS, 10, 29))
    for row in range(ROWS):
        last = 0 if row == ROWS - 1 else 3 + row
        labels[row, :last, 2 * row] = 1
        labels[row, last:, BACKGROUND] = 1
    save(folder / "labels.h5", labels)
    for noisy, count in (("", ROWS), ("_noisy", NOISY)):
        save(folder / f"audio_feature{noisy}.h5", rng.normal(size=(count, 10, 4)), "a" if noisy else "avadataset")
        save(folder / f"visual_feature{noisy}.h5", rng.normal(size=(count, 10, 2, 2, 3)).astype(np.float32))
    for split, rows in SPLITS.items():
        save(folder / f"{split}_order.h5", rows, "order")
    return folder.parent


def test_features_and_labels_by_second(folder: Path) -> None:
    clips = Corpus().clips(folder)
    assert [(clip.split, clip.name) for clip in clips] == [
        ("train", "0004"), ("train", "0000"), ("train", "0002"), ("validation", "0001"), ("test", "0005"),
        ("test", "0003"),
    ]  # fmt: skip
    for clip in clips:
        row = int(clip.name)
        series = {name: source.read() for name, source in clip.series.items()}
        assert {name: values.values.shape for name, values in series.items()} == {
            "audio": (10, 4), "video": (10, 2, 2, 3), "event": (10, 29), "eventness": (10, 1),
        }  # fmt: skip
        with h5py.File(folder / "data" / "audio_feature.h5") as file:
            np.testing.assert_allclose(series["audio"].values, file["avadataset"][row], rtol=1e-6)
        assert clip.labels == {"event": 2 * row if row < ROWS - 1 else ()}
        there = np.arange(10) < (3 + row if row < ROWS - 1 else 0)
        np.testing.assert_array_equal(series["eventness"].values[:, 0], there)
        np.testing.assert_array_equal(series["event"].values.argmax(1), np.where(there, 2 * row, BACKGROUND))
        assert {one.rate for one in series.values()} == {1.0}


def test_weak_labels_and_clips_without_an_event(folder: Path) -> None:
    clips = Corpus(weak=True).clips(folder)
    assert len(Corpus(weak=True).classes["event"]) == 29
    labels = {clip.name: clip.labels["event"] for clip in clips}
    assert (labels["0003"], labels["0005"]) == (6, BACKGROUND)
    noisy = [clip for clip in clips if clip.name.startswith("noisy")]
    assert [(clip.name, clip.split, labels[clip.name]) for clip in noisy] == [
        ("noisy-0000", "train", BACKGROUND), ("noisy-0001", "train", BACKGROUND),
    ]  # fmt: skip
    assert not noisy[0].series["eventness"].values.any()
    # What mil_labels.h5 says comes first; the picture's features have another name in the first release.
    save(folder / "data" / "mil_labels.h5", np.eye(29)[[3] * ROWS])
    (folder / "data" / "visual_feature_noisy.h5").rename(folder / "data" / "video_feature_noisy.h5")
    clips = Corpus(weak=True).clips(folder)
    assert [clip.labels["event"] for clip in clips if not clip.name.startswith("noisy")] == [3] * ROWS
    assert len(clips) == ROWS + NOISY


def test_it_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    data = folder / "data"
    with pytest.raises(FileNotFoundError, match=r"has no labels\.h5; give the folder of the feature package"):
        Corpus().clips(tmp_path)
    save(data / "test_order.h5", [0, ROWS], "order")
    with pytest.raises(ValueError, match=rf"test_order\.h5 names row {ROWS}, but labels\.h5 has {ROWS} rows"):
        Corpus().clips(folder)
    save(data / "audio_feature.h5", np.zeros((ROWS - 1, 10, 4)))
    with pytest.raises(ValueError, match=rf"different clips: labels {ROWS}, audio {ROWS - 1}, video {ROWS} rows"):
        Corpus().clips(folder)
    save(data / "audio_feature.h5", np.zeros((ROWS, 8, 4)))
    with pytest.raises(ValueError, match=r"\[6, 8, 4\], not \[N, 10, \.\.\.\]"):
        Corpus().clips(folder)
    with h5py.File(data / "labels.h5", "a") as file:
        file["more"] = [1]
    with pytest.raises(ValueError, match=r"should hold one data set; it holds avadataset, more"):
        Corpus().clips(folder)
    save(data / "labels.h5", np.zeros((ROWS, 10, 17)))
    with pytest.raises(ValueError, match=r"not \[N, 10, 29\]"):
        Corpus().clips(folder)
    (data / "labels.h5").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"labels\.h5 cannot be read as HDF5"):
        Corpus().clips(folder)


def test_videos_and_their_lists(tmp_path: Path) -> None:
    (tmp_path / "AVE").mkdir()
    for name in ("a_1", "b-2", "c", "left"):
        (tmp_path / "AVE" / f"{name}.mp4").touch()
    lines = "Category&VideoID&Quality&StartTime&EndTime\nBark&a_1&good&2&5\nBarc&c&good&0&10\n\nMandolin&a_1&good&7&9\n"
    (tmp_path / "trainSet.txt").write_text(lines)
    (tmp_path / "valSet.txt").write_text("Truck&b-2&good&0&0\nTruck&b-2&good&zero&10\nTruck&b-2\n")
    with pytest.raises(FileNotFoundError, match=r"lacks testSet\.txt; give the folder that holds AVE/"):
        Corpus(layout="videos").clips(tmp_path)
    (tmp_path / "testSet.txt").write_text("Bark&a_1&good&0&10\nViolin, fiddle&gone&good&0&10\n")
    corpus = Corpus(layout="videos")
    clips = {clip.name: clip for clip in corpus.clips(tmp_path)}
    found = [(name, clip.split, clip.group, clip.labels["event"]) for name, clip in clips.items()]
    assert found == [
        ("a_1", "train", "a_1", 2), ("a_1-2", "train", "a_1", 27), ("b-2", "validation", "b-2", ()),
        ("gone", "test", "gone", 7),
    ]  # fmt: skip
    assert clips["a_1"].audio == clips["a_1"].video == tmp_path / "AVE" / "a_1.mp4"
    np.testing.assert_array_equal(np.flatnonzero(clips["a_1"].series["eventness"].values), [2, 3, 4])
    reasons = {(path.name, reason) for path, reason in corpus.strangers(tmp_path)}
    assert reasons == {
        ("trainSet.txt", "line 3: no category 'Barc'; did they mean 'Bark'?"),
        ("valSet.txt", "line 2: start 'zero' and end '10' are not seconds"),
        ("valSet.txt", "line 3: 2 fields, not the five of Category&VideoID&Quality&StartTime&EndTime"),
        ("testSet.txt", "line 1: a_1 is in trainSet.txt too"),
        ("c.mp4", "no list of a split names it"),
        ("left.mp4", "no list of a split names it"),
    }


def test_a_second_has_what_fills_half_of_it() -> None:
    labels = seconds_of(Annotation(4, "x", 1.4, 3.5)).argmax(1)
    np.testing.assert_array_equal(labels, [BACKGROUND, 4, 4, 4, *[BACKGROUND] * 6])
    assert len(EVENTS) == len(set(EVENTS)) == 28


def test_the_synthetic_corpus_is_like_it(tmp_path: Path) -> None:
    """Its labels score 1 and the background its share, which is what is written of it; the records are marked."""
    from experiments.synthetic import ave as synthetic

    synthetic.write(synthetic.Options(tmp_path / "data", clips=100, noisy=5))
    report = prepare(Corpus(weak=True), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.synthetic
    assert report.counts == {"train": 75, "validation": 10, "test": 20}
    records = Records(tmp_path / "records")
    assert records.description.series["video"]["shape"] == [7, 7, 32]
    clips = [record for split in ("train", "validation", "test") for record in records.split(split)]
    event = np.stack([clip.series["event"].values for clip in clips]).astype(np.float32)
    for clip, rows in zip(clips, event, strict=True):
        assert clip.labels["event"] == (np.unique(rows.argmax(1))[0] if rows[:, :BACKGROUND].any() else BACKGROUND)
    background = np.broadcast_to(np.eye(29, dtype=np.float32)[BACKGROUND], event.shape)
    share = event[..., BACKGROUND].mean()

    def accuracy(predicted: np.ndarray) -> float:
        found = TASKS["segments"]({"event": predicted}, {"event": event}, {}, records.description, samples=10)
        return found["event/segment_accuracy"].value

    assert accuracy(event) == 1
    assert accuracy(background) == pytest.approx(share)
    assert synthetic.ceilings() == pytest.approx({"background": 0.56, "one modality": 0.692, "both": 1.0})
    drawn = [synthetic.draw(np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean([~(clip.heard & clip.seen) for clip in drawn]) == pytest.approx(0.56, abs=0.03)


def test_both_modalities_tell_the_event_and_neither_does(rng: np.random.Generator) -> None:
    """Strongest projections on the patterns: each modality tells one of two events, and other two."""
    from experiments.synthetic import ave as synthetic

    patterns, told = synthetic.Patterns(rng), []
    for event in range(synthetic.EVENTS):
        clip = synthetic.Clip(event, np.arange(10) < 6, np.arange(10) >= 2)
        audio, video = patterns.features(clip, rng)
        heard = (audio @ patterns.audio.T)[clip.heard].mean(0)
        seen = (video @ patterns.video.T)[clip.seen].max((1, 2)).mean(0)
        told.append((heard.argmax(), seen.argmax()))
        np.testing.assert_array_equal(np.flatnonzero(clip.labels[:, event]), [2, 3, 4, 5])
        assert clip.labels.sum() == 10
    assert told == [(event // 2, event % 4) for event in range(8)]
    assert len(set(told)) == 8
