"""Explanations of bad input: what is not touched is explained as before, and a change is that of two lines."""

from __future__ import annotations

import dataclasses

import pytest

from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.degraded import degraded
from avjax.diagnostics.protocol.study import Study
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, TIER, clips_of, study_of


def seen(tokens):
    """Whether the first frame is brighter than the second; sound is not listened to."""
    frames = tokens["video"].values.mean(axis=(2, 3, 4))
    return 16 * (frames[:, 0] - frames[:, 1])


@pytest.fixture
def study(rng) -> Study:
    sound, frames = rng.normal(size=(6, SAMPLES)).clip(-1, 1) / 2, rng.uniform(size=(6, FRAMES, SIDE, SIDE, 3))
    label = (frames.mean(axis=(2, 3, 4)) @ [1, -1] > 0).astype(int)
    tier = dataclasses.replace(
        TIER, degraded=None, corruptions=("audio/clipping", "video/brightness"), severities=(5,), attack_steps=2
    )
    return study_of(seen, clips_of(sound, frames, label), tier)


def values(found, id, **fields):
    lines = [line for line in found.lines if line.id == f"faithfulness/{id}"]
    return {line.condition and line.condition.corruption: line.value for line in lines
            if all(getattr(line, name) == value for name, value in fields.items())}  # fmt: skip


@pytest.mark.slow
def test_under_corruption_and_attack(study):
    found = degraded(study)
    gap, change = values(found, "deletion_gap"), values(found, "gap_change")
    attacks = ("PGD-2: audio 20 dB", "PGD-2: video 8/255", "PGD-2: audio 20 dB, video 8/255")
    assert set(change) == {"audio/clipping", "video/brightness", *attacks}
    for name, value in change.items():
        assert value == pytest.approx(gap[name] - gap[None], abs=1e-6)
    # What is not listened to may be anything.
    assert change["audio/clipping"] == pytest.approx(0, abs=1e-6)
    assert change[attacks[0]] == pytest.approx(0, abs=1e-6)
    assert abs(change["video/brightness"]) > 1e-6
    # Slopes are exact of what adds up, under every condition; and so are sets of them.
    assert list(values(found, "infidelity").values()) == pytest.approx([0] * 5, abs=1e-6)
    for condition, value in values(found, "avg_sensitivity").items():
        assert value > 0, condition


def test_a_plain_function_says_why_not(study):
    plain = FunctionProbe(study.probe.modalities, study.probe.head, study.probe.classes, 16, study.probe.logits)
    (line,) = degraded(Study(plain, study.clips, study.tier)).lines
    assert line.status == "skipped"
    assert "no gradients" in line.reason
