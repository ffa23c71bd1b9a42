"""avjax launch, and the files of experiments/launch/ for other launchers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avjax.cli import main
from avjax.launch import Job, environment
from avjax.training import distributed


def test_each_process_is_told_who_it_is():
    inherited = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_dump_to=x", "LANG": "C"}
    job = Job(["train"], 4, devices=2, limit=20.0)
    told = environment(inherited, job, 3, "127.0.0.1:99", heartbeat=7)
    assert told["XLA_FLAGS"] == "--xla_dump_to=x"
    assert told["JAX_NUM_CPU_DEVICES"] == "2"
    assert told["LANG"] == "C"
    assert (told[distributed.ADDRESS], told[distributed.PROCESSES], told[distributed.PROCESS]) == (
        "127.0.0.1:99", "4", "3",
    )  # fmt: skip
    assert distributed.launcher(told) == "avjax"
    # JAX waits longer than the launcher, whose message says more.
    assert int(told[distributed.HEARTBEAT]) == 40


def test_a_process_that_fails_ends_the_job_and_is_named(capfd, monkeypatch, root):
    monkeypatch.chdir(root)
    before = signal.getsignal(signal.SIGTERM)
    assert Job(["eval", "no/such/run"], 3).run() == 2
    shown = capfd.readouterr().err
    assert re.search(r"avjax launch: process [012] of 3 \(pid \d+\) ended with status 2; the job was ended", shown)
    assert re.search(r"^\[[012]\] avjax: no/such/run is not a run directory", shown, re.MULTILINE)
    assert signal.getsignal(signal.SIGTERM) is before


def test_processes_that_end_well_end_the_job(capfd, monkeypatch, root):
    monkeypatch.chdir(root)
    assert main(["launch", "--processes", "2", "--", "train", "--help"]) == 0
    shown = capfd.readouterr().out
    assert "[0] usage: avjax train" in shown
    assert "[1] usage: avjax train" in shown


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--processes", "2"], "behind -- stands what to run"),
        (["--processes", "2", "--", "eval", "x"], "behind -- stands what to run"),
        (["--processes", "0", "--", "train", "x"], "1 or more"),
        (["--processes", "2", "--limit", "0", "--", "train", "x"], "above 0"),
    ],
)
def test_what_cannot_be_launched(words, what, capsys):
    assert main(["launch", *words]) == 2
    assert what in capsys.readouterr().err


@pytest.fixture
def fake_srun(tmp_path):
    """srun that runs the command once, as the first of eight tasks on two nodes."""
    (tmp_path / "srun").write_text(
        "#!/usr/bin/env bash\nwhile [[ $1 == -* ]]; do shift; done\n"
        "export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_NODELIST='n[1-2]' SLURM_STEP_NUM_TASKS=2\n"
        'export SLURM_STEP_TASKS_PER_NODE="1(x2)"\nprintf "%s\\n" "$@" > words\n'
    )
    (tmp_path / "srun").chmod(0o755)
    return tmp_path


def test_the_slurm_script_hands_over_its_words(root, fake_srun):
    script = root / "experiments" / "launch" / "slurm.sh"
    environment = os.environ | {"PATH": f"{fake_srun}:{os.environ['PATH']}"}
    words = ["experiments/demo_mbt.py", "--optimizer.learning-rate", "1e-3", "a b"]
    subprocess.run(["bash", str(script), *words], env=environment, cwd=fake_srun, check=True)
    assert (fake_srun / "words").read_text().splitlines() == ["avjax", "train", *words]
    # SLURM reads its own lines before the first command.
    head = script.read_text().split("\nset -")[0]
    assert re.findall(r"^#SBATCH (.*)$", head, re.MULTILINE) == re.findall(r"#SBATCH (.*)", script.read_text())


def test_the_jobset_s_command_parses(root):
    """Shapes that Kubernetes wants of it, and words that avjax does."""
    file = yaml.safe_load((root / "experiments" / "launch" / "jobset.yaml").read_text())
    assert (file["kind"], file["apiVersion"]) == ("JobSet", "jobset.x-k8s.io/v1alpha2")
    (workers,) = file["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert job["parallelism"] == job["completions"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["command"][0] == "avjax"
    command = [sys.executable, "-m", "avjax.cli", *container["command"][1:], "--help"]
    subprocess.run(command, cwd=Path(root), check=True, stdout=subprocess.DEVNULL)
