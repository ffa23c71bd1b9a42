"""Bounds: what they pick, what breaks them, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from avjax.diagnostics.definitions import facts
from avjax.diagnostics.diagnosis import Diagnosis, GateError, exit_code, read_bounds, violations
from avjax.diagnostics.measured import Condition, Measured


def line(id: str, value: float | None, **fields: Any) -> Measured:
    state = {} if value is not None else {"status": "undefined", "reason": "a constant predictor"}
    return Measured(**{**facts(id), "estimator": "made", "n": 9, "value": value, **state, **fields})


@pytest.fixture
def diagnosis() -> Diagnosis:
    measured = (
        line("stress/accuracy", 0.8, ci_lo=0.7, ci_hi=0.9),
        line("stress/accuracy", 0.6, condition=Condition("rain", 3, 0)),
        line("stress/accuracy", 0.5, condition=Condition("rain", 5, 0)),
        line("consistency/kappa", None, group="audio", fill="drop"),
        line("consistency/agreement", 0.4, group="audio", fill="drop"),
        line("consistency/agreement", 0.9, group="video", fill="drop"),
    )
    return Diagnosis(measured, {}, {})


def check(diagnosis: Diagnosis, folder: Path, *entries: dict[str, Any]) -> list[str]:
    (folder / "bounds.yaml").write_text(yaml.safe_dump(list(entries)))
    return violations(diagnosis, read_bounds(folder / "bounds.yaml"))


KEPT = [
    {"id": "stress/accuracy", "corruption": None, "min": 0.8},
    {"id": "stress/accuracy", "min": 0.5, "max": 0.8},
    {"id": "stress/accuracy", "corruption": "rain", "severity": 3, "min": 0.6},
    {"id": "stress/accuracy", "corruption": None, "min": 0.7, "by": "ci"},
    {"id": "consistency/agreement", "group": "video", "fill": "drop", "min": 0.9},
]
BROKEN = [
    ({"id": "stress/accuracy", "min": 0.55}, 1, "rain, 5"),
    ({"id": "stress/accuracy", "max": 0.55}, 2, "0.8"),
    ({"id": "stress/accuracy", "corruption": None, "min": 0.75, "by": "ci"}, 1, "0.7 to 0.9"),
    ({"id": "consistency/kappa", "min": -1}, 1, "a constant predictor"),
    ({"id": "consistency/agreement", "fill": "zero", "min": 0}, 1, "no such line"),
    ({"id": "stress/retention", "min": 0}, 1, "no such line"),
]


@pytest.mark.parametrize("entry", KEPT)
def test_bounds_that_are_kept(entry: dict[str, Any], diagnosis: Diagnosis, tmp_path: Path) -> None:
    found = check(diagnosis, tmp_path, entry)
    assert found == []
    assert exit_code(found) == 0


@pytest.mark.parametrize(("entry", "count", "said"), BROKEN)
def test_bounds_that_are_broken(
    entry: dict[str, Any], count: int, said: str, diagnosis: Diagnosis, tmp_path: Path
) -> None:
    found = check(diagnosis, tmp_path, entry)
    assert len(found) == count
    assert said in found[0]
    assert exit_code(found) == 1


def test_every_entry_counts(diagnosis: Diagnosis, tmp_path: Path) -> None:
    assert len(check(diagnosis, tmp_path, *KEPT, *(entry for entry, _, _ in BROKEN))) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold a list"),
        ("id: stress/accuracy", "must hold a list"),
        ("- {min: 1}", "has no id"),
        ("- {id: stress/luck, min: 1}", "no metric 'stress/luck'"),
        ("- {id: stress/accuracy}", "needs min"),
        ("- {id: stress/accuracy, min: 2, max: 1}", "min ≤ max"),
        ("- {id: stress/accuracy, min: high}", "numbers"),
        ("- {id: stress/accuracy, min: .nan}", "numbers"),
        ("- {id: stress/accuracy, min: 1, colour: red}", "does not know colour"),
        ("- {id: stress/accuracy, min: 1, by: luck}", "value or ci"),
        ("- [", "cannot be read"),
        ("- !!python/object:os.system {}", "cannot be read"),
    ],
)
def test_files_that_are_none(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "bounds.yaml").write_text(text)
    with pytest.raises(GateError, match=said):
        read_bounds(tmp_path / "bounds.yaml")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="cannot be read"):
        read_bounds(tmp_path / "none.yaml")
