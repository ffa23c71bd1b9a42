"""Sentiment, end to end: a synthetic corpus in MOSEI's layout, records, MulT of three modalities, metrics."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from avjax.data.corpora.mosei import Corpus
from avjax.data.prepare import prepare
from experiments.synthetic import mosei as synthetic
from tests.training.conftest import Commands


@pytest.mark.slow
def test_sentiment_is_told_better_than_by_chance(root: Path, tmp_path: Path) -> None:
    """Chance is a correlation of 0, give or take 0.06; three seeds reached 0.45 to 0.53."""
    synthetic.write(synthetic.Options(tmp_path / "data", clips=1500))
    report = prepare(Corpus(), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.counts == {"train": 1050, "validation": 150, "test": 300}
    assert report.synthetic
    smaller = {"model.width": 16, "model.heads": 2, "model.depth": 1, "training.steps": 200}
    faster = {"optimizer.learning-rate": 5e-3, "training.evaluate-every": 0}
    words = [word for name, value in (smaller | faster).items() for word in (f"--{name}", value)]
    file, commands = root / "experiments" / "sentiment_mult.py", Commands(tmp_path)
    command = commands.command("train", file, "--data.records", "records", "--out", "run", "--quiet", *words)
    subprocess.run(command, env=commands.environment(), cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["synthetic"]
    metrics = found["test"]["metrics"]["values"]
    assert {"mae", "corr", "acc7", "acc5", "acc2_nonnegative", "acc2_nonzero", "f1_nonnegative"} <= metrics.keys()
    assert metrics["corr"]["value"] > 0.3
