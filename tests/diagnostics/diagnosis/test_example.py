"""The drawn diagnosis is like a measured one: what pages, rules and comparisons find in it they find in a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from avjax.data.truth import Region
from avjax.diagnostics.definitions import DEFINITIONS, LIBRARY_ONLY
from avjax.diagnostics.diagnosis import Diagnosis, read
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.protocol.backdoor import backdoor
from avjax.diagnostics.protocol.groups import gaps, groups
from avjax.diagnostics.protocol.pointing import pointing
from tests.diagnostics.diagnosis.example import example
from tests.diagnostics.protocol import raw_probe
from tests.diagnostics.protocol.planted_probe import study_of

FIELDS = ("fill", "group", "layer", "head", "condition")


@pytest.fixture(scope="module")
def report(diagnosed) -> Diagnosis:
    """Every stage of a tiny model."""
    return read(Path(diagnosed[diagnosed.index("--out") + 1]))


@pytest.fixture(scope="module")
def emitted(report) -> list[Measured]:
    """Its lines, and those of groups and of a patch, of which the tiny model has no clips enough, and of where a label
    is told, which its records do not know."""
    rng = np.random.default_rng(0)
    known = {"actor": np.repeat(["one", "other"], 80)}
    study = dataclasses.replace(study_of("T2 additive", rng, 160), attributes=known)
    everyone = np.arange(160)
    arrays = {"share/mm_shap": rng.random((160, 2)), "rows/share/mm_shap": everyone}
    arrays |= {"right/audio/white_noise 1": rng.random(160) < 0.6, "rows/right/audio/white_noise 1": everyone}
    told = rng.permutation(np.resize([-1.0, 1.0], 32))
    sound = np.broadcast_to(told[:, None], (32, raw_probe.SAMPLES))
    frames = rng.uniform(0, 1, (32, raw_probe.FRAMES, raw_probe.SIDE, raw_probe.SIDE, 1))
    clips = raw_probe.clips_of(sound, frames, (told > 0).astype(int))
    heard = raw_probe.study_of(lambda tokens: tokens["audio"].values.mean(axis=1), clips)
    known = tuple({"audio": Region(seconds=((0.0, 0.5),))} for _ in everyone)
    told_where = dataclasses.replace(study, clips=dataclasses.replace(study.clips, truth=known))
    boxed = dataclasses.replace(clips, truth=({"video": Region(box=(0.0, 0.0, 0.5, 0.5))},) * len(clips))
    looked = raw_probe.study_of(lambda tokens: tokens["video"].values.mean(axis=(1, 2, 3, 4)), boxed)
    found = (groups(study), gaps(study, arrays), backdoor(heard), pointing(told_where), pointing(looked))
    return [*report.measured, *(line for one in found for line in one.lines)]


def forms(lines: Iterable[Measured]) -> set[tuple[str, ...]]:
    """Definition, and which fields a line has."""
    found = set()
    for line in lines:
        there = [name for name in FIELDS if getattr(line, name) is not None]
        there += ["severity"] if line.condition is not None and line.condition.severity is not None else []
        found.add((line.id, *there))
    return found


@pytest.mark.slow
def test_every_line_of_the_example_is_like_one_that_a_stage_gives(emitted):
    assert forms(example(0).measured) - forms(emitted) == set()


@pytest.mark.slow
def test_every_metric_is_measured_by_a_stage_or_said_not_to_be(emitted):
    measured = {line.id for line in emitted}
    assert set(DEFINITIONS) - measured == set(LIBRARY_ONLY)


@pytest.mark.slow
def test_every_array_of_the_example_is_like_one_that_a_stage_keeps(report):
    def kinds(diagnosis: Diagnosis) -> set[tuple[str, int, str]]:
        return {
            (name.split("/")[0], array.ndim, "bool" if array.dtype == bool else "other")
            for name, array in diagnosis.arrays.items()
        }

    assert kinds(example(0)) - kinds(report) == set()
