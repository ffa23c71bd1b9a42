"""Drift within a clip: models that look where they were made to look, moment by moment."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.diagnosis import arrays
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.shown import worst
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.time_drift import over_time, spans
from avjax.streams import Stream
from tests.diagnostics.protocol.planted_probe import TIER, probe_for
from tests.models.planted import MODALITIES, RATE, STEPS, Planted

# Two seconds in eight steps: 7 windows of two steps, each one step after the one before.
EARLY = np.repeat([1.0, 0.0], STEPS // 2)
TURNS = np.resize([1.0, 0.0], STEPS)


def looking(sound: np.ndarray, picture: np.ndarray) -> Planted:
    """A sum of the first channel, weighted step by step."""
    weight = {"audio": jnp.asarray(sound), "video": jnp.asarray(picture)}
    return Planted(lambda tokens: sum((tokens[m].values[..., 0] * weight[m]).sum(axis=1) for m in MODALITIES))


def clips_of(rows: int, *, jump: int | None = None) -> Clips:
    """Ones in the first channel; the pictures' second, which nothing looks at, steps up at ``jump``."""
    streams = {}
    for name in MODALITIES:
        values = np.zeros((rows, STEPS, 2), np.float32)
        values[..., 0] = 1
        if name == "video" and jump is not None:
            values[:, jump:, 1] = 1
        streams[name] = Stream(values, np.ones((rows, STEPS), bool), np.zeros(rows, np.float32), RATE)
    return Clips(streams, np.arange(rows) % 2, tuple(f"clip {row}" for row in range(rows)), np.arange(rows))


def study_of(model: Planted, clips: Clips) -> Study:
    return Study(probe_for(model), clips, TIER, resamples=20)


def values(found: Found) -> dict:
    return {(line.id.removeprefix("drift/"), line.group): line.value for line in found.lines}


def test_from_the_sound_to_the_pictures_half_way():
    """Two of six steps move: all on sound, half on either, all on pictures."""
    study = study_of(looking(EARLY, 1 - EARLY), clips_of(4, jump=STEPS // 2))
    found = over_time(study)
    of = values(found)
    # The printed answer of [1, 0] against [.5, .5].
    assert of["cmsd_time_allocation", None] == pytest.approx(2 * 0.31128 / 6, abs=1e-5)
    parts = sum(of["cmsd_time_localisation", name] for name in MODALITIES)
    assert of["cmsd_time_raw", None] == pytest.approx(of["cmsd_time_allocation", None] + parts, abs=1e-12)
    # Features are not re-encoded: nothing is below what moves.
    assert of["cmsd_time_floor", None] == 0
    assert of["cmsd_time", None] == pytest.approx(of["cmsd_time_raw", None] / of["cmsd_time_ceiling", None])
    assert 0 < of["cmsd_time", None] < 1
    # Two steps of one length, from end to end of which is everything.
    step = 6 * of["cmsd_time_raw", None] / 2
    assert of["path_length", None] == pytest.approx(2 * np.sqrt(step))
    assert of["wander", None] == pytest.approx(1 - 1 / (2 * np.sqrt(step)))
    # It moves where the pictures change, and there alone.
    assert of["content_following", None] == pytest.approx(1)
    assert of["unprovoked", None] == pytest.approx(0, abs=1e-12)
    kept = found.arrays[f"{arrays.TIME}localisation"]
    assert kept.shape == (4, 2)
    np.testing.assert_array_equal(found.arrays[f"{arrays.ROWS}{arrays.TIME}rate"], np.arange(4))


def test_turns_within_each_window_are_no_reallocation():
    """Every window has a step of each: what moves is where in the window, and the way ends where it began."""
    of = values(over_time(study_of(looking(TURNS, 1 - TURNS), clips_of(3))))
    assert of["cmsd_time_allocation", None] == pytest.approx(0, abs=1e-12)
    for name in MODALITIES:
        assert of["cmsd_time_localisation", name] == pytest.approx(0.5)
    assert of["cmsd_time_raw", None] == pytest.approx(1)
    assert of["wander", None] == pytest.approx(1)
    # Neighbours share no cell, and of all pairs some do: in its order it drifts more than in any.
    assert of["cmsd_time", None] == 1


def test_what_never_moves_says_so():
    found = over_time(study_of(looking(np.ones(STEPS), np.ones(STEPS)), clips_of(3)))
    of, why = values(found), {line.id: line.reason for line in found.lines}
    assert of["cmsd_time_raw", None] == pytest.approx(0, abs=1e-12)
    assert of["path_length", None] == pytest.approx(0, abs=1e-6)
    assert "windows of a clip differ by" in why["drift/cmsd_time"]
    assert "constant side" in why["drift/content_following"]


def test_clips_that_cannot_be_followed_are_counted():
    clips = clips_of(4)
    still = clips.streams["audio"].values.copy()
    # Of these two clips some windows have no saliency.
    still[:2, 4:] = 0
    seen = clips.streams["video"].replace(valid=np.arange(4)[:, None] * np.ones(STEPS) > 1.5)
    clips = clips.replace({"audio": clips.streams["audio"].replace(values=still), "video": seen})
    study = study_of(looking(np.ones(STEPS), np.ones(STEPS)), clips)
    found = over_time(study)
    (line,) = [line for line in found.lines if line.id == "drift/cmsd_time_raw"]
    assert line.n == 2
    assert "2 of 4 clips left out" in line.estimator
    np.testing.assert_array_equal(found.arrays[f"{arrays.ROWS}{arrays.TIME}rate"], [2, 3])
    # With neither of the others there is no number, and a reason.
    (line,) = over_time(dataclasses.replace(study, clips=clips.take([0, 1]))).lines
    assert (line.status, line.n) == ("skipped", 2)
    assert "of 2 clips none" in line.reason
    shown = {clip.name: clip for clip in worst(study)}
    assert shown["clip 0"].allocation is None


def test_windows_are_of_the_time_that_modalities_share():
    clips = clips_of(1)
    late = np.arange(STEPS) >= 2
    streams = {
        "audio": clips.streams["audio"].replace(valid=late[None], start=np.array([0.25], np.float32)),
        "video": clips.streams["video"].replace(valid=late[None, ::-1]),
    }
    clips = clips.replace(streams)
    assert spans(clips, 0) == {"audio": (0.75, 2.25), "video": (0.0, 1.5)}
    study = study_of(looking(np.ones(STEPS), np.ones(STEPS)), clips)
    (line, *_) = [line for line in over_time(study).lines if line.id == "drift/cmsd_time_raw"]
    # 0.75 s in 8 hops, of which a window has two.
    assert "windows of 0.19 s" in line.estimator


def test_a_plain_function_is_told():
    plain = FunctionProbe(MODALITIES, "label", ("no", "yes"), 8, lambda clips: np.zeros((len(clips), 2)))
    (line,) = over_time(Study(plain, clips_of(2), TIER)).lines
    assert line.status == "skipped"
    assert "no gradients" in line.reason


def test_the_page_shows_the_clip_over_time():
    study = study_of(looking(EARLY, 1 - EARLY), clips_of(2))
    for clip in worst(study):
        np.testing.assert_allclose(clip.middles, 0.25 * np.arange(1, 8))
        np.testing.assert_allclose(clip.allocation[:, 0], [1, 1, 1, 0.5, 0, 0, 0], atol=1e-6)
        np.testing.assert_allclose(clip.allocation.sum(axis=1), 1)
        assert set(np.flatnonzero(clip.drift > 1e-9)) == {2, 3}
