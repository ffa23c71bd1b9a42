"""The command from a run to a report: every stage of a small tier, gone on with where it was stopped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from avjax.cli import main
from avjax.data.truth import Region
from avjax.diagnostics.definitions import DEFINITIONS, LIBRARY_ONLY
from avjax.diagnostics.diagnosis import Diagnosis, read
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol import diagnose as protocol
from avjax.diagnostics.protocol.backdoor import backdoor
from avjax.diagnostics.protocol.groups import gaps, groups
from avjax.diagnostics.protocol.pointing import pointing
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.tiers import SMOKE, STANDARD, TIERS
from avjax.diagnostics.stress.corruption import SUITE
from tests.diagnostics.conftest import SMALL
from tests.diagnostics.diagnosis.example import example
from tests.diagnostics.protocol import raw_probe
from tests.diagnostics.protocol.planted_probe import study_of
from tests.diagnostics.ranges import out_of_range

ABOUT = {
    "model": {"name": "planted", "modalities": ["audio", "video"], "checkpoint": "0"},
    "data": {"name": "planted", "synthetic": True, "clips": 40, "fingerprint": "0"},
    "env": {},
}
FIELDS = ("fill", "group", "layer", "head", "condition")


@pytest.fixture
def study(rng):
    return study_of("T2 additive", rng, 40)


def test_tiers_name_corruptions_that_there_are():
    for tier in TIERS.values():
        assert set(tier.corruptions) <= set(SUITE)


def test_it_goes_on_where_it_was_stopped(study, tmp_path, monkeypatch):
    called = []

    def stage(name):
        def run(study):
            called.append(name)
            if name == "second" and called.count("second") == 1:
                raise KeyboardInterrupt
            return Found([], {f"right/{name}": np.ones(len(study.clips), bool)})

        return run

    plan = {name: stage(name) for name in ("first", "second", "third")}
    monkeypatch.setattr(protocol, "stages", lambda tier, modalities: {**plan, "fourth": "left out"})
    with pytest.raises(KeyboardInterrupt):
        protocol.diagnose(study, ABOUT, tmp_path, quiet=True)
    found = protocol.diagnose(study, ABOUT, tmp_path, quiet=True)
    assert called == ["first", "second", "second", "third"]
    assert {"right/first", "right/second", "right/third"} <= set(found.arrays)
    assert [one["reason"] for one in found.about["protocol"]["stages"]] == ["", "", "", "left out"]
    # Damage is done anew, and so is everything of another model.
    (tmp_path / "stages" / "third.json").write_text("{")
    protocol.diagnose(study, ABOUT, tmp_path, quiet=True)
    assert called[4:] == ["third"]
    other = {**ABOUT, "model": {**ABOUT["model"], "checkpoint": "1"}}
    protocol.diagnose(study, other, tmp_path, quiet=True)
    assert called[5:] == ["first", "second", "third"]


@pytest.mark.slow
def test_a_plain_function_is_diagnosed_as_far_as_it_goes(study, tmp_path):
    """What it has no insides for is said, and the rest is that of the model."""
    plain = FunctionProbe(study.probe.modalities, study.probe.head, study.probe.classes, 16, study.probe.logits)
    tier = dataclasses.replace(SMALL, permutations=(8, 8))
    small = Study(plain, study.clips.take(range(12)), tier, resamples=10)
    found = protocol.diagnose(small, ABOUT, tmp_path, quiet=True)
    assert out_of_range(found.measured) == []
    skipped = {line.id for line in found.measured if line.status == "skipped"}
    assert {"contribution/attention_share", "contribution/gradient_x_input", "stress/adversarial_accuracy"} <= skipped
    whole = Study(study.probe, small.clips, tier, resamples=10)
    same = protocol.ablation(whole)
    for line in same.lines:
        fields = {"group": line.group, "fill": line.fill, "estimator": line.estimator, "corruption": None}
        (own,) = found.find(line.id, **fields)
        assert (own.status, own.reason) == (line.status, line.reason)
        assert own.value == (None if line.value is None else pytest.approx(line.value, rel=1e-5))


@pytest.mark.slow
def test_what_is_planted_is_diagnosed_within_the_ranges_of_definitions(rng, tmp_path):
    """Every stage that has anything to say of a model of numbers; clips that are padded, and without a modality."""
    study = study_of("T5 attention decoy", rng, 24)
    streams = {}
    for modality, stream in study.clips.streams.items():
        length = np.where(rng.random(24) < 0.2, 0, rng.integers(1, stream.valid.shape[1] + 1, 24))
        streams[modality] = stream.replace(valid=np.arange(stream.valid.shape[1]) < length[:, None])
    tier = dataclasses.replace(study.tier, shapley_fills=("drop", "mean"), fills=("drop", "mean"), additive=8)
    study = dataclasses.replace(study, clips=study.clips.replace(streams), tier=tier)
    found = protocol.diagnose(study, ABOUT, tmp_path, quiet=True)
    assert sum(line.value is not None for line in found.measured) > 100
    assert out_of_range(found.measured) == []


@pytest.mark.slow
def test_the_command(run, diagnosed, tmp_path, monkeypatch, capsys):
    """From the run's folder to the report, every stage; a second time nothing is computed, and bounds are kept."""
    monkeypatch.setitem(TIERS, "smoke", SMALL)
    monkeypatch.setattr(protocol, "_write", lambda *arguments: pytest.fail("a stage was done again"))
    words = [*diagnosed, "--json"]
    bounds = tmp_path / "bounds.yaml"
    bounds.write_text("- id: stress/accuracy\n  corruption: null\n  min: 0\n")
    out = Path(diagnosed[diagnosed.index("--out") + 1])
    assert main([*words, "--gate", str(bounds)]) == 0
    said = json.loads(capsys.readouterr().out)
    found = read(out)
    assert said["headline"]["accuracy"] == found.value("stress/accuracy", corruption=None)
    # Where it was trained, and where it was diagnosed.
    assert found.about["model"]["commit"] == run.results()["environment"]["commit"]
    assert "commit" in found.about["env"]
    stages = found.about["protocol"]["stages"]
    assert [one["name"] for one in stages] == list(protocol.stages(SMALL, ("audio", "video")))
    assert all(one["reason"] == "" for one in stages)
    for id in ("contribution/utilisation_gap", "contribution/probe_gap"):
        gaps = {line.group: line.value for line in found.find(id)}
        assert -1 <= gaps["audio"] <= 1
        assert gaps["video"] is None
    # Every line lies where its definition says, and those that have no value say why.
    assert out_of_range(found.measured) == []
    assert all(line.reason for line in found.measured if line.value is None)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "SYNTHETIC" in page

    bounds.write_text("- id: stress/accuracy\n  corruption: null\n  min: 1.5\n")
    assert main([*words, "--gate", str(bounds), "--vs", str(out)]) == 1
    assert "stress/accuracy" in json.loads(capsys.readouterr().out)["broken"][0]


@pytest.mark.slow
def test_errors_that_a_user_can_mend(run, tmp_path, capsys):
    assert main(["diagnose", str(tmp_path)]) == 2
    assert main(["diagnose", str(run.path), "--head", "face"]) == 2
    assert main(["diagnose", str(run.path), "--clips", "0"]) == 2
    assert main(["diagnose", str(run.path), "--vs", str(tmp_path)]) == 2
    assert main(["diagnose", str(run.path), "--alone", f"touch={run.path}"]) == 2
    errors = capsys.readouterr().err
    for words in ("MODALITY=RUN, of audio, video", "no head 'face'", "--clips 0", "no diagnosis"):
        assert words in errors


def test_smoke_is_part_of_standard():
    for name in ("clips", "shapley", "attention", "stressed"):
        assert getattr(SMOKE, name) <= getattr(STANDARD, name)


# The drawn diagnosis (example.py): what pages, rules and comparisons find in it they find in a report.


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
