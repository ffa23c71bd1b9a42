"""Writing and reading again: nothing is lost, nothing that is no number gets in, damage is told."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from avjax.diagnostics.diagnosis import Diagnosis, ReportError, compare, read, write
from avjax.diagnostics.diagnosis.files import plain
from avjax.diagnostics.diagnosis.schema import SchemaError, report_schema, validate
from avjax.diagnostics.measured import Measured
from tests.diagnostics.diagnosis.example import example


@pytest.fixture(scope="module")
def drawn() -> Diagnosis:
    return example(3)


@pytest.fixture(scope="module")
def folder(drawn: Diagnosis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("diagnosis") / "deep" / "report"
    write(drawn, out)
    return out


def test_what_was_written_is_read(drawn: Diagnosis, folder: Path) -> None:
    found = read(folder)
    assert found.measured == drawn.measured
    assert found.about == drawn.about
    assert set(found.arrays) == set(drawn.arrays)
    for name, array in drawn.arrays.items():
        same = array.astype(np.float32) if array.dtype.kind == "f" else array
        assert found.arrays[name].dtype == same.dtype
        assert np.array_equal(found.arrays[name], same)
    assert len(found.clips) == len(drawn.clips)
    for one, other in zip(found.clips, drawn.clips, strict=True):
        assert (one.name, one.label, one.predicted, one.confidence) == (
            other.name, other.label, other.predicted, other.confidence
        )  # fmt: skip
        assert set(one.pictures) == set(other.pictures)
        assert all(np.allclose(one.pictures[name], array) for name, array in other.pictures.items())
    assert read(folder / "report.json").measured == drawn.measured
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "report.json", "samples.npz"]


def test_equal_diagnoses_give_equal_bytes(drawn: Diagnosis, folder: Path, tmp_path: Path) -> None:
    write(example(3), tmp_path)
    for name in ("report.html", "report.json", "samples.npz"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_json_holds_no_nan_and_every_line(drawn: Diagnosis, folder: Path) -> None:
    def never(word: str) -> None:
        raise AssertionError(word)

    found = json.loads((folder / "report.json").read_text(), parse_constant=never)
    assert found["schema_version"] == 1
    assert found["metrics"] == [json.loads(json.dumps(line.plain())) for line in drawn.measured]
    assert all((line["value"] is None) == bool(line["reason"]) for line in found["metrics"])
    with pytest.raises(ValueError, match="finite"):
        Measured(id="stress/accuracy", version=1, estimator="x", n=1, unit="share", direction="none", value=np.nan)
    spoiled = dataclasses.replace(drawn, about={**drawn.about, "env": {"speed": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(spoiled, folder.parent / "spoiled")
    assert not (folder.parent / "spoiled").exists()


def test_a_comparison_is_written_too(drawn: Diagnosis, tmp_path: Path) -> None:
    versus = compare(drawn, example(4, name="other"), samples=20)
    write(drawn, tmp_path, versus=versus)
    found = json.loads((tmp_path / "report.json").read_text())["versus"]
    assert found["other"] == "other"
    assert found["differences"][0]["difference"] == versus.paired[0].difference
    assert read(tmp_path).measured == drawn.measured


@pytest.mark.parametrize("name", ["report.json", "samples.npz"])
def test_damage_is_told(name: str, drawn: Diagnosis, tmp_path: Path, rng: np.random.Generator) -> None:
    write(drawn, tmp_path)
    whole = (tmp_path / name).read_bytes()
    for damaged in (b"", b"{}", whole[: int(rng.integers(1, len(whole) - 2))]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ReportError, match="holds no diagnosis"):
            read(tmp_path)
    with pytest.raises(ReportError):
        read(tmp_path / "nowhere")


def test_nan_in_the_file_is_no_number(drawn: Diagnosis, tmp_path: Path) -> None:
    write(drawn, tmp_path)
    text = (tmp_path / "report.json").read_text()
    place = text.index('"value": 0.')
    (tmp_path / "report.json").write_text(text[:place] + '"value": NaN' + text[text.index(",", place) :])
    with pytest.raises(ReportError, match="NaN"):
        read(tmp_path)


def test_arrays_of_objects_are_refused(drawn: Diagnosis, tmp_path: Path) -> None:
    arrays = {**drawn.arrays, "objects": np.array([{}], object)}
    with pytest.raises(TypeError, match="objects"):
        write(dataclasses.replace(drawn, arrays=arrays), tmp_path)


# ------------------------------------------------------------------------------------------------- schema

FAULTS = [
    (("schema_version",), 2, "must be 1"),
    (("model", "name"), 3, "must be string"),
    (("data", "synthetic"), "yes", "must be boolean"),
    (("protocol", "tier"), "quick", "must be one of"),
    (("metrics", 0, "value"), "high", "must be number or null"),
    (("metrics", 0, "n"), -1, "0 at least"),
    (("metrics", 0, "n"), True, "must be integer"),
    (("metrics", 0, "direction"), "up", "must be one of"),
    (("metrics", 0, "id"), "", "too short"),
    (("metrics", 0, "colour"), "red", "not part of it"),
    (("clips", 0, "confidence"), -0.1, "0 at least"),
    (("mood",), "good", "not part of it"),
]


@pytest.mark.parametrize(("place", "value", "fault"), FAULTS)
def test_the_schema_finds(place: tuple, value: object, fault: str, drawn: Diagnosis) -> None:
    whole = plain(drawn)
    report = copy.deepcopy(whole | {"metrics": whole["metrics"][:3]})
    validate(report, report_schema())
    inner = report
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(SchemaError, match=fault):
        validate(report, report_schema())


def test_the_schema_misses_nothing_required(drawn: Diagnosis) -> None:
    for name in report_schema()["required"]:
        report = plain(drawn)
        del report[name]
        with pytest.raises(SchemaError, match=name):
            validate(report, report_schema())


def test_lines_have_exactly_the_fields_of_measured() -> None:
    fields = {field.name for field in dataclasses.fields(Measured)}
    line = report_schema()["$defs"]["line"]
    assert set(line["properties"]) == set(line["required"]) == fields


def test_a_word_that_the_validator_lacks_is_an_error() -> None:
    with pytest.raises(KeyError, match="pattern"):
        validate("x", {"type": "string", "pattern": "y"})
