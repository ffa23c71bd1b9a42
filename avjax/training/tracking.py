"""What a run tells: metrics.jsonl and TensorBoard events; and where the time of a loop goes."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX import SummaryWriter


class Tracker:
    """Writes numbers to a run directory; on every process but the first it writes nothing.

    Args:
      path: of the run.
      start: step from which it goes on; events of later steps, left by a run that was killed, are taken back.
      first: whether this is process 0.
    """

    def __init__(self, path: Path, *, start: int = 0, first: bool = True):
        self._lines = self._events = None
        if first:
            self._lines = (path / "metrics.jsonl").open("a", buffering=1)
            self._end_torn_line(path / "metrics.jsonl")
            self._events = SummaryWriter(str(path / "events"), flush_secs=30, purge_step=start + 1)

    def _end_torn_line(self, file: Path) -> None:
        """A killed run may have left half a line; the next must not go the same way."""
        if file.read_bytes()[-1:] not in (b"", b"\n"):
            self._lines.write("\n")

    def write(self, step: int, **numbers: float) -> None:
        """One line of metrics."""
        if self._lines is None:
            return
        numbers = {name: float(value) for name, value in numbers.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **numbers}) + "\n")
        for name, value in numbers.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._events.close()


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
