"""Actions, end to end: a synthetic corpus in the layout of Kinetics-Sounds, records, training, accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avjax.cli import main
from avjax.data.corpora.kinetics_sounds import Corpus
from avjax.data.prepare import prepare
from experiments.synthetic import kinetics_sounds as synthetic


@pytest.mark.slow
def test_actions_are_told_better_than_by_chance(root: Path, tmp_path: Path) -> None:
    """Chance is 1 in 8, and sound alone, which learns in a fraction of the time, can reach 3 in 8."""
    synthetic.write(synthetic.Options(tmp_path / "data", clips=24, workers=1))
    report = prepare(Corpus(), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.counts == {"train": 112, "validation": 32, "test": 48}
    assert report.synthetic
    words = [f"--data.records={tmp_path / 'records'}", f"--out={tmp_path / 'run'}", "--quiet", "--data.batch=16"]
    experiment = f"{root / 'experiments' / 'compare_action.py'}:audio"
    assert main(["train", experiment, *words, "--training.steps=60"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["synthetic"]
    assert found["test"]["metrics"]["action"]["accuracy"]["value"] > 0.25
