"""Missing rates and missing steps: how many, which, and the area under a curve."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from avjax.diagnostics.fills import absent, moments
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress.missing import RATES, area, frames_missing, lacking, missing
from tests.fixtures.clips import made_clips, same_streams


def test_as_many_clips_lack_something_as_the_rate_says(rng):
    clips = made_clips(rng, 20)
    for rate in RATES:
        one = lacking(clips, ["audio"], rate, seed=4)
        assert one["audio"].sum() == round(20 * rate)
        half = lacking(clips, ["audio", "video"], rate, seed=4)
        assert not (half["audio"] & half["video"]).any()
        np.testing.assert_array_equal(half["audio"] | half["video"], one["audio"])
        assert 0 <= half["audio"].sum() - half["video"].sum() <= 1


def test_a_higher_rate_adds_to_a_lower_one(rng):
    clips = made_clips(rng, 20)
    tables = [lacking(clips, ["audio", "video"], rate, seed=4) for rate in RATES]
    for one, other in itertools.pairwise(tables):
        assert all((one[name] <= other[name]).all() for name in one)


def test_who_lacks_follows_from_the_record(rng):
    clips, turned = made_clips(rng, 20), rng.permutation(20)
    whole, again = lacking(clips, ["video"], 0.4, seed=1), lacking(clips.take(turned), ["video"], 0.4, seed=1)
    np.testing.assert_array_equal(whole["video"][turned], again["video"])
    other = [lacking(clips, ["video"], 0.4, seed=seed)["video"].tolist() for seed in range(8)]
    assert len({tuple(row) for row in other}) > 1


@pytest.mark.parametrize("fill", ["drop", "zero", "mean", "noise", "marginal"])
def test_those_who_lack_are_as_the_fill_leaves_them(rng, fill):
    clips = made_clips(rng, 12)
    found = missing(clips, ["audio", "video"], 0.5, fill, seed=3)
    # The moments are those of all clips, whoever lacks.
    for name, rows in lacking(clips, ["audio", "video"], 0.5, seed=3).items():
        gone = np.flatnonzero(rows)
        left = np.flatnonzero(~rows)
        expected = absent(clips, name, fill, seed=3).streams[name]
        for row in gone:
            valid = expected.valid[row]
            np.testing.assert_array_equal(found.streams[name].valid[row], valid)
            np.testing.assert_array_equal(found.streams[name].values[row][valid], expected.values[row][valid])
        kept = clips.streams[name].valid[left]
        np.testing.assert_array_equal(found.streams[name].values[left][kept], clips.streams[name].values[left][kept])


def test_no_rate_and_all_of_it(rng):
    clips = made_clips(rng)
    assert same_streams(missing(clips, ["audio", "video"], 0.0, "drop"), clips)
    assert same_streams(missing(clips, ["audio"], 1.0, "drop"), absent(clips, "audio", "drop"))
    with pytest.raises(ValueError, match="missing rate"):
        missing(clips, ["audio"], 1.5, "drop")
    with pytest.raises(ValueError, match="no modality"):
        missing(clips, [], 0.5, "drop")


def runs(gone: np.ndarray) -> int:
    return int((np.diff(np.concatenate([[0], gone.astype(int)])) == 1).sum())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("pattern", ["block", "random"])
def test_a_share_of_the_frames_goes(rng, share, pattern):
    clips = made_clips(rng, 12)
    found = frames_missing(clips, "video", share, pattern, seed=2).streams["video"]
    for before, after in zip(clips.streams["video"].valid, found.valid, strict=True):
        assert (before & ~after).sum() == round(share * before.sum())
        assert not (after & ~before).any()
        if pattern == "block":
            assert runs(before & ~after) <= 1


def test_sound_goes_in_chunks(rng):
    clips = made_clips(rng, 12, ragged=False)
    gone = ~frames_missing(clips, "audio", 0.5, "random", seed=2).streams["audio"].valid
    # 0.6 s at 1 kHz: six chunks of 100 samples.
    chunks = gone.reshape(12, 6, 100)
    assert (chunks.all(axis=2) == chunks.any(axis=2)).all()
    assert (gone.sum(axis=1) == 300).all()
    block = ~frames_missing(clips, "audio", 0.5, "block", seed=2).streams["audio"].valid
    assert [runs(row) for row in block] == [1] * 12
    assert len({int(row.argmax()) for row in block}) > 1


def test_missing_steps_may_be_silent(rng):
    clips = made_clips(rng, ragged=False)
    found = frames_missing(clips, "audio", 0.5, "block", "zero").streams["audio"]
    assert found.valid.all()
    assert ((found.values == 0).sum(axis=1) == 300).all()
    with pytest.raises(ValueError, match="share"):
        frames_missing(clips, "audio", -0.1, "block")


def test_the_area_of_known_curves(rng):
    assert area(RATES, np.full(11, 0.8)) == pytest.approx(0.8, abs=1e-15)
    assert area(RATES, np.linspace(0.9, 0.3, 11)) == pytest.approx(0.6, abs=1e-15)
    assert area([0.0, 0.5, 1.0], np.array([1.0, 0.0, 0.0])) == 0.25
    uneven = np.sort(rng.random(5))
    assert area(uneven.tolist(), 2 - uneven) == pytest.approx(2 - (uneven[0] + uneven[-1]) / 2, rel=1e-12)
    with pytest.raises(Undefined, match="two rates"):
        area([0.5], np.array([1.0]))


@pytest.mark.parametrize("pattern", ["block", "random"])
def test_steps_that_go_are_at_the_mean_that_is_given(rng, pattern):
    clips = made_clips(rng, 6)
    video = clips.streams["video"]
    known = moments(clips.take(np.arange(3)), "video")
    found = frames_missing(clips, "video", 0.5, pattern, "mean", seed=2, of=known).streams["video"]
    dropped = frames_missing(clips, "video", 0.5, pattern, seed=2).streams["video"]
    gone = video.valid & ~dropped.valid
    assert gone.any()
    np.testing.assert_array_equal(found.valid, video.valid)
    np.testing.assert_allclose(found.values[gone], np.broadcast_to(known.mean, video.values.shape)[gone], rtol=1e-6)
    np.testing.assert_array_equal(found.values[video.valid & ~gone], video.values[video.valid & ~gone])
