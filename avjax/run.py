"""The run directory: what every command writes and reads.

runs/demo_mbt/
  experiment/        the experiment file as it was, and the files beside it that it imports
  command.json       its name, FILE or FILE:NAME, and the words of the command line: a run is rebuilt by replaying them
  config.json        every field as resolved, to read and compare
  dataset.json       what the records were: classes, sizes, licence; `predict` needs no records
  metrics.jsonl      one line of numbers a logging interval or evaluation
  events/            the same for TensorBoard
  checkpoints/       state and data position
  predictions/       SPLIT.npz: probabilities, targets and record numbers of an evaluation
  results.json       metrics of every evaluated split
  profile/           an xprof trace, where one was asked for
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avjax.experiment import Experiment, Source, load


class RunError(Exception):
    """A run directory that cannot be used as asked; says why and what to do."""


# Fields of an experiment that say how it is computed, saved and watched, and not what is computed.
FREE = {
    "data.workers", "data.prefetch", "data.cache",
    "training.mesh", "training.rules", "training.remat", "training.scan",
    "training.evaluate_every", "training.checkpoint_every", "training.keep_last", "training.best_by",
    "training.log_every", "training.non_finite", "training.stall_limit",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @classmethod
    def create(cls, path: Path, experiment: Experiment, source: Source) -> Run:
        """Makes the directory, or takes up the one that the same experiment has left.

        Raises:
          RunError: if the directory holds something else.
        """
        run = cls(path)
        if run.command_file.exists():
            run._require_same(experiment, source)
            if tuple(read_json(run.command_file)["words"]) != source.words:
                # Another mesh, say: from now on it is what `avjax eval` rebuilds.
                run._describe(experiment, source)
            return run
        if path.exists() and any(path.iterdir()):
            raise RunError(f"{path} is not empty and holds no run; choose another --out")
        try:
            (path / "experiment").mkdir(parents=True, exist_ok=True)
            for file in (source.file, *source.siblings):
                shutil.copyfile(file, path / "experiment" / file.name)
            run._describe(experiment, source)
        except OSError as error:
            raise RunError(f"cannot write the run directory {path}: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Raises RunError where there is no run."""
        run = cls(Path(path))
        if not run.command_file.is_file():
            raise RunError(f"{path} is not a run directory: it has no command.json; `avjax train` makes one")
        return run

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def command_file(self) -> Path:
        return self.path / "command.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def experiment(self) -> Experiment:
        """The run's experiment, rebuilt from its file and words."""
        command = read_json(self.command_file)
        return load(self.path / "experiment" / command["experiment"], tuple(command["words"]))[0]

    def results(self) -> dict[str, Any]:
        file = self.path / "results.json"
        return read_json(file) if file.is_file() else {}

    def add_results(self, **entries: Any) -> None:
        write_json(self.path / "results.json", self.results() | entries)

    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl; a line cut off by a crash is left out."""
        file, lines = self.path / "metrics.jsonl", []
        for line in file.read_text().splitlines() if file.is_file() else []:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def predictions(self, split: str) -> dict[str, np.ndarray]:
        file = self.path / "predictions" / f"{split}.npz"
        again = f"`avjax eval {self.path} --split {split}`"
        if not file.is_file():
            raise RunError(f"{self.path} has no predictions for {split!r}; run {again}")
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise RunError(f"{file} is damaged ({error}); run {again} again") from error

    def _describe(self, experiment: Experiment, source: Source) -> None:
        write_json(self.path / "config.json", plain(experiment))
        # Last, because it marks the directory as a run.
        write_json(self.command_file, {"experiment": source.reference, "words": list(source.words)})

    def _require_same(self, experiment: Experiment, source: Source) -> None:
        """The same but for ``FREE``: a run goes on on any mesh, and is saved and watched as one likes."""
        command = read_json(self.command_file)
        old, new = settings(read_json(self.path / "config.json")), settings(plain(experiment))
        changed = [name for name in old | new if old.get(name) != new.get(name)]
        if command["experiment"] != source.reference or changed:
            what = f"; {changed[0]} was {old.get(changed[0])} and is {new.get(changed[0])}" if changed else ""
            raise RunError(
                f"{self.path} holds another run (avjax train {command['experiment']} {' '.join(command['words'])})"
                f"{what}; choose another --out, or delete it to start over"
            )
        for file in (source.file, *source.siblings):
            copy = self.path / "experiment" / file.name
            if not copy.is_file() or copy.read_bytes() != file.read_bytes():
                raise RunError(
                    f"{file} has changed since {self.path} was started; choose another --out, or train"
                    f" {self.path / 'experiment' / source.reference} to go on with the old one"
                )


def settings(config: Any, name: str = "") -> dict[str, Any]:
    """config.json as dotted name -> value, without what may change from one part of a run to the next."""
    if name in FREE:
        return {}
    if not isinstance(config, dict):
        return {name: config}
    return {key: value for part, inner in config.items() for key, value in settings(inner, _join(name, part)).items()}


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest tail of each path that tells it from the others."""
    parts = [Path(path).resolve().parts for path in paths]
    names = []
    for place, own in enumerate(parts):
        others = [other for k, other in enumerate(parts) if k != place]
        length = next((n for n in range(1, len(own)) if own[-n:] not in [o[-n:] for o in others]), len(own))
        name = "/".join(own[-length:]) if length < len(own) else own[-1]
        names.append(name if name not in names else f"{name} ({place + 1})")
    return names


def write_predictions(folder: Path, split: str, arrays: dict[str, np.ndarray]) -> None:
    """predictions/SPLIT.npz below a run's folder, whole or not at all."""
    place = folder / "predictions"
    place.mkdir(exist_ok=True)
    temporary = place / f".{split}.npz"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, place / f"{split}.npz")


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is damaged: {error}") from error


def plain(value: Any) -> Any:
    """Dataclasses to dictionaries that name their class; for reading, never for rebuilding."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
