"""What the tests of the loop share: a tiny experiment, commands in processes of their own, and what they leave."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from avjax.run import Run
from avjax.training.checkpoint import Checkpoints, named_leaves
from avjax.training.on_mesh import build_state
from avjax.training.sharding import MeshShape
from tests.fixtures.records import write_experiment, write_records

PATIENCE_SECONDS = 300


class Commands:
    """avjax in processes of its own, with one host device each unless told."""

    def __init__(self, folder: Path):
        self.folder = folder

    def environment(self, devices: int = 1) -> dict[str, str]:
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
        flags = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
        # Wide, so that no message is broken into lines.
        return os.environ | {"XLA_FLAGS": flags, "COLUMNS": "1000", "PYTHONUNBUFFERED": "1"}

    def command(self, *words: object, program: str = "avjax.cli") -> list[str]:
        return [sys.executable, "-m", program, *map(str, words)]

    def run(self, *words: object, status: int = 0, devices: int = 1, **options) -> subprocess.CompletedProcess[str]:
        """Runs to the end, which must have this status."""
        ended = subprocess.run(
            self.command(*words), env=self.environment(devices), cwd=self.folder, text=True, capture_output=True,
            timeout=PATIENCE_SECONDS, check=False, **options,
        )  # fmt: skip
        assert ended.returncode == status, f"status {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    @contextlib.contextmanager
    def start(self, *words: object, devices: int = 1) -> Iterator[subprocess.Popen]:
        """Runs beside the test; killed at the end of the block if it is still there. See ``said``."""
        # A file, since a pipe that nobody reads would stop it.
        with tempfile.TemporaryFile("w+") as output:
            child = subprocess.Popen(
                self.command(*words), env=self.environment(devices), cwd=self.folder,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            child.stdout = output
            try:
                yield child
            finally:
                if child.poll() is None:
                    child.kill()
                child.wait()


def said(child: subprocess.Popen) -> str:
    """All that a process started by ``Commands.start`` has written."""
    child.stdout.seek(0)
    return child.stdout.read()


def until(happened: Callable[[], bool], child: subprocess.Popen | None = None, seconds: float = PATIENCE_SECONDS):
    """Waits for something that a process does."""
    deadline = time.monotonic() + seconds
    while not happened():
        if child is not None and child.poll() is not None and not happened():
            raise AssertionError(f"it ended first: {said(child)}")
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def finished(run: Path) -> list[int]:
    """Steps of the checkpoints of a run that are whole."""
    return Checkpoints(run / "checkpoints").finished()


def parameters(run: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint: parameters, moments, step; on one device."""
    import jax

    experiment = Run(run).experiment()
    _, _, abstract = build_state(experiment, MeshShape().build(jax.devices()[:1]))
    checkpoints = Checkpoints(run / "checkpoints")
    state, _ = checkpoints.load(checkpoints.newest(), abstract)
    return {name: np.asarray(value) for name, value in named_leaves(state).items()}


def assert_same_parameters(run: Path, other: Path) -> None:
    expected, found = parameters(other), parameters(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def losses(run: Path) -> dict[int, float]:
    """Step -> loss, the last that was written for it."""
    return {line["step"]: line["train/loss"] for line in Run(run).metrics() if "train/loss" in line}


def descendants(process: int) -> list[int]:
    """Processes that a process has started, in the order of their start."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(number) for number in listed]


def send(process: int, number: signal.Signals) -> None:
    os.kill(process, number)


@pytest.fixture(scope="session")
def tiny_experiment(tmp_path_factory) -> Path:
    """An experiment file on tiny records, made once."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_experiment(folder / "experiments", write_records(folder / "records"))


@pytest.fixture
def commands(tmp_path) -> Commands:
    return Commands(tmp_path)
