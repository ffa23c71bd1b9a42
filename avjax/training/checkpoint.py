"""Checkpoints: the training state and its position in the data, written together, checked when read.

    RUN/checkpoints/150/arrays/          every array of the state by name, by Orbax
                        position.json    where the data stood, and the score of the validation split
                        checksums.json   of every other file; written last, so that a folder without it is unfinished
    RUN/checkpoints/damaged-120/         a checkpoint that did not agree with its checksums, set aside

A process that dies at any moment leaves whole checkpoints and at most one unfinished folder. Arrays are stored whole,
whatever devices they lie on, so that a checkpoint is read onto any mesh by any number of processes.
"""

from __future__ import annotations

import concurrent.futures
import difflib
import errno
import functools
import hashlib
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as orbax

from avjax.run import RunError, read_json, write_json
from avjax.training.distributed import first_says, is_first
from avjax.training.metrics.tasks import first_with, higher_is_better
from avjax.training.step import TrainState

# Orbax reports every phase of every save at this level; what users must know, the loop says itself.
logging.getLogger("absl").setLevel(logging.WARNING)
log = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
POSITION = "position.json"
# The task's own metric, as a name to choose the best checkpoint by.
PRIMARY = "primary"
# What a checkpoint takes beside its arrays, generously.
OVERHEAD_BYTES = 2**21


class CheckpointError(Exception):
    """A checkpoint that could not be written or read; says where, and what to do."""


@functools.cache
def silence_closed_loops() -> None:
    """No traceback, from now on, from threads of TensorStore that find an event loop closed.

    Orbax leaves its loop at the first file that cannot be written, and TensorStore then tells that loop about every
    other one: hundreds of tracebacks around the one message that says what to do.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """The checkpoints of a run.

    Args:
      path: folder; made when the first checkpoint is written. All processes see the same one.
      keep: number of newest checkpoints that stay, one at least; the one with the best score stays besides.
      best_by: name of the scores that count; those of another name, from before it was changed, do not.
    """

    def __init__(self, path: Path, keep: int = 2, best_by: str = PRIMARY):
        self.path = path.absolute()
        self.keep = max(keep, 1)
        self.best_by = best_by
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future[None] | None = None
        self._saved: set[int] = set()

    # ---------------------------------------------------------------- which there are

    def finished(self) -> list[int]:
        """Steps of the checkpoints that were written to the end, ascending."""
        found = [int(file.parent.name) for file in self.path.glob(f"*/{CHECKSUMS}") if file.parent.name.isdecimal()]
        return sorted(found)

    def newest(self, *, repair: bool = False) -> int | None:
        """The newest step whose files agree with their checksums, or None where there is no checkpoint at all.

        One warning names the newer ones that do not. With several processes the first one looks, and all are told.

        Args:
          repair: sets damaged checkpoints aside and removes unfinished ones, to go on from here.

        Raises:
          CheckpointError: where there are checkpoints, and all of them are damaged.
        """
        return first_says(lambda: self._newest(repair))

    def _newest(self, repair: bool) -> int | None:
        damaged: dict[int, str] = {}
        for step in reversed(self.finished()):
            problem = problem_of(self.path / str(step))
            if problem is None:
                break
            damaged[step] = problem
        else:
            step = None
        if damaged:
            what = "; ".join(f"checkpoint {number}: {problem}" for number, problem in damaged.items())
            if step is None:
                raise CheckpointError(
                    f"every checkpoint in {self.path} is damaged ({what}); bring one back, or delete the folder to"
                    " start over"
                )
            log.warning("damaged: %s, in %s; using the one of step %d", what, self.path, step)
        if repair:
            for number in damaged:
                self._set_aside(number)
            self._remove_unfinished()
        return step

    def best(self) -> int | None:
        """The step with the best score, of those that are kept; None where none was scored. All are told the same."""
        return first_says(self._best)

    def _best(self) -> int | None:
        scores = {}
        for step in self.finished():
            score = self.score(step)
            if score is not None and score["name"] == self.best_by:
                # The earlier of equal ones.
                scores[(score["value"] if score["higher_is_better"] else -score["value"], -step)] = step
        return scores[max(scores)] if scores else None

    def score(self, step: int) -> dict[str, Any] | None:
        """{"name", "value", "higher_is_better"} of the validation split, where it was looked at when saving."""
        try:
            return read_json(self.path / str(step) / POSITION).get("score")
        except (OSError, RunError):
            # Damaged, which matters only where it is read from.
            return None

    def _set_aside(self, step: int) -> None:
        aside = self.path / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.path / str(step)).rename(aside)

    def _remove_unfinished(self) -> None:
        for folder in self.path.glob("*") if self.path.is_dir() else []:
            if folder.name.isdecimal() and not (folder / CHECKSUMS).exists():
                shutil.rmtree(folder)

    # ---------------------------------------------------------------- writing

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Starts writing; the arrays are copied before this returns, and training may go on.

        Raises:
          CheckpointError: if the one before could not be written.
        """
        step = int(state.step)
        self.wait()
        if step in self._saved:
            return
        silence_closed_loops()
        folder = self.path / str(step)
        try:
            if is_first():
                folder.mkdir(parents=True, exist_ok=True)
                self._require_space(state)
                write_json(folder / POSITION, position)
            response = orbax.save_async(folder / "arrays", named_leaves(state))
        except Exception as error:
            raise self._failed(step, error) from error
        self._writing = self._thread.submit(self._finish, step, response)
        self._saved.add(step)

    def _require_space(self, state: TrainState) -> None:
        """Better before than after Orbax has filled the disk."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + OVERHEAD_BYTES
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                errno.ENOSPC, f"No space left: {needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            )

    def check(self) -> None:
        """Raises CheckpointError if a write has failed since this was last asked."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until what was saved is on disk. Raises CheckpointError if it could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Waits for the last write, and for what the first process still has to do with it."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _finish(self, step: int, response: Any) -> None:
        """In the thread: when the arrays are there, the checksums, then the checkpoints that are not kept."""
        try:
            response.result()
            if is_first():
                folder = self.path / str(step)
                write_json(folder / CHECKSUMS, checksums(folder))
        except Exception as error:
            raise self._failed(step, error) from error
        if is_first():
            try:
                self._remove_old()
            except OSError as error:
                # The new one is whole, and that is what counts.
                log.warning("an old checkpoint in %s could not be removed: %s", self.path, error)

    def _remove_old(self) -> None:
        steps = self.finished()
        for step in set(steps[: -self.keep]) - {self._best()}:
            # The checksums first: half a checkpoint must not look like a damaged one.
            (self.path / str(step) / CHECKSUMS).unlink()
            shutil.rmtree(self.path / str(step))

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        """Takes away what was written of it, so that its space is free again."""
        if is_first() and step not in self.finished():
            shutil.rmtree(self.path / str(step), ignore_errors=True)
        whole = self.finished()
        since = f"the same command goes on from step {whole[-1]}" if whole else "there is no older one"
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        if len(reason) > 300:
            reason = f"{reason[:200]} ... {reason[-100:]}"
        return CheckpointError(
            f"checkpoint {step} could not be written to {self.path}: {reason}. Free some space or mend the"
            f" permissions; {since}"
        )

    # ---------------------------------------------------------------- reading

    def load(self, step: int, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """A checkpoint, laid out as ``target`` (abstract arrays with shardings) says; and its position.

        Raises:
          CheckpointError: where it holds other arrays than ``target``: another model, optimizer or average.
        """
        abstract = named_leaves(target)
        try:
            loaded = orbax.load(self.path / str(step) / "arrays", abstract)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path / str(step)} does not hold what the experiment has: {' '.join(str(error).split())[:500]}"
            ) from error
        self._saved.add(step)
        leaves = [loaded[name] for name in abstract]
        return jax.tree.unflatten(jax.tree.structure(target), leaves), read_json(self.path / str(step) / POSITION)


