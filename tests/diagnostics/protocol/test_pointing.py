"""Where the truth is planted, a model that uses it points at it, and one that does not is told to have no map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.data.truth import Region
from avjax.diagnostics.protocol.pointing import held_against, pointing
from tests.diagnostics.protocol.planted_probe import study_of
from tests.models.planted import MODALITIES, RATE, STEPS

TIER = {"pointed": None}


def told(study, of=MODALITIES):
    """The study with the step of each cue known."""
    step = {m: np.abs(np.asarray(study.clips.streams[m].values)[..., 0]).argmax(axis=1) for m in of}
    truth = tuple(
        {m: Region(seconds=((float(step[m][row]) / RATE, float(step[m][row] + 1) / RATE),)) for m in of}
        for row in range(len(study.clips))
    )
    clips = dataclasses.replace(study.clips, truth=truth)
    return dataclasses.replace(study, clips=clips, tier=dataclasses.replace(study.tier, pointed=None))


def test_what_is_used_is_pointed_at(rng):
    """T1: every clip's peak of sound is its cue; of pictures there is no map; chance is one step in eight."""
    found = pointing(told(study_of("T1 audio only", rng, 40)))
    lines = {(line.id.split("/")[1], line.group, line.estimator.split(",")[0]): line for line in found.lines}
    for id in ("pointing_game", "relevance_mass", "relevance_rank"):
        assert lines[id, "audio", "gradient x input"].value == pytest.approx(1)
        assert lines[id, "audio", "gradient x input"].null_baseline == pytest.approx(1 / STEPS)
        # The centre knows nothing of the model: of cues at any step it has the middle ones.
        assert lines[id, "audio", "centre prior"].value < 1
        assert lines[id, "audio", "centre prior"].target is None
    unseen = lines["pointing_game", "video", "gradient x input"]
    assert unseen.value is None
    assert unseen.reason == "40 of 40 clips left out (40: no saliency)"


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
