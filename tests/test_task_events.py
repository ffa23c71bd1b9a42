"""Event localisation, end to end: a synthetic corpus in AVE's layout, records, training, accuracy of segments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avjax.cli import main
from avjax.data.corpora.ave import Corpus
from avjax.data.prepare import prepare
from experiments.synthetic import ave as synthetic


@pytest.mark.slow
def test_events_are_found(root: Path, tmp_path: Path) -> None:
    """With patterns that stand out well. Chance is the background's share, 0.56; one modality allows 0.69."""
    pytest.importorskip("h5py", reason="needs h5py, of the extra 'corpora'")
    synthetic.write(synthetic.Options(tmp_path / "data", clips=160, noisy=0, strength=10.0))
    report = prepare(Corpus(), tmp_path / "data", tmp_path / "records", workers=1, progress=False)
    assert report.counts == {"train": 112, "validation": 16, "test": 32}
    assert report.synthetic
    words = [f"--data.records={tmp_path / 'records'}", f"--out={tmp_path / 'run'}", "--quiet", "--data.batch=16"]
    assert main(["train", str(root / "experiments" / "events_psp.py"), *words, "--training.steps=60"]) == 0
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["synthetic"]
    assert found["test"]["metrics"]["event"]["segment_accuracy"]["value"] > 0.7
