"""Matching, end to end: a synthetic corpus in VoxCeleb's layout, triplets, AICANet, both directions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avjax.cli import main
from avjax.data.corpora.voxceleb import Corpus
from avjax.data.prepare import prepare
from experiments.synthetic import voxceleb as synthetic


@pytest.mark.slow
def test_voices_find_faces_of_people_never_seen(root: Path, tmp_path: Path) -> None:
    """Chance is 1 of 2, and an equal error rate of 0.5."""
    synthetic.write(synthetic.Options(tmp_path / "data", people=64, workers=1))
    report = prepare(Corpus(), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.counts["test"] == 64
    assert report.synthetic
    words = [f"--data.records={tmp_path / 'records'}", f"--out={tmp_path / 'run'}", "--quiet", "--data.batch=16"]
    words += ["--training.steps=100", "--training.evaluate-every=0"]
    assert main(["train", str(root / "experiments" / "matching_aicanet.py"), *words]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["synthetic"]
    for direction in ("voice_to_face", "face_to_voice"):
        metrics = found["test"]["metrics"][f"identity/{direction}"]
        assert {"eer", "auc", "d_prime", "accuracy_1_of_2", "accuracy_1_of_10", "recall_1"} <= set(metrics)
        assert metrics["accuracy_1_of_2"]["value"] > 0.55
