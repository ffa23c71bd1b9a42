"""Compiles for TPUs that are not there, in a process of its own with a time limit, and says what came of it.

    with Compiler("v5e") as compiler:
        figures = compiler.compile(Job("v5e", "mbt_audioset"))

Everything here is a static estimate, not measured: bundles are cycles of a core that never waits for memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any

from kernels.aot.jobs import Job, executed
from kernels.attention.mask import Mask

SECONDS = 300.0
BODIES = ("whole", "masked")


class CannotCompile(Exception):
    """A job that the compiler or the implementation refuses; the message says why."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the compiler says of a job.

    Attributes:
      kernels: by name, ``whole`` and ``masked`` (blocks without and with a mask): bundles, spills, fills, slots.
      memory: bytes of the program: temporary, arguments, outputs.
      xla_cycles: libtpu's estimate of what is not in kernels; None where it has none for some of it.
      seconds: to compile.
    """

    job: Job
    kernels: dict[str, dict[str, dict[str, Any]]]
    memory: dict[str, int]
    xla_cycles: int | None
    seconds: float

    def bundles(self, kernel: str, body: str = "whole") -> int:
        return self.kernels[kernel][body]["bundles"]

    def cycles(self, mask: Mask | None = None) -> dict[str, int]:
        """Of every kernel, bundles of a step times executed steps, all samples and heads."""
        steps = executed(self.job, mask)
        return {
            kernel: sum(steps[kernel][body] * found["bundles"] for body, found in bodies.items())
            for kernel, bodies in self.kernels.items()
        }


def libtpu() -> str | None:
    """The version of libtpu that is installed, or None."""
    if importlib.util.find_spec("libtpu") is None:
        return None
    return importlib.metadata.version("libtpu")


class Compiler:
    """A process that compiles for one target, started anew after a job that took too long.

    Raises:
      CannotCompile: where libtpu is not installed.
    """

    def __init__(self, target: str, seconds: float = SECONDS):
        if libtpu() is None:
            raise CannotCompile("libtpu is not installed: pip install 'avjax[tpu]'")
        self.target, self.seconds = target, seconds
        self._process: subprocess.Popen | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process; it starts again with the next job."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            for stream in (self._process.stdin, self._process.stdout, self._errors):
                # What was still to be written has nobody to read it.
                with contextlib.suppress(OSError):
                    stream.close()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def compile(self, job: Job) -> Figures:
        """Figures of a job for this target.

        Raises:
          CannotCompile: the compiler's first line, or that it took too long.
        """
        if job.target != self.target:
            raise ValueError(f"a job for {job.target} given to a compiler for {self.target}")
        if self._process is None:
            self._start()
        # Where it has died, the end of its answers says so.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=self.seconds)
        except queue.Empty:
            self.close()
            raise CannotCompile(f"took more than {self.seconds:.0f} s") from None
        if not line:
            self._errors.seek(0)
            words = self._errors.read().strip()[-500:]
            self.close()
            raise CannotCompile(f"the compiling process ended: {words}")
        answer = json.loads(line)
        if "error" in answer:
            raise CannotCompile(answer["error"])
        found = answer["found"]
        kernels = {
            # Splash has one body for both.
            name: dict(zip(BODIES, bodies, strict=False)) if len(bodies) <= len(BODIES) else _refuse(name, bodies)
            for name, bodies in found["kernels"].items()
        }
        return Figures(job, kernels, found["memory"], found["xla_cycles"], found["seconds"])

    def _start(self) -> None:
        self._folder = folder = tempfile.mkdtemp(prefix="avjax-aot-")
        flags = (
            f"--xla_jf_dump_to={folder}",
            "--xla_jf_dump_llo_text=true",
            "--xla_jf_dump_llo_pass_label_regex=.*final.*",
        )
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": " ".join(flags), "TPU_SKIP_MDS_QUERY": "1",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_ENABLE_COMPILATION_CACHE": "false", "TPU_STDERR_LOG_LEVEL": "3",
        }  # fmt: skip
        # A file, not a pipe: nobody reads what it says there until it has died.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kernels.aot.worker", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, env=environment,
        )  # fmt: skip
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=_read, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()


def _refuse(name: str, bodies: list) -> dict:
    raise CannotCompile(f"the schedule of {name} has {len(bodies)} bodies that use the matrix unit, not one or two")


def _read(stream: Any, lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
