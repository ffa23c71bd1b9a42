"""Meshes and real processes: the same records at every step, the same losses, and checkpoints that fit all of them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from avjax.launch import Job, environment
from avjax.run import Run
from tests.levels import in_short
from tests.training.conftest import PATIENCE_SECONDS, Commands, finished, losses

pytestmark = pytest.mark.slow

STEPS = 20
WORDS = ("--quiet", "--training.steps", STEPS, "--training.log-every", 1, "--training.checkpoint-every", 4)
WORDS = (*WORDS, "--training.keep-last", 9)
# Name -> processes, devices of each, words.
TOPOLOGIES = {
    "one device": (1, 1, ()),
    "data=8": (1, 8, ()),
    "data=4 x sequence=2, scanned": (1, 8, ("--training.mesh.sequence", 2, "--training.scan")),
    "2 processes": (2, 1, ()),
    "4 processes": (4, 1, ()),
    # Rows that lie on devices of two processes.
    "2 processes, tensor=2": (2, 1, ("--training.mesh.data", 1, "--training.mesh.tensor", 2)),
    "2 processes x 2 devices, sequence=4": (2, 2, ("--training.mesh.data", 1, "--training.mesh.sequence", 4)),
    "2 processes x 2 devices, fsdp=2": (2, 2, ("--training.mesh.fsdp", 2)),
    "fsdp=4 x tensor=2": (1, 8, ("--training.mesh.fsdp", 4, "--training.mesh.tensor", 2)),
}


def train(experiment: Path, folder: Path, topology: str) -> Path:
    """Trains below ``folder`` as one process, or as several that find each other by what their launcher has set."""
    count, devices, words = TOPOLOGIES[topology]
    folder.mkdir(exist_ok=True)
    commands = Commands(folder)
    command = commands.command(
        "train", experiment, "--out", folder / "run", *WORDS, *words, program="tests.fixtures.recorded"
    )
    job = Job((), count, devices=devices)
    address = "127.0.0.1:0" if count == 1 else f"127.0.0.1:{free_port()}"
    children = []
    for number in range(count):
        told = environment(commands.environment(devices), job, number, address, heartbeat=0)
        told |= {"RECORDED": str(folder / "recorded")}
        del told["AVJAX_HEARTBEAT"]
        output = (folder / f"output-{number}").open("w")
        children.append(subprocess.Popen(list(command), env=told, cwd=folder, stdout=output, stderr=subprocess.STDOUT))
        output.close()
    for number, child in enumerate(children):
        status = child.wait(timeout=PATIENCE_SECONDS)
        assert status == 0, (folder / f"output-{number}").read_text()
    return folder / "run"


def free_port() -> int:
    from avjax.launch import _free_port

    return _free_port()


def records(folder: Path, topology: str) -> list[list[int]]:
    """Records of every global batch, row by row: the processes' rows one after the other."""
    parts = []
    for number in range(TOPOLOGIES[topology][0]):
        lines = (folder / f"recorded-{number}").read_text().splitlines()
        # Behind the training batches come those of the last evaluation.
        parts.append([json.loads(line) for line in lines[:STEPS]])
    shared = "tensor=2" in topology or "sequence=4" in topology
    if shared and len(parts) > 1:
        # Each process reads all rows.
        assert all(part == parts[0] for part in parts)
        return parts[0]
    return [[index for part in step for index in part] for step in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def trained(tiny_experiment, tmp_path_factory):
    """From a topology to the folder in which it has trained, once."""

    @functools.cache
    def folder_of(topology: str) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        train(tiny_experiment, folder, topology)
        return folder

    return folder_of


# Other meshes of one process: test_loop.py and test_sharding.py. Each topology starts programs that compile anew.
SHORT = ("2 processes x 2 devices, fsdp=2",)


@pytest.mark.parametrize(
    "topology", in_short((name for name in TOPOLOGIES if name not in ("one device", "fsdp=4 x tensor=2")), SHORT)
)
def test_the_same_run_on_any_topology(topology, trained):
    one, there = trained("one device"), trained(topology)
    assert records(there, topology) == records(one, "one device")
    expected, found = losses(one / "run"), losses(there / "run")
    assert list(found) == list(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    results = Run(there / "run").results()
    assert results["environment"]["processes"] == TOPOLOGIES[topology][0]
    assert results["test"]["losses"]["loss"] == pytest.approx(
        Run(one / "run").results()["test"]["losses"]["loss"], rel=1e-3
    )


@pytest.fixture(scope="module")
def saved(trained):
    """A run on data=8, and its checkpoint of step 12 alone."""
    folder = trained("data=8")
    run, halfway = folder / "run", folder / "halfway"
    assert finished(run) == [4, 8, 12, 16, 20]
    shutil.copytree(run, halfway)
    for step in (4, 8, 16, 20):
        shutil.rmtree(halfway / "checkpoints" / str(step))
    os.remove(halfway / "results.json")
    (halfway / "metrics.jsonl").write_text("")
    return run, halfway


@pytest.mark.parametrize("topology", ["one device", "fsdp=4 x tensor=2", "2 processes x 2 devices, fsdp=2"])
@pytest.mark.long
def test_saved_here_resumed_there(topology, tiny_experiment, saved, tmp_path):
    """Saved on data=8."""
    run, halfway = saved
    folder = tmp_path / "there"
    folder.mkdir()
    shutil.copytree(halfway, folder / "run")
    train(tiny_experiment, folder, topology)
    expected, found = losses(run), losses(folder / "run")
    assert list(found) == list(range(13, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), [expected[step] for step in found], rtol=1e-4)
    # And where it was not trained: one device evaluates what the others have left.
    Commands(tmp_path).run("eval", folder / "run", "--json")
