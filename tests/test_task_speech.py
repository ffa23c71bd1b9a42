"""Speech recognition, end to end: GRID's layout, records, training of DCM, transcripts by three ways of decoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avjax.cli import main
from avjax.data.corpora.grid import Corpus
from avjax.data.prepare import prepare
from experiments import speech_decoding
from experiments.synthetic import grid as synthetic

SMALL = (
    "--model.size.width=32 --model.size.depth=1 --data.batch=16 --optimizer.learning-rate=4e-3 --training.steps=120"
    " --frontend.augment.waveform.noise-probability=0 --frontend.augment.spectrogram.time-masks=0"
)


@pytest.mark.slow
@pytest.mark.long
def test_words_are_recognised_better_than_by_chance(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whoever hears nothing is right about 0.19 of the words at best: four of a kind, of four kinds, and rarer ones."""
    pytest.importorskip("espeakng_loader", reason="needs the extra: pip install avjax[demo]")
    synthetic.write(synthetic.Options(tmp_path / "data", clips=60, speakers=(1, 2), workers=1))
    report = prepare(
        Corpus("overlapped"), tmp_path / "data", tmp_path / "records", size=(16, 20), workers=1, progress=False
    )
    assert report.counts == {"train": 84, "validation": 6, "test": 30}
    assert report.synthetic
    words = [f"--data.records={tmp_path / 'records'}", f"--out={tmp_path / 'run'}", "--quiet", *SMALL.split()]
    assert main(["train", str(root / "experiments" / "speech_dcm.py"), *words]) == 0
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert kept["synthetic"]
    found = kept["test"]["metrics"]["transcript"]
    assert {"wer", "cer", "wer_beam", "cer_beam"} <= found.keys()
    capsys.readouterr()
    speech_decoding.main(speech_decoding.Options((tmp_path / "run",), snr=(-10.0,)))
    header, _, *lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    quiet, noisy = (
        {name: float(cell.split()[0]) for name, cell in zip(header[2:], line[2:], strict=True)} for line in lines
    )
    # The same two ways as evaluation's.
    assert quiet["WER greedy"] == pytest.approx(found["wer"]["value"], abs=1e-3)
    assert quiet["CER beam"] == pytest.approx(found["cer_beam"]["value"], abs=1e-3)
    assert quiet["WER beam"] < 0.75
    assert noisy != quiet
