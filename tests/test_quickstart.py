"""The programs in experiments/, shrunk: quickstart, tables and benchmarks do what their users run them for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(root: Path, *words: str, folder: Path, seconds: int = 600) -> subprocess.CompletedProcess:
    environment = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_quickstart_leaves_results_and_a_report(root, tmp_path):
    program = str(root / "experiments" / "quickstart.py")
    words = ["--out", "out", "--steps", "4", "--clips-per-actor", "4"]
    run(root, program, *words, folder=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["demo_audio", "demo_video", "demo_late", "demo_late_averaged", "demo_mbt"]
    for line in results.values():
        assert {"accuracy", "uar", "interval", "seed", "seconds"} <= line.keys()
        low, high = line["interval"]
        assert 0 <= low <= line["accuracy"] <= high <= 1
        assert line["clips"] == 24
    report = (tmp_path / "out" / "report.html").read_text()
    assert "synthetic" in report.lower()
    assert len(list((tmp_path / "out" / "media").glob("Actor_*/*.mp4"))) == 96
    # Given again, nothing is made anew.
    before = (tmp_path / "out" / "demo_mbt" / "metrics.jsonl").read_text()
    run(root, program, *words, folder=tmp_path)
    assert (tmp_path / "out" / "demo_mbt" / "metrics.jsonl").read_text().startswith(before)


@pytest.mark.long
def test_figures_make_their_tables(root, tmp_path, request):
    program = str(root / "experiments" / "figures.py")
    parts = ["demo", "interaction"]
    words = ["--out", "out", "--steps", "2", "--clips-per-actor", "4", "--seeds", "0", "1"]
    run(root, program, *parts, *words, folder=tmp_path)
    demo = (tmp_path / "out" / "demo.md").read_text().splitlines()
    assert len(demo) == 9
    assert all(line.count("|") == 6 for line in demo[:7])
    assert "demo_congruence_mbt" in (tmp_path / "out" / "interaction.md").read_text()


@pytest.mark.long
def test_figures_on_real_digits(root, tmp_path, test_data):
    program = str(root / "experiments" / "figures.py")
    words = ["--out", "out", "--steps", "2", "--speakers", "lucas", "--digits-data", str(test_data / "fsdd")]
    run(root, program, "digits", *words, folder=tmp_path)
    table = (tmp_path / "out" / "digits.md").read_text()
    for row in ("logistic regression, both", "digits_mbt", "minutes of training"):
        assert row in table


@pytest.mark.long
def test_benchmarks_print_ratios(root, tmp_path):
    folder = root / "experiments" / "benchmarks"
    shown = run(root, str(folder / "logmel.py"), "--clips", "1", "--rounds", "2", "--json", folder=tmp_path).stdout
    assert json.loads(shown)
    program = str(folder / "train_step.py")
    words = ["--rounds", "1", "--batch", "1", "--size", "32,2,2", "--torch-python", sys.executable, "--json"]
    shown = json.loads(run(root, program, *words, folder=tmp_path).stdout)
    assert [one["name"] for one in shown["contestants"]] == ["avjax", "avjax, huge pages"]
    assert all(one["memory"] > 0 and one["cpu"]["median"] > 0 for one in shown["contestants"])
    # Our own Python has no PyTorch.
    assert "No module named 'torch'" in shown["left_out"]["torch eager"]
    words = ["--batch", "1", "--size", "Ti", "--json"]
    plans = json.loads(run(root, str(folder / "train_memory.py"), *words, folder=tmp_path).stdout)["plans"]
    assert plans["blockwise"]["beside"] < plans["dense"]["beside"] / 2
