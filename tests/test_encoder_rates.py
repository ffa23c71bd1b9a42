"""experiments/encoder_rates.py: what it trains, and how it is shown."""

from __future__ import annotations

import pytest

from avjax.experiment import load
from avjax.training.optimizer import AdamW, ModalityRate


@pytest.fixture
def program(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "experiments")
    import encoder_rates

    return encoder_rates


def test_runs_differ_in_the_rate_of_sound_alone(root):
    plain, _ = load(root / "experiments" / "demo_mbt.py", ())
    slow, _ = load(root / "experiments" / "demo_rates.py", ("--optimizer.rate", "0.1"))
    assert isinstance(plain.optimizer, AdamW)
    assert slow.optimizer == ModalityRate(plain.optimizer, "audio", 0.1)
    assert (slow.model, slow.data, slow.objective, slow.training) == (
        plain.model, plain.data, plain.objective, plain.training,
    )  # fmt: skip


def test_the_table_has_a_row_for_each_run(program):
    own = {"necessity": 0.25, "sufficiency": 0.125, "log rho": -0.5}
    rows = [
        {"rate": rate, "seed": seed, "accuracy": 0.75, "audio": own, "video": {**own, "necessity": 0.5}}
        for rate in (0.1, 10.0) for seed in (0, 1)
    ]  # fmt: skip
    rows[-1]["audio"] = {**own, "log rho": None}
    lines = program.table({"synthetic": True, "rows": rows})
    assert "synthetic" in lines[0]
    assert len(lines) == 2 + 4
    assert lines[2] == "| 0.1 | 0 | 0.750 | 0.250 | 0.125 | 0.500 | 0.125 | -0.500 |"
    assert lines[-1] == "| 10 | 1 | 0.750 | 0.250 | 0.125 | 0.500 | 0.125 | - |"


@pytest.mark.slow
def test_each_run_is_trained_and_diagnosed(program, tmp_path, monkeypatch, capsys):
    """Commands stand in for what they write: a training, then a diagnosis whose numbers are read."""
    from tests.diagnostics.diagnosis.example import example

    said = []
    monkeypatch.setattr(program, "avjax", lambda *words: said.append(words))
    monkeypatch.setattr(program, "train_run", lambda *words, steps: said.append(("train", *words, steps)))
    monkeypatch.setattr(program, "read", lambda path: example(len(said)))
    program.main(program.Options(out=tmp_path, rates=(0.1, 1.0), steps=3))
    assert [words[0] for words in said] == ["prepare", "train", "diagnose", "train", "diagnose"]
    assert said[1][-3:] == ("--optimizer.rate", "0.1", 3)
    assert (tmp_path / "encoder_rates.json").is_file()
    assert capsys.readouterr().out.endswith((tmp_path / "encoder_rates.md").read_text())
