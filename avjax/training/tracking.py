"""What a run tells: metrics.jsonl and TensorBoard events; where the time of a loop goes, and on which machine."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

import avjax
from avjax.streams import Batch

log = logging.getLogger(__name__)


FLUSH_EVERY_SECONDS = 30.0


class Tracker:
    """Writes numbers to a run directory; on every process but the first it writes nothing.

    Args:
      path: of the run.
      start: step from which it goes on; events of later steps, left by a run that was killed, are taken back.
      first: whether this is process 0.
    """

    def __init__(self, path: Path, *, start: int = 0, first: bool = True):
        self._folder = path
        self._lines = self._events = None
        if first:
            self._lines = (path / "metrics.jsonl").open("a", buffering=1)
            self._end_torn_line(path / "metrics.jsonl")
            (path / "events").mkdir(exist_ok=True)
            # Not SummaryWriter: its thread would tell of a full disk by a traceback, at some other time.
            self._events = EventsWriter(str(path / "events" / "events"))
            begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._events.write_event(event_pb2.Event(step=start + 1, session_log=begun))
            self._flushed = time.monotonic()

    def _end_torn_line(self, file: Path) -> None:
        """A killed run may have left half a line; the next must not go the same way."""
        if file.read_bytes()[-1:] not in (b"", b"\n"):
            self._lines.write("\n")

    def write(self, step: int, **numbers: float) -> None:
        """One line of metrics; what is no number becomes null, which JSON has, and no event.

        Raises:
          OSError: where it cannot be written; names the file.
        """
        if self._lines is None:
            return
        now, numbers = time.time(), {name: float(value) for name, value in numbers.items()}
        values = [tensorboardX.summary.scalar(name, value) for name, value in numbers.items() if np.isfinite(value)]
        try:
            line = {"step": step, "time": round(now, 3), **finite(numbers)}
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            for value in values:
                self._events.write_event(event_pb2.Event(step=step, wall_time=now, summary=value))
            if time.monotonic() - self._flushed > FLUSH_EVERY_SECONDS:
                self._events.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            why = f"{error.strerror}; the checkpoints are whole, and the same command goes on from the last"
            raise OSError(error.errno, why, self._lines.name) from error

    def close(self) -> None:
        if self._lines is None:
            return
        for writer in (self._lines, self._events):
            try:
                writer.close()
            except OSError as error:
                log.warning("the last lines of %s may be missing: %s", self._folder, error.strerror)


def finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """None in place of what is no number: JSON has no word for it."""
    return {name: value if np.isfinite(value) else None for name, value in numbers.items()}


class Stopwatch:
    """Where the time of the loop goes: the length of each step, and how much of it was spent waiting for data."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.waits: list[float] = []
        self._last: float | None = None
        self._waited = 0.0
        self._told = 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around everything in which the loop waits for data; the device may still be busy with the step before."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - begin

    def step_done(self) -> None:
        """Called once a step, when its result has arrived. The first, which compiles, and the first after a pause
        do not count."""
        now = time.perf_counter()
        if self._last is not None:
            self.steps.append(now - self._last)
            self.waits.append(self._waited)
        self._last, self._waited = now, 0.0

    def pause(self) -> None:
        """The time until the next step belongs to something else (an evaluation)."""
        self._last = None

    def latest(self) -> tuple[list[float], list[float]]:
        """Steps and waits since this was last asked."""
        begin, self._told = self._told, len(self.steps)
        return self.steps[begin:], self.waits[begin:]


def speed(steps: Sequence[float], waits: Sequence[float], rows: int) -> dict[str, float]:
    """Throughput, step-time percentiles (seconds), and the share of time in which the loop waited for data.

    Args:
      steps: seconds of each step.
      waits: how much of them was waiting for data.
      rows: of a batch.
    """
    if not steps:
        return {}
    middle, tail = np.percentile(steps, [50, 95])
    return {
        "speed/clips_per_second": rows / float(np.mean(steps)),
        "speed/step_seconds_p50": float(middle),
        "speed/step_seconds_p95": float(tail),
        "speed/data_share": sum(waits) / sum(steps),
    }


class BareStep:
    """Times the jitted step by itself now and then, between the steps of a loop, so that both meet the same machine.

    The step uses up its state, so it is given copies: twice the memory, while it measures.
    """

    EVERY, REPEATS = 10, 3

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def due(self, number: int) -> bool:
        return number % self.EVERY == 0

    def measure(self, train_step: Callable[..., Any], state: Any, batch: Batch, seed: jax.Array) -> None:
        """Runs the step a few times; training's own state stays as it is."""
        state = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        for _ in range(self.REPEATS):
            begin = time.perf_counter()
            state, metrics = train_step(state, batch, seed)
            jax.block_until_ready((state, metrics))
            self.seconds.append(time.perf_counter() - begin)

    def compared(self, measured: dict[str, float]) -> dict[str, float]:
        """Says how the loop compares, and returns it for results.json.

        Args:
          measured: what ``speed`` says of the loop.
        """
        if not self.seconds or not measured:
            return {}
        bare, loop = float(np.median(self.seconds)), measured["speed/step_seconds_p50"]
        log.info(
            "median step of the loop %.4f s, %.3f times the bare step (%.4f s); waiting for data %.1f %% of the time",
            loop, loop / bare, bare, 100 * measured["speed/data_share"],
        )  # fmt: skip
        return {"speed/bare_step_seconds_p50": bare, "speed/loop_overhead": loop / bare}


def commit() -> str | None:
    """Of the checkout around the package, with "-dirty" where files of it were changed; None where it is installed."""
    root = Path(avjax.__file__).parents[1]
    # Another repository may lie around what was installed.
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment() -> dict[str, Any]:
    """What the run was trained on: versions, the commit where it is known, and devices."""
    versions = {name: version(name) for name in ("jax", "flax", "optax", "numpy")}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "avjax": avjax.__version__,
        "commit": commit(),
        **versions,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
    }
