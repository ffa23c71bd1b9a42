"""What each thread is busy with, and a thread of its own that says so when something takes too long.

    with doing("reading record 17 of train"):
        ...

costs a microsecond. The watchdog warns when the training loop stands still, says what it waits for and what the
threads behind it are at, and tells ``avjax launch``, where that has started the process, that the process is alive.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)

# The file descriptor on which `avjax launch` listens; one JSON object a line.
HEARTBEAT_DESCRIPTOR = "AVJAX_HEARTBEAT"

_busy: dict[int, list[tuple[str, float]]] = {}


class doing:
    """Says what this thread does while the block runs; blocks may lie in one another."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        _busy.setdefault(threading.get_ident(), []).append((self._what, time.monotonic()))

    def __exit__(self, *exception: object) -> None:
        thread = threading.get_ident()
        _busy[thread].pop()
        if not _busy[thread]:
            del _busy[thread]


def busy(thread: int | None = None) -> list[tuple[str, float]]:
    """(what, for how many seconds) of a thread, innermost; or of all threads, longest first."""
    now, stacks = time.monotonic(), dict(_busy)
    chosen = [stacks[thread]] if thread in stacks else [] if thread is not None else list(stacks.values())
    innermost = [stack[-1] for stack in (list(stack) for stack in chosen) if stack]
    return sorted(((what, now - since) for what, since in innermost), key=lambda pair: -pair[1])


def explain(besides: int | None = None) -> str:
    """What the threads other than ``besides`` have been at for more than a second, as words for a message."""
    own = busy(besides)
    others = [f"{what}, for {age:.0f} s" for what, age in busy() if age > 1 and (what, age) not in own]
    others = [words for words in others if not own or not words.startswith(f"{own[0][0]},")]
    return f" ({'; '.join(others[:3])})" if others else ""


class Watchdog:
    """Watches one thread, the one that makes it.

    Args:
      first_warning: seconds that one thing may take before a warning says so; then at twice the time, and so on.
      every: seconds between two looks.
    """

    def __init__(self, first_warning: float = 60.0, every: float = 1.0):
        self._watched = threading.get_ident()
        self._first, self._every = first_warning, every
        self._ended = threading.Event()
        descriptor = os.environ.get(HEARTBEAT_DESCRIPTOR)
        self._descriptor = None if descriptor is None else int(descriptor)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        warn_at, before = self._first, None
        while not self._ended.wait(self._every):
            now = busy(self._watched)
            what, age = now[0] if now else ("working", 0.0)
            self._tell(what, age)
            if what != before:
                warn_at, before = self._first, what
            if age >= warn_at:
                log.warning("for %.0f s: %s%s", age, what, explain(self._watched))
                warn_at *= 2

    def _tell(self, what: str, age: float) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps({"doing": what, "seconds": round(age, 1)}).encode() + b"\n")
        except BrokenPipeError:
            # Whoever started this process is gone, and its other processes with it: save, and end.
            self._descriptor = None
            # Nobody reads its words any more, and an error about that must not come before the checkpoint.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            os.kill(os.getpid(), signal.SIGTERM)
        except OSError:
            self._descriptor = None


@contextlib.contextmanager
def watched(first_warning: float) -> Iterator[None]:
    """Watches this thread while the block runs; warnings only where ``first_warning`` is above 0."""
    with Watchdog(first_warning if first_warning > 0 else float("inf")):
        yield
