"""Progress of long work on standard error: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

Advance = Callable[..., None]
"""Called as advance(done, note="") with how much is done, and something to show beside it."""

_LINE_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def progress(title: str, total: int, *, start: int = 0, quiet: bool = False) -> Iterator[Advance]:
    """Shows how far work of ``total`` parts has come; yields the function to tell it.

    Args:
      title: what is being done.
      total: number of parts.
      start: parts that were done before (a resumed run); they do not count towards the speed.
      quiet: shows nothing.
    """
    if quiet:
        yield lambda done, note="": None
    elif sys.stderr.isatty():
        with _bar(title, total, start) as advance:
            yield advance
    else:
        yield _lines(title, total, start)


@contextlib.contextmanager
def _bar(title: str, total: int, start: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=start, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


def _lines(title: str, total: int, start: int) -> Advance:
    begin = last = time.monotonic()

    def advance(done: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_EVERY_SECONDS and done < total:
            return
        last = now
        left = (now - begin) / max(done - start, 1) * (total - done)
        print(f"{title}: {done}/{total}, {left:.0f} s left{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    return advance
