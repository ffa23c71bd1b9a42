"""Valence and arousal over time, end to end: a synthetic corpus in Aff-Wild2's layout, records, training, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avjax.cli import main
from avjax.data.corpora.affwild import Corpus
from avjax.data.prepare import prepare
from experiments.synthetic import affwild as synthetic


@pytest.mark.slow
def test_arousal_is_followed_by_ear(root: Path, tmp_path: Path) -> None:
    """Chance is a CCC of 0. Sound alone: it learns in a fraction of the time, and says nothing of valence."""
    pytest.importorskip("espeakng_loader", reason="needs espeak-ng, of the extra 'demo'")
    synthetic.write(synthetic.Options(tmp_path / "data", clips=30, seconds=8.0, workers=1))
    report = prepare(Corpus(), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.counts == {"train": 18, "validation": 6, "test": 6}
    assert report.synthetic
    words = [f"--data.records={tmp_path / 'records'}", f"--out={tmp_path / 'run'}", "--quiet", "--data.batch=8"]
    experiment = f"{root / 'experiments' / 'compare_affect.py'}:audio"
    assert main(["train", experiment, *words, "--training.steps=80"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["synthetic"]
    affect = found["test"]["metrics"]["affect"]
    assert {"ccc", "pcc", "rmse"} <= affect.keys()
    assert affect["ccc_1"]["value"] > 0.4
