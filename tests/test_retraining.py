"""experiments/retraining.py: which clips it trains on, and how what comes of it is shown."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.data.pipeline import AudioSampling, Crop, Data, VideoSampling
from avjax.data.records import Records, verify
from avjax.diagnostics.clips import ClipReader
from avjax.diagnostics.fills import moments
from avjax.diagnostics.players import raw_players
from tests.fixtures.records import write_records

HEAD = "label"
SPLITS = ("train", "validation", "test")


@pytest.fixture
def program(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import retraining

    return retraining


@pytest.fixture
def data(tmp_path):
    records = write_records(tmp_path / "records", train=6, test=3, missing=False)
    return Data(str(records), batch=4, audio=AudioSampling(5360), video=VideoSampling(frames=2, rate=6.25))


def _read(data, split):
    reader = ClipReader(data, split, HEAD)
    return reader.read(reader.choose(None))


def _of(data, records):
    return Data(str(records), batch=4, audio=data.audio, video=data.video)


def test_clips_are_kept_exactly(program, data, tmp_path):
    """The window in the middle, wherever training would have cut one; what is there stays as it is."""
    out = tmp_path / "changed"
    program.changed_records(data, HEAD, out, lambda split, clips: clips)
    assert verify(out) == []
    for split in SPLITS:
        before, after = _read(data, split), _read(_of(data, out), split)
        np.testing.assert_array_equal(before.label, after.label)
        for modality in ("audio", "video"):
            np.testing.assert_array_equal(before.streams[modality].values, after.streams[modality].values)
            np.testing.assert_array_equal(before.streams[modality].valid, after.streams[modality].valid)
    records = Records(out)
    crop = Crop(_of(data, out), records.description)
    batch = crop.empty(3)
    for row, place in enumerate((0.0, 0.5, 1.0)):
        crop.fill(batch, row, records.split("train")[0], 0, place)
    for stream in batch.streams.values():
        np.testing.assert_array_equal(stream.values, stream.values[[1, 1, 1]])

    def refuse(split, clips):
        raise AssertionError(f"{split} is there already")

    program.changed_records(data, HEAD, out, refuse)


def test_what_is_removed_is_the_mean_and_nothing_else(program, data, tmp_path):
    train = _read(data, "train")
    players = raw_players(train.streams)
    means = {m: np.asarray(moments(train, m).mean, np.float32) for m in train.streams}
    kept = np.ones((len(train), len(players)), bool)
    kept[:, 0] = False
    kept[1, players.of("video")] = False
    program.changed_records(
        data, HEAD, tmp_path / "changed",
        lambda split, clips: program.removed(clips, kept, players, means) if split == "train" else clips,
    )  # fmt: skip
    found = _read(_of(data, tmp_path / "changed"), "train")
    for modality, step in (("audio", 1 / 32768), ("video", 1 / 255)):
        gone = ~kept[:, players.where[modality]]
        before, after = train.streams[modality].values, found.streams[modality].values
        np.testing.assert_array_equal(after[~gone], before[~gone])
        mean = np.broadcast_to(means[modality], before.shape)
        np.testing.assert_allclose(after[gone], mean[gone], atol=step)


def test_labels_change_and_nothing_else(program, data, tmp_path):
    program.changed_records(
        data, HEAD, tmp_path / "changed", lambda split, clips: dataclasses.replace(clips, label=1 - clips.label)
    )
    before, after = _read(data, "test"), _read(_of(data, tmp_path / "changed"), "test")
    np.testing.assert_array_equal(after.label, 1 - before.label)
    np.testing.assert_array_equal(after.streams["audio"].values, before.streams["audio"].values)


def test_orders(program, rng):
    saliency = rng.random((4, 6))
    assert (program.ordered(saliency, "explanation", seed=(0, 1)) == saliency).all()
    assert (program.ordered(saliency, "reversed", seed=(0, 1)).argmax(axis=1) == saliency.argmin(axis=1)).all()
    drawn = program.ordered(saliency, "random", seed=(0, 1))
    np.testing.assert_array_equal(drawn, program.ordered(-saliency, "random", seed=(0, 1)))
    assert (drawn != program.ordered(saliency, "random", seed=(0, 2))).all()


def test_where_parts_are_gone_may_tell_the_class(program, tmp_path):
    """A linear probe of the outlines: it knows the class where each has its own top, and nothing of random orders."""
    label = np.arange(64) % 4
    of = program.OfSeed(program.Options(out=tmp_path), 0)
    players = type("Players", (), {"groups": ("audio",) * 8})()
    told = np.eye(8)[label]
    of.__dict__.update(players=players, salient={"train": told, "test": told}, labels=dict.fromkeys(SPLITS, label))
    assert of.by_outline("explanation", 1 / 8).all()
    assert of.by_outline("random", 1 / 8).mean() < 0.6


def test_differences_are_of_the_same_clips(program):
    random = np.arange(100) % 2 == 0
    lower = program.against([random & (np.arange(100) % 3 > 0)], [random])
    assert (lower["said"], lower["value"]) == ("lower", pytest.approx(-0.17))
    assert program.against([random], [random])["said"] == "not told apart"
    assert program.against([np.ones(100, bool)], [random])["said"] == "higher"


def test_maps_that_are_constant_have_no_rank(program, rng):
    one = rng.random((3, 8, 8))
    one[1] = 0
    found = program.likeness("it", "audio", "another", one, one)
    for name in ("rank of it/audio/another", "SSIM of it/audio/another"):
        np.testing.assert_allclose(found[name], [1, np.nan, 1])
    assert list(program.likeness("it", "audio", "another", one[:, :1], one[:, :1])) == ["rank of it/audio/another"]


def test_tables_and_figures_have_every_row(program, tmp_path):
    interval = {"low": 0.25, "high": 0.75, "clips": 8}
    removed = [
        {"order": order, "share": share, "parts": "8 of 16, 8 of 16", "accuracy": 0.5, **interval}
        for order in ("explanation", "random")
        for share in (0.5, 0.0)
    ]
    removed[0]["outline"] = {"accuracy": 0.375, **interval}
    removed[0]["against_random"] = {"value": -0.5, **interval, "said": "lower"}
    alike = [
        {"measure": "rank of |x|", "modality": modality, "other": other, "value": 0.125, **interval}
        for modality in ("audio", "video")
        for other in ("permuted", "another", "floor")
    ]
    trained = [{"run": "permuted", "train": 0.5, "memorised": False, "accuracy": 0.125, **interval}]
    found = {"removed": removed, "alike": alike, "trained": trained}
    lines = program.tables(found).splitlines()
    assert sum("synthetic" in line for line in lines) == 3
    assert len(lines) == 4 + 1 + 3 + 1 + 4
    assert lines[3].startswith("| 50% | 8 of 16, 8 of 16 | 0.500 (0.250 to 0.750) |")
    assert lines[3].endswith("| -0.500 (+0.250 to +0.750), lower | 0.375 (0.250 to 0.750) |  |")
    assert lines[7] == "| permuted | 0.500 | no | 0.125 (0.250 to 0.750) |"
    assert lines[-1].startswith("| rank of \\|x\\| | video | +0.125")
    program.plot(found, tmp_path / "retraining.svg")
    assert "SYNTHETIC" in (tmp_path / "retraining.svg").read_text()
