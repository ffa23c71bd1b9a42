"""The processes that prepare shards.

Workers are started as fresh programs over socket pairs, never forked (a process forked after an ArrayRecord writer
exists hangs), and without importing the parent's main module, which would cost each of them the import of jax.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from avjax.data.prepare_worker import Task

COMMAND = (sys.executable, "-m", "avjax.data.prepare_worker")
GRACE_SECONDS = 5.0  # for a worker beyond twice the time that a file may take


class PrepareError(RuntimeError):
    """Preparation cannot go on, for a reason that lies in no single file."""


class _Worker:
    """One worker process, what it was given and where it is."""

    def __init__(self, command: Sequence[str]):
        ours, theirs = socket.socketpair()
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self.task: Task | None = None
        self.place: int | None = None  # of the clip it is at
        self.since = time.monotonic()

    def give(self, task: Task) -> None:
        self.task, self.place, self.since = task, None, time.monotonic()
        try:
            self.connection.send(task)
        except BrokenPipeError:
            return  # it died: the next read of its connection finds out

    def end(self) -> int:
        """Its exit status; negative where a signal ended it."""
        if self.process.poll() is None:
            self.process.kill()
        self.connection.close()
        return self.process.wait()


def run_tasks(
    tasks: Sequence[Task],
    workers: int,
    limit_seconds: float,
    advance: Callable[[int, int], None],
) -> Iterator[dict[str, Any]]:
    """Yields the sidecar of each shard as it is finished.

    A worker that dies, or does not get past a file within twice ``limit_seconds``, is replaced, and its shard begun
    again. A file on which a worker hung, or two died, is left out and reported.

    Args:
      advance: told how many clips are behind us, and how many of them were bad.
    """
    waiting = deque(tasks)
    crew: list[_Worker] = []
    deaths: dict[tuple[str, int | None], int] = {}
    finished = bad = 0
    try:
        while waiting or any(worker.task for worker in crew):
            idle = [worker for worker in crew if worker.task is None]
            while waiting and (idle or len(crew) < workers):
                if not idle:
                    idle.append(_Worker(COMMAND))
                    crew.append(idle[0])
                idle.pop().give(waiting.popleft())
            ready = wait([worker.connection for worker in crew if worker.task], timeout=0.5)
            for worker in [worker for worker in crew if worker.task is not None]:
                reason = None
                if worker.connection in ready:
                    try:
                        kind, value = worker.connection.recv()
                    except (EOFError, ConnectionResetError):
                        reason = "died"
                    else:
                        worker.since = time.monotonic()
                        if kind == "failed":
                            raise PrepareError(_full_disk(value, worker.task))
                        if kind == "clip":
                            worker.place = value
                        if kind == "done":
                            finished += len(worker.task.clips)
                            bad += len(value["bad"])
                            worker.task = worker.place = None
                            yield value
                elif worker.place is not None and time.monotonic() - worker.since > 2 * limit_seconds + GRACE_SECONDS:
                    reason = "hung"
                if reason is not None:
                    crew.remove(worker)
                    waiting.appendleft(_again(worker, reason, deaths, limit_seconds))
            advance(finished + sum(worker.place or 0 for worker in crew), bad)
    finally:
        for worker in crew:
            worker.end()
        for task in tasks:
            (Path(task.out) / f".{task.file}.part").unlink(missing_ok=True)


def _again(worker: _Worker, reason: str, deaths: dict[tuple[str, int | None], int], limit_seconds: float) -> Task:
    """The task of a lost worker, for another: without the file that it hung on, or that two died on."""
    task, place, status = worker.task, worker.place, worker.end()
    assert task is not None
    key = (task.file, place)
    deaths[key] = deaths.get(key, 0) + 1
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if reason == "hung":
        why = f"not decoded within {limit_seconds:g} s: the decoder hung"
    elif place is None:
        if deaths[key] >= 3:
            raise PrepareError(
                f"three worker processes ended ({how}) before they could begin with {task.file}: "
                "see what they printed above; is there memory left for them? Finished shards are kept: run again"
            )
        return task
    elif deaths[key] < 2:
        return task
    else:
        why = f"two worker processes ended on it ({how}{', out of memory?' if status == -signal.SIGKILL else ''})"
    return dataclasses.replace(task, skip={**task.skip, place: why})


def _full_disk(message: str, task: Task) -> str:
    free = os.statvfs(task.out).f_bavail * os.statvfs(task.out).f_frsize
    return (
        f"{message}. {task.out} has {free / 2**20:.0f} MiB free. "
        "Make room and run the same command again: finished shards are kept"
    )
