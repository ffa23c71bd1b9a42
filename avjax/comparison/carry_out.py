"""Trains and measures the runs of a comparison, each in a process of its own.

So that the memory of each is its own, and a crash of one is a failure that is counted, told, and stops nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from avjax.comparison.plan import Planned
from avjax.data.records import Records
from avjax.progress import progress
from avjax.run import Run, RunError, read_json

GRACE_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 1.0


def carry_out(runs: Sequence[Planned], out: Path, *, late: float, quiet: bool = False) -> dict[Path, str]:
    """Trains and measures what is not there yet.

    Args:
      out: folder of the comparison.
      late: seconds by which pictures come late where sound and pictures are misaligned.

    Returns:
      Path of each run that failed -> why. The same command tries it again.

    Raises:
      RunError: where another process is at work in ``out``.
    """
    failures: dict[Path, str] = {}
    total = sum(run.steps for run in runs)
    with _alone(out) as lock, _terminable():
        done = sum(run.steps for run in runs if run.is_trained())
        with progress(f"compare in {out}", total, start=done, quiet=quiet) as advance:
            for number, run in enumerate(runs, start=1):
                note = f"{run.name}, seed {run.seed} (run {number} of {len(runs)})"
                was_trained = run.is_trained()
                try:
                    if not was_trained:
                        _train(run, lock, lambda step, note=note, done=done: advance(done + step, note))
                    if not is_measured(run.path, late):
                        advance(done + (0 if was_trained else run.steps), f"{note}, measuring")
                        words = ["avjax.comparison.measure", str(run.path), "--late", str(late)]
                        _process(words, run.log, lock)
                except (RunError, OSError) as error:
                    failures[run.path] = str(error)
                # Failed or not, nothing more comes of it.
                done += 0 if was_trained else run.steps
                advance(done, note)
    return failures


def is_measured(path: Path, late: float) -> bool:
    """Whether the run's conditions.json is whole, of its records as they are now, and of this misalignment."""
    file = path / "conditions.json"
    if not file.is_file() or not (path / "costs.json").is_file():
        return False
    found = read_json(file)
    records = Records(read_json(path / "config.json")["data"]["records"])
    return found["late"] == late and found["fingerprint"] == records.fingerprint and "task" in found


def _train(run: Planned, lock: int, tell: Callable[[int], None]) -> None:
    """Raises RunError where the run is another one, or did not come to its end."""
    Run.create(run.path, run.experiment, run.source)
    words = ["avjax.cli", "train", run.reference, "--out", str(run.path), "--quiet", *run.source.words]
    lines = Run(run.path)
    told = 0

    def look() -> None:
        nonlocal told
        step = max((line["step"] for line in lines.metrics()), default=0)
        if step > told:
            told = step
            tell(step)

    _process(words, run.log, lock, look)
    if not run.is_trained():
        raise RunError(f"training was stopped from outside; see {run.log}")


def _process(words: Sequence[str], log: Path, lock: int, look: Callable[[], None] = lambda: None) -> None:
    """Runs a module of ours to its end; what it says goes to the log.

    It holds the lock as long as it lives, also where this process has been killed.

    Raises:
      RunError: with what it said of it, where its status is not 0.
    """
    with log.open("ab") as output:
        output.write(f"python -m {' '.join(words)}\n".encode())
        output.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=output, stderr=subprocess.STDOUT, pass_fds=(lock,)
        )
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK_EVERY_SECONDS)
                look()
        finally:
            _end(child)
    if child.returncode:
        killed = f"it was killed by signal {-child.returncode}; " if child.returncode < 0 else ""
        raise RunError(f"{killed}{error_in(log.read_text(errors='replace'))} (all of it in {log})")


def error_in(said: str) -> str:
    """The last line that names an error, or the last of all: notes may follow an exception."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"avjax: |[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or lines)[-1]


def _end(child: subprocess.Popen) -> None:
    """A child that is still there saves its state and ends."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[int]:
    """Holds the folder's lock, which the processes started meanwhile share."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another avjax compare, or a run that it started, is at work in {out}") from error
        yield file.fileno()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the run at work is saved."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
