"""Where the truth is planted, a model that uses it points at it, and one that does not is told to have no map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import hypergeom

from avjax.data.truth import Region
from avjax.diagnostics.measured import Condition
from avjax.diagnostics.protocol.pointing import held_against, pointed, pointing
from tests.diagnostics.protocol import raw_probe
from tests.diagnostics.protocol.planted_probe import study_of
from tests.diagnostics.ranges import out_of_range
from tests.models.planted import MODALITIES, RATE, STEPS

TIER = {"pointed": None}


def told(study, of=MODALITIES, steps=1):
    """The study with the step of each cue known, or with so many from it on."""
    step = {m: np.abs(np.asarray(study.clips.streams[m].values)[..., 0]).argmax(axis=1) for m in of}
    truth = tuple(
        {m: Region(seconds=((float(step[m][row]) / RATE, float(step[m][row] + steps) / RATE),)) for m in of}
        for row in range(len(study.clips))
    )
    clips = dataclasses.replace(study.clips, truth=truth)
    return dataclasses.replace(study, clips=clips, tier=dataclasses.replace(study.tier, pointed=None))


def by_name(lines):
    """By metric, modality and explanation."""
    return {(line.id.split("/")[1], line.group, line.estimator.split(",")[0]): line for line in lines}


def test_what_is_used_is_pointed_at(rng):
    """T1: every clip's peak of sound is its cue; of pictures there is no map; chance is one step in eight."""
    found = pointing(told(study_of("T1 audio only", rng, 40))).lines
    assert out_of_range(found) == []
    lines = by_name(found)
    # Of one step in eight that is marked, and one that is inside, each has the same chance.
    for id in ("pointing_game", "relevance_mass", "relevance_rank", "top_iou", "segment_f1"):
        assert lines[id, "audio", "gradient x input"].value == pytest.approx(1)
        assert lines[id, "audio", "gradient x input"].null_baseline == pytest.approx(1 / STEPS)
        # The centre knows nothing of the model: of cues at any step it has the middle ones.
        assert lines[id, "audio", "centre prior"].value < 1
        assert lines[id, "audio", "centre prior"].target is None
    unseen = lines["pointing_game", "video", "gradient x input"]
    assert unseen.value is None
    assert unseen.reason == "40 of 40 clips left out (40: no saliency)"


def test_moments_that_are_longer_than_what_is_used(rng):
    """Of two steps the map shows the first: TP 1, FN 1. One step at random is inside for a quarter, F1 2 / 3 then."""
    study = told(study_of("T1 audio only", rng, 40), steps=2)
    # The last step of a clip has none after it.
    cue = np.abs(np.asarray(study.clips.streams["audio"].values)[..., 0]).argmax(axis=1)
    rows = np.flatnonzero(cue < STEPS - 1)
    study = dataclasses.replace(study, clips=study.clips.take(rows))
    lines = by_name(pointing(study).lines)
    f1 = lines["segment_f1", "audio", "gradient x input"]
    assert f1.estimator == "gradient x input, in time, above 0.5 of the range"
    assert (f1.value, f1.null_baseline, f1.n) == (pytest.approx(2 / 3), pytest.approx(2 / 3 / 4), len(rows))
    # Both of the top two steps are inside with a chance of 1 / 28, one of them with 12 / 28: IoU 1 and 1 / 3.
    top = lines["top_iou", "audio", "gradient x input"]
    assert top.null_baseline == pytest.approx((1 + 12 / 3) / 28)
    assert top.value >= 1 / 3
    assert ("consensus_iou", "audio", "gradient x input") not in lines


def seen(rng, rows=8, whole=0):
    """A model of the mean of the picture, in which all is dark but a box; of the first clips all is as bright."""
    frames = np.zeros((rows, raw_probe.FRAMES, raw_probe.SIDE, raw_probe.SIDE, 1))
    frames[:, :, 2:4, 4:8] = 1
    frames[:whole] = 1
    sound = rng.normal(size=(rows, raw_probe.SAMPLES))
    clips = raw_probe.clips_of(sound, frames, np.ones(rows, int))
    box = Region(box=(4 / 8, 2 / 8, 8 / 8, 4 / 8))
    clips = dataclasses.replace(clips, truth=({"video": box},) * rows)
    return raw_probe.study_of(lambda tokens: tokens["video"].values.mean(axis=(1, 2, 3, 4)), clips)


