"""Curves over noise from arrays that a stage has kept: against the formulas on plain curves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.diagnosis import Diagnosis
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.noise import noise
from avjax.diagnostics.protocol.study import Study
from avjax.diagnostics.protocol.tiers import SMOKE

CLIPS, SEVERITIES = 60, (1, 2, 3)
NAMES = ("audio/white_noise", "audio/clipping")


def study(severities: tuple[int, ...] = SEVERITIES) -> Study:
    clips = Clips({}, np.zeros(CLIPS, int), tuple(f"video {row // 2}" for row in range(CLIPS)), 3 * np.arange(CLIPS))
    probe = FunctionProbe(("audio", "video"), "class", ("a", "b"), CLIPS, lambda clips: np.zeros((len(clips), 2)))
    return Study(probe, clips, dataclasses.replace(SMOKE, severities=severities), resamples=50)


def measured(rng: np.random.Generator, severities=SEVERITIES, names=NAMES) -> dict[str, np.ndarray]:
    rows = np.sort(rng.permutation(CLIPS)[:40])
    arrays = {"right/clean": rng.random(CLIPS) < 0.9}
    for name in names:
        for severity in severities:
            arrays[f"right/{name} {severity}"] = rng.random(40) < 0.9 - 0.15 * severity
            arrays[f"rows/right/{name} {severity}"] = rows
    return arrays


def curve(arrays: dict[str, np.ndarray]) -> np.ndarray:
    clean = arrays["right/clean"][arrays[f"rows/right/{NAMES[0]} 1"]].mean()
    return np.array([clean, *(np.mean([arrays[f"right/{name} {s}"].mean() for name in NAMES]) for s in SEVERITIES)])


def diagnosis(arrays: dict[str, np.ndarray], name: str = "late") -> Diagnosis:
    return Diagnosis((), {"model": {"name": name}}, {**arrays, "clips/index": study().clips.index})


def test_areas_are_those_of_the_mean_curve(rng):
    arrays = measured(rng)
    found = {line.id: line for line in noise(study(), arrays).lines}
    p = curve(arrays)
    area, relative = found["stress/area_under_noise"], found["stress/relative_area_under_noise"]
    assert area.value == pytest.approx(np.trapezoid(p, np.linspace(0, 1, 4)), abs=1e-12)
    assert relative.value == pytest.approx(area.value / p[0], abs=1e-12)
    assert (area.group, area.n) == ("audio", 40)
    assert "severities 0, 1, 2, 3" in area.estimator
    assert area.ci_lo <= area.value <= area.ci_hi
    for id in ("stress/effective_robustness", "stress/mean_corruption_error"):
        assert (found[id].status, found[id].value) == ("skipped", None)
        assert "--vs" in found[id].reason


def test_effective_robustness_is_above_the_baseline_moved_to_its_start(rng):
    own, other = measured(rng), measured(rng)
    rows = {name: array for name, array in own.items() if name.startswith("rows/")}
    other |= rows
    found = {line.id: line for line in noise(study(), own, diagnosis(other)).lines}
    p, late = curve(own), curve(other)
    er = found["stress/effective_robustness"]
    assert er.value == pytest.approx((p - (late + p[0] - late[0])).sum(), abs=1e-12)
    assert er.ci_lo <= er.value <= er.ci_hi
    assert "against late" in er.estimator
    ratios = [
        np.sum([1 - own[f"right/{name} {s}"].mean() for s in SEVERITIES])
        / np.sum([1 - other[f"right/{name} {s}"].mean() for s in SEVERITIES])
        for name in NAMES
    ]
    assert found["stress/mean_corruption_error"].value == pytest.approx(np.mean(ratios), abs=1e-12)
    # A model is neither above nor below itself, in any draw.
    same = {line.id: line for line in noise(study(), own, diagnosis(own)).lines}
    for id, value in (("stress/effective_robustness", 0), ("stress/mean_corruption_error", 1)):
        assert [same[id].value, same[id].ci_lo, same[id].ci_hi] == pytest.approx([value] * 3, abs=1e-12)


def test_what_cannot_be_held_against_each_other_is_told(rng):
    own = measured(rng)
    few = measured(rng, names=NAMES[:1])
    moved = own | {f"rows/right/{name} {s}": np.arange(40) + 20 for name in NAMES for s in SEVERITIES}
    moved["rows/right/audio/white_noise 1"] = (own["rows/right/audio/white_noise 1"] + 1) % CLIPS
    for other, reason in ((few, "not measured under the same"), (moved, "on other clips")):
        lines = [line for line in noise(study(), own, diagnosis(other)).lines if "effective" in line.id]
        assert [reason in line.reason for line in lines] == [True]
    uneven = noise(study((1, 5)), measured(rng, (1, 5))).lines
    assert ["uneven" in line.reason for line in uneven if "area" in line.id] == [True, True]
    assert {line.status for line in noise(study(), {}).lines} == {"skipped"}
