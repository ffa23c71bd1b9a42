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
      first: whether this is process 0.
    """

    def __init__(self, path: Path, *, first: bool = True):
        self._lines = (path / "metrics.jsonl").open("a", buffering=1) if first else None
        self._events = SummaryWriter(str(path / "events"), flush_secs=30) if first else None

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
    """Where the time of the loop goes: seconds by name, and the length of each step."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.steps: list[float] = []
        self._last: float | None = None

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - begin

    def step_done(self) -> None:
        """Called once a step, when its result has arrived."""
        now = time.perf_counter()
        if self._last is not None:
            self.steps.append(now - self._last)
        self._last = now

    def pause(self) -> None:
        """The time until the next step belongs to something else (an evaluation)."""
        self._last = None
