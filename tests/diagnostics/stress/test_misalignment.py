"""Sound out of sync, and of other clips."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress.misalignment import OFFSETS, mismatched, out_of_sync, shifted, sync_sensitivity
from tests.fixtures.clips import made_clips, same_streams


def test_the_offsets_are_of_both_signs():
    assert sorted(OFFSETS) == [-1280, -640, -320, -160, -80, -40, 0, 40, 80, 160, 320, 640, 1280]


def test_the_sound_alone_is_read_anew(rng):
    clips, late = made_clips(rng), made_clips(rng)
    asked = []

    def read(seconds):
        asked.append(seconds)
        return type(clips)(late.streams, clips.label, clips.source, clips.index)

    found = out_of_sync(clips, -80.0, read)
    assert asked == [-0.08]
    assert found.streams["audio"] is late.streams["audio"]
    assert found.streams["video"] is clips.streams["video"]
    assert out_of_sync(clips, 0.0, read) is clips
    with pytest.raises(ValueError, match="other records"):
        out_of_sync(clips, 40.0, lambda seconds: late)


@pytest.mark.parametrize("milliseconds", [0.0, 1.0, 40.0, 599.0, 600.0, 5e3, -1.0, -40.0, -599.0, -600.0, -5e3])
def test_shifted_sound_leaves_silence(rng, milliseconds):
    clips = made_clips(rng, ragged=False)
    before, after = clips.streams["audio"].values, shifted(clips, milliseconds).streams["audio"].values
    expected = np.zeros_like(before)
    for step in range(600):
        if 0 <= step - milliseconds < 600:
            expected[:, step] = before[:, step - int(milliseconds)]
    np.testing.assert_array_equal(after, expected)


def test_shifted_sound_stays_within_what_is_there(rng):
    clips = made_clips(rng)
    found = shifted(clips, 40.0)
    np.testing.assert_array_equal(found.streams["audio"].valid, clips.streams["audio"].valid)
    assert np.isfinite(found.streams["audio"].values[found.streams["audio"].valid]).all()
    assert same_streams(shifted(clips, 0.0), clips)


def sources(clips, found):
    """Row of ``clips`` that each row's sound is of."""
    every = [values.tobytes() for values in clips.streams["audio"].values]
    return np.array([every.index(values.tobytes()) for values in found.streams["audio"].values])


@pytest.mark.parametrize("same_class", [True, False])
def test_a_share_of_the_clips_has_another_ones_sound(rng, same_class):
    clips = made_clips(rng, 20, classes=4, ragged=False)
    lower = None
    for rate in (0.0, 0.1, 0.25, 0.5, 1.0):
        found = mismatched(clips, rate, same_class=same_class, seed=6)
        order = sources(clips, found)
        exchanged = order != np.arange(20)
        assert exchanged.sum() == round(20 * rate)
        assert ((clips.label[order] == clips.label) == (same_class | ~exchanged)).all()
        if lower is not None:
            changed = lower != np.arange(20)
            np.testing.assert_array_equal(order[changed], lower[changed])
        lower = order
        assert found.streams["video"] is clips.streams["video"]
        np.testing.assert_array_equal(found.label, clips.label)


def test_partners_follow_from_the_records(rng):
    clips, turned = made_clips(rng, 20, ragged=False), rng.permutation(20)
    whole = mismatched(clips, 0.5, same_class=False, seed=6)
    assert same_streams(mismatched(clips.take(turned), 0.5, same_class=False, seed=6), whole.take(turned))


def test_who_has_no_sound_gives_none_and_gets_none(rng):
    clips = made_clips(rng, 12, ragged=False)
    silent = clips.streams["audio"].replace(valid=clips.streams["audio"].valid & (np.arange(12) != 3)[:, None])
    found = mismatched(clips.replace({"audio": silent}), 1.0, same_class=True).streams["audio"].valid
    np.testing.assert_array_equal(found.any(axis=1), np.arange(12) != 3)


def test_what_cannot_be_exchanged_is_told(rng):
    with pytest.raises(Undefined, match="single row"):
        mismatched(made_clips(rng, 3, ragged=False), 1.0, same_class=True)
    with pytest.raises(Undefined, match="half"):
        mismatched(made_clips(rng, 4, classes=1, ragged=False), 1.0, same_class=False)
    with pytest.raises(ValueError, match="rate"):
        mismatched(made_clips(rng), 2.0, same_class=True)


def test_sync_sensitivity_of_known_curves():
    distances = [40.0 * 2**step for step in range(6)]
    both = [sign * distance for sign in (-1, 1) for distance in distances]
    assert sync_sensitivity({0.0: 0.7, **dict.fromkeys(both, 0.7)}) == 0
    assert sync_sensitivity({0.0: 0.7, **dict.fromkeys(both, 0.0)}) == pytest.approx(1, abs=1e-15)
    # Accuracy falls in a line over ln|d|, from A(0) to half of it: a quarter is lost on average.
    line = {d: 0.8 * (1 - 0.5 * np.log(d / 40) / np.log(32)) for d in distances}
    assert sync_sensitivity({0.0: 0.8, **line}) == pytest.approx(0.25, abs=1e-14)
    # Only late sound hurts: half of it.
    late = {**line, **{-d: 0.8 for d in distances}}
    assert sync_sensitivity({0.0: 0.8, **late}) == pytest.approx(0.125, abs=1e-14)
    assert sync_sensitivity({0.0: 0.5, 40.0: 0.6, 80.0: 0.6}) < 0


def test_sync_sensitivity_may_have_no_value():
    with pytest.raises(Undefined, match="nothing is right"):
        sync_sensitivity({0.0: 0.0, 40.0: 0.0, 80.0: 0.0})
    with pytest.raises(Undefined, match="two distances"):
        sync_sensitivity({0.0: 0.5, 40.0: 0.5, -40.0: 0.5})
    with pytest.raises(ValueError, match="offset 0"):
        sync_sensitivity({40.0: 0.5, 80.0: 0.5})
