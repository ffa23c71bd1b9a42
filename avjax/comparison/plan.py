"""Which runs a comparison has, and what its experiments do not share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avjax.experiment import Experiment, ExperimentError, Source, find, load, load_comparison
from avjax.run import Run, RunError, plain, read_json, settings


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a comparison.

    Attributes:
      name: of the experiment in the comparison.
      reference: what ``avjax train`` is told: a file, or FILE:NAME.
      experiment: with its seed and what the command changed.
      source: of the experiment.
      path: of the run.
    """

    name: str
    reference: str
    experiment: Experiment
    source: Source
    path: Path

    @property
    def seed(self) -> int:
        return self.experiment.seed

    @property
    def steps(self) -> int:
        return self.experiment.training.steps

    @property
    def log(self) -> Path:
        """What its processes say."""
        return self.path.with_suffix(".log")

    def is_trained(self) -> bool:
        """Whether this very run has been trained to its end. What stands in its file beside it does not matter then."""
        run = Run(self.path)
        try:
            if not run.command_file.is_file() or run.results().get("steps") != self.steps:
                return False
            return settings(read_json(self.path / "config.json")) == settings(plain(self.experiment))
        except (RunError, OSError):
            return False


def plan(
    files: Sequence[str],
    out: Path,
    *,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    words: Sequence[str] = (),
) -> list[Planned]:
    """Every experiment with every seed, seed by seed, so that the first has something of everything.

    Args:
      files: one file with a comparison, or files and names of experiments.
      seeds: in place of the comparison's own.
      only: names of experiments to take; all unless told.
      words: what every experiment's command ends in.

    Raises:
      ExperimentError: for an experiment that cannot be found or built.
    """
    references, own_seeds = _references(files)
    unknown = [name for name in only if name not in references]
    if unknown:
        raise ExperimentError(f"there is no {unknown[0]!r} to compare; there are {', '.join(references)}")
    runs = []
    for seed in seeds or own_seeds:
        for name, reference in references.items():
            if not only or name in only:
                experiment, source = load(reference, ("--seed", str(seed), *words))
                runs.append(Planned(name, reference, experiment, source, out / name / f"seed-{seed}"))
    return runs


def _references(files: Sequence[str]) -> tuple[dict[str, str], tuple[int, ...]]:
    """Name of each experiment -> what ``load`` takes, and the seeds."""
    if len(files) == 1 and (comparison := load_comparison(files[0])) is not None:
        return {name: f"{find(files[0])}:{name}" for name in comparison.experiments}, comparison.seeds
    references: dict[str, str] = {}
    for file in files:
        source = load(file)[1]
        name = source.member or source.file.stem
        if name in references:
            raise ExperimentError(f"two of the experiments are named {name}; rename the file of one")
        references[name] = f"{source.file}:{source.member}" if source.member else str(source.file)
    return references, (0, 1, 2)


def differences(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, Any]]:
    """What the experiments do not share besides the model: setting -> name -> value.

    A modality that some experiment does not take is one setting, and so is a part of another class.
    """
    found = {name: _budget(experiment) for name, experiment in experiments.items()}
    for part in PARTS:
        if len({own.get(f"{part}.class") for own in found.values()}) > 1:
            for name, own in found.items():
                whole = {part: str(getattr(experiments[name], part))}
                found[name] = {key: value for key, value in own.items() if not _within(key, part)} | whole
    keys = dict.fromkeys(key for own in found.values() for key in own)
    return {
        key: {name: own.get(key) for name, own in found.items()}
        for key in keys
        if len({repr(own.get(key)) for own in found.values()}) > 1
    }


PARTS = ("objective", "optimizer", "second_view", "rule", "inputs")


def _budget(experiment: Experiment) -> dict[str, Any]:
    """Everything but the model and the seed, by dotted names; each modality's sampling as one."""
    own = settings(plain(experiment))
    sampled = {f"data.{name}": str(way) for name, way in experiment.data.sampling.items()}
    apart = ("model", "seed", "data.audio", "data.video", "data.features")
    return sampled | {key: value for key, value in own.items() if not any(_within(key, part) for part in apart)}


def _within(key: str, part: str) -> bool:
    return key == part or key.startswith(f"{part}.")