def score_of(name: str, numbers: dict[str, float], primary: str) -> dict[str, Any] | None:
    """What a checkpoint remembers of the validation split, to be compared by; None where it is no number.

    Args:
      name: of the number, or "primary" for the task's own, of the first head, or the loss where no head has it.
      primary: what that is.

    Raises:
      ValueError: if the split has no number of this name.
    """
    found = name
    if name == PRIMARY:
        found = first_with(primary, [key.removeprefix("validation/") for key in numbers]) or "loss"
    value = numbers.get(f"validation/{found}")
    if value is None:
        names = sorted(known.removeprefix("validation/") for known in numbers)
        near = difflib.get_close_matches(name, names, n=1)
        raise ValueError(
            f"--training.best-by {name}: the validation split has no such number"
            + (f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names)}")
        )
    return {"name": name, "value": value, "higher_is_better": higher_is_better(found)} if np.isfinite(value) else None


def better_than(score: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a score is better than an earlier one of the same name."""
    return score["value"] > other["value"] if score["higher_is_better"] else score["value"] < other["value"]


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """File below a folder -> {"bytes", "sha256"}, but for the checksums' own file."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / CHECKSUMS):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        found[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    return found


def problem_of(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, the first of it; None where all agree with their checksums."""
    try:
        expected = read_json(folder / CHECKSUMS)
        for name, entry in expected.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {entry['bytes']}"
        found = checksums(folder)
        return next((f"{name} has changed" for name in expected if found[name] != expected[name]), None)
    except Exception as error:
        return f"{CHECKSUMS} or a file that it names cannot be read ({error})"


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree by its path, in the order of the tree's leaves."""

    def name(entry: Any) -> str:
        return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))).lstrip(".")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # The last part of a path into an nnx.Variable is its "value", which says nothing.
    return {".".join(name(entry) for entry in path if name(entry) != "value"): leaf for path, leaf in leaves}
