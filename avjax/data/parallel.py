"""Many small tasks in spawned processes, with progress."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int | None = None,
    description: str,
    sizes: Sequence[int] | None = None,
) -> Iterator[T]:
    """Yields ``function(*task)`` for every task, as each is done.

    Args:
      function: importable by name, and cheap to import: every process imports it.
      tasks: arguments; they travel to the processes.
      workers: processes; None takes one a core. With one, everything runs in this process.
      description: what the progress says.
      sizes: how many steps of the bar each task is worth; one each where None.
    """
    # Here, since every process that runs a task imports this module.
    from avjax.progress import progress

    steps = list(sizes) if sizes is not None else [1] * len(tasks)
    workers = min(workers or cores(), len(tasks))
    behind = 0
    with progress(description, sum(steps)) as advance:
        if workers <= 1:
            for task, size in zip(tasks, steps, strict=True):
                result = function(*task)
                behind += size
                advance(behind)
                yield result
            return
        # Spawned, not forked: a fork after a thread or a record writer exists can hang.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = {pool.submit(function, *task): size for task, size in zip(tasks, steps, strict=True)}
            try:
                for future in concurrent.futures.as_completed(futures):
                    result = future.result()
                    behind += futures[future]
                    advance(behind)
                    yield result
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
