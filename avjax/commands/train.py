"""avjax train: an experiment to a trained run."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from tyro.conf import AvoidSubcommands

from avjax.commands import UsageError, Words, first_word, show_results

E = TypeVar("E")


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Trains an experiment, or goes on where its run was left.

    Attributes:
      out: run directory; runs/EXPERIMENT unless told.
      profile: writes an xprof trace of ten steps into the run.
      measure: times the bare step too, and says by how much the loop is slower.
      quiet: shows no progress.
      json: prints the results as JSON.
    """

    out: Path | None = None
    profile: bool = False
    measure: bool = False
    quiet: bool = False
    json: bool = False


@dataclasses.dataclass(frozen=True)
class TrainHelp(Generic[E]):
    """Trains an experiment, or goes on where its run was left. Any field of the experiment can be set."""

    run: Annotated[TrainOptions, tyro.conf.arg(name="")]
    experiment: Annotated[E, tyro.conf.arg(name="")]


def train(words: Words) -> int:
    """EXPERIMENT [--out RUN] [--optimizer.learning-rate 1e-3 ...]    trains, or goes on with a run"""
    from avjax.experiment import concrete_type, load
    from avjax.run import Run
    from avjax.training import distributed
    from avjax.training.interruption import Interrupted
    from avjax.training.loop import train as train_run
    from avjax.training.reader import StalledInput

    name, rest = first_word(words, "train", "EXPERIMENT", _experiments(), train.__doc__)
    if {"-h", "--help"} & set(rest):
        experiment, _ = load(name)
        both = AvoidSubcommands[TrainHelp[concrete_type(experiment)]]
        tyro.cli(both, prog=f"avjax train {name}", args=["--help"], default=TrainHelp(TrainOptions(), experiment))
    options, rest = tyro.cli(TrainOptions, prog=f"avjax train {name}", args=rest, return_unknown_args=True)
    _refuse_near_misses(rest)
    # Before anything asks for a device.
    distributed.join()
    experiment, source = load(name, tuple(rest))
    path = options.out or Path("runs") / source.name
    if distributed.is_first():
        Run.create(path, experiment, source)
    distributed.together("run")
    run = Run.open(path)
    try:
        results = train_run(experiment, run, quiet=options.quiet, profile=options.profile, measure=options.measure)
    except Interrupted as interruption:
        # What was asked for has been done, so the exit status is 0.
        print(f"avjax: {interruption}", file=sys.stderr)
        distributed.leave_alone(0)
        return 0
    except StalledInput as stall:
        print(f"avjax: {stall}", file=sys.stderr)
        distributed.leave_alone(2)
        return 2
    if distributed.is_first():
        show_results({run.name: results}, as_json=options.json)
    return 0


def _refuse_near_misses(words: Words) -> None:
    """What the experiment would refuse as unknown may be a flag of `avjax train` itself, misspelt."""
    own = [f"--{field.name}" for field in dataclasses.fields(TrainOptions)]
    for word in words:
        flag = word.split("=")[0]
        near = difflib.get_close_matches(flag, own, n=1, cutoff=0.75)
        if flag.startswith("--") and "." not in flag and near:
            raise UsageError(f"avjax train has no flag {flag!r}; did you mean {near[0]!r}?")


def _experiments() -> list[str]:
    from avjax.experiment import known

    return known()
