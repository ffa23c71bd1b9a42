"""`avjax plan kernels`, the baseline's command and the tables of docs/kernels.md: the commands that are documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from avjax.cli import main
from kernels.aot import tuning
from kernels.aot.compiler import libtpu

needs_libtpu = pytest.mark.skipif(libtpu() is None, reason="needs libtpu: pip install 'avjax[tpu]'")


@pytest.mark.slow
@needs_libtpu
def test_a_plan_has_schedules_and_steps(tmp_path, capsys):
    words = [
        "plan",
        "kernels",
        "--target",
        "v5e",
        "--specs",
        "mbt_audioset",
        "--implementations",
        "mosaic_tpu",
        "splash",
    ]
    assert main([*words, "--presence", "video=0.5", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Static estimate, not measured" in printed
    assert "v5e, mbt_audioset, splash" in printed
    ours, splash = json.loads((tmp_path / "kernels.json").read_text())["programs"]
    assert ours["kernels"]["forward"]["cycles"] < 0.7 * splash["kernels"]["forward"]["cycles"]
    forward = ours["kernels"]["forward"]
    steps = {body: forward["steps"][body] * forward["bodies"][body]["bundles"] for body in ("whole", "masked")}
    assert forward["cycles"] == sum(steps.values())


@pytest.mark.slow
@needs_libtpu
def test_what_cannot_be_planned_is_said_and_the_rest_is_planned(capsys):
    words = ["plan", "kernels", "--specs", "gqa", "--batch", "1", "--implementations", "splash", "reference", "--json"]
    assert main(words) == 0
    splash, dense = json.loads(capsys.readouterr().out)["programs"]
    assert "as many key heads as query heads" in splash["error"]
    assert dense["xla_cycles"] > 0


@pytest.mark.slow
@pytest.mark.long
@needs_libtpu
def test_sizes_are_searched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "candidates", lambda: iter([(256, 256, 128, 128)]))
    assert main(["plan", "kernels", "--target", "v6e", "--specs", "cav_mae", "--tune", "--tuned", str(tmp_path)]) == 0
    assert "forward      blocks of 256 x 256" in capsys.readouterr().out
    assert {entry["tokens"] for entry in json.loads((tmp_path / "v6e.json").read_text())["sizes"]} == {1024}


@pytest.mark.slow
@pytest.mark.long
@needs_libtpu
def test_the_baseline_is_compared():
    done = subprocess.run(
        [sys.executable, "-m", "kernels.aot.baseline", "--targets", "v5e"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "v5e, mbt_audioset, mosaic_tpu, batch 1, bfloat16, both: forward, whole: " in done.stdout


@pytest.mark.slow
@pytest.mark.long
@needs_libtpu
def test_tables(root, tmp_path):
    words = ["--targets", "v5e", "--blocks", "256", "--specs", "cav_mae", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(root / "experiments/benchmarks/kernel_plan.py"), *words], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = json.loads((tmp_path / "kernel_plan.json").read_text())
    assert {row["kernel"] for row in tables["blocks"]} == {"forward", "of_queries", "of_keys"}
    assert all(row["ratio"] > 0 for row in [*tables["shapes"], *tables["dense"]])
    assert "| v5e | 256 | forward |" in done.stdout


WRONG = {
    "another plan": (["pods"], "there is one plan, kernels"),
    "a shape": (["kernels", "--specs", "mbt_audiosett"], "no 'mbt_audiosett'"),
    "a statistic": (["kernels", "--statistics", "masses"], "no 'masses'"),
    "a share": (["kernels", "--presence", "video"], "write GROUP=SHARE"),
    "too much": (["kernels", "--presence", "video=2"], "must be from 0 to 1"),
    "tuning a peer": (["kernels", "--tune", "--implementations", "splash"], "only mosaic_tpu has sizes"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_words_get_one_line(what, capsys, monkeypatch):
    words, message = WRONG[what]
    # The words are looked at before a compiler is started, which may not be there.
    monkeypatch.setattr("kernels.aot.compiler.libtpu", lambda: "0")
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_libtpu_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("kernels.aot.compiler.libtpu", lambda: None)
    assert main(["plan", "kernels"]) == 2
    assert "pip install 'avjax[tpu]'" in capsys.readouterr().err


def test_sizes_on_file_are_sound():
    """Every file of kernels/tuned can be read, says what it is, and has sizes that cut blocks evenly."""
    files = sorted(path for path in tuning.TUNED.glob("*.json") if path.name != "baseline.json")
    assert files
    for file in files:
        content = json.loads(Path(file).read_text())
        assert content["target"] == file.stem
        assert content["basis"] == "static estimate, not measured"
        for entry in content["sizes"]:
            rows, columns, row_chunk, column_chunk = entry["sizes"]
            assert entry["direction"] in tuning.KERNELS
            assert rows % row_chunk == 0
            assert columns % column_chunk == 0