def test_a_box_that_is_all_that_is_seen(rng):
    """KA: every overlap is 1. Eight of 64 cells in random order share one with the box in the mean; few are a half."""
    study = seen(rng)
    found = pointing(dataclasses.replace(study, tier=dataclasses.replace(study.tier, pointed=None))).lines
    lines = by_name(found)
    for id in ("top_iou", "consensus_iou", "success_rate", "success_area"):
        own, centre = (lines[id, "video", name] for name in ("gradient x input", "centre prior"))
        assert own.value == pytest.approx(1)
        assert own.null_baseline < 1 / 8
        assert centre.value < own.value
        assert (own.target, centre.target) == ("predicted", None)
    overlap, success = (lines[id, "video", "gradient x input"] for id in ("consensus_iou", "success_rate"))
    assert overlap.estimator == "gradient x input, in space, above 0.5 of the range"
    assert success.estimator == "gradient x input, in space, above 0.5 of the range, cIoU >= 0.5"
    shared = np.arange(9)
    chance = hypergeom(64, 8, 8).pmf(shared)
    assert overlap.null_baseline == pytest.approx(chance @ (shared / (16 - shared)))
    # Six of eight are the least that make six of ten.
    assert success.null_baseline == pytest.approx(chance[6:].sum())
    # The centre prior marks other cells, and more of them.
    assert lines["consensus_iou", "video", "centre prior"].null_baseline != pytest.approx(overlap.null_baseline)
    assert ("segment_f1", "video", "gradient x input") not in lines
    assert out_of_range(found) == []


def test_a_map_that_is_the_same_everywhere_has_no_range(rng):
    study = seen(rng, whole=3)
    lines = by_name(pointed(study, study.part(None)))
    own = lines["consensus_iou", "video", "gradient x input"]
    assert (own.value, own.n) == (pytest.approx(1), 5)
    assert own.estimator.endswith("; 3 of 8 maps are constant")
    assert lines["top_iou", "video", "gradient x input"].n == 8
    assert lines["consensus_iou", "video", "centre prior"].n == 8
    study = seen(rng, whole=8)
    nothing = by_name(pointed(study, study.part(None)))
    for id in ("consensus_iou", "success_rate", "success_area"):
        line = nothing[id, "video", "gradient x input"]
        assert (line.status, line.null_baseline) == ("skipped", None)
        assert line.reason == "all of 8 maps are constant and have no range"


def test_the_same_under_a_condition(rng):
    study, condition = seen(rng), Condition("video/brightness", 5, 0)
    lines = pointed(study, study.part(None), prior=False, condition=condition)
    assert {line.condition for line in lines} == {condition}
    measured = {line.id.split("/")[1] for line in lines if line.value is not None}
    assert measured == {"pointing_game", "relevance_mass", "relevance_rank", "top_iou", "consensus_iou",
                        "success_rate", "success_area"}  # fmt: skip
    assert not [line for line in lines if "centre" in line.estimator]


def test_records_that_do_not_know_say_so(rng):
    study = told(study_of("T2 additive", rng, 10), of=("audio",))
    (line,) = [line for line in pointing(study).lines if line.group == "video"]
    assert line.status == "skipped"
    assert "records of none of 10 clips know" in line.reason


def test_regions_on_the_planes_of_maps(rng):
    """A box over the picture; moments in seconds from the clip's start, which a window may begin after."""
    study = study_of("T2 additive", rng, 4)
    truth = (
        {"audio": Region(seconds=((1.0, 1.5),))},
        {"audio": Region(seconds=((0.0, 9.0),))},
        {},
        {"audio": Region(seconds=((20.0, 30.0),))},
    )
    audio = study.clips.streams["audio"]
    audio = audio.replace(start=np.full(4, 0.5, np.float32))
    clips = dataclasses.replace(study.clips.replace({"audio": audio}), truth=truth)
    # Sound has four steps behind a front end of two seconds: middles at 0.75, 1.25, 1.75, 2.25 s.
    maps = held_against(clips, "audio", np.ones((4, 4, 3)))
    np.testing.assert_array_equal(maps.rows, [0])
    np.testing.assert_array_equal(maps.inside[0, 0], [False, True, False, False])
    assert maps.lost == "3 of 4 clips left out (1: the records do not know, 2: nothing or everything is inside)"
    boxed = dataclasses.replace(clips, truth=({"video": Region(box=(0.0, 0.5, 0.5, 1.0))},) * 4)
    maps = held_against(boxed, "video", np.ones((4, 2, 4, 4)))
    np.testing.assert_array_equal(maps.inside[0], np.arange(4)[:, None] // 2 * [1, 1, 0, 0])
    assert maps.plane == "in space"
