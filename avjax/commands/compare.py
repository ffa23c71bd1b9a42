"""avjax compare: runs side by side; or experiments, trained under one budget first."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from tyro.conf import Positional

from avjax.commands import UsageError, Words


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Puts runs side by side: a table, and a self-contained HTML report with pictures. Experiments in place of runs are
    trained first, each with every seed in a run of its own, and tested with a modality missing and misaligned.

    Attributes:
      runs: run directories; or experiments; or one file whose comparison() returns a Comparison of them.
      out: of runs: where to write the report, such as report.html; none is written unless told. Of experiments: the
        folder for runs, comparison.json and comparison.png; unless told runs/FILE of a comparison, or runs/compare. The
        same command goes on there.
      title: of the report.
      seeds: of experiments, in place of the comparison's own, or of 0 1 2.
      steps: of each experiment, in place of its own.
      records: of each experiment, in place of its own.
      only: names of experiments to take.
      misaligned: seconds by which pictures are moved against sound in the test of misalignment.
      quiet: shows no progress.
      json: prints the table as JSON.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path | None = None
    title: str = "avjax: runs compared"
    seeds: tuple[int, ...] = ()
    steps: int | None = None
    records: Path | None = None
    only: tuple[str, ...] = ()
    misaligned: float = 0.5
    quiet: bool = False
    json: bool = False


def compare(words: Words) -> int:
    """RUN... | EXPERIMENT... [--out report.html]    runs, or experiments trained first, side by side"""
    from avjax.diagnostics import report

    options = tyro.cli(CompareOptions, prog="avjax compare", args=words)
    if not options.runs:
        raise UsageError(
            "avjax compare needs run directories, such as runs/demo_audio runs/demo_mbt, or experiments, such as"
            " demo_audio demo_mbt"
        )
    if any(_is_experiment(word) for word in options.runs):
        return _train_and_compare(options)
    for flag in ("seeds", "steps", "records", "only"):
        if getattr(options, flag):
            raise UsageError(f"--{flag} is for experiments that are to be trained, and {options.runs[0]} is none")
    if options.out:
        report.write_report(options.runs, options.out, title=options.title)
        print(f"wrote {options.out}", file=sys.stderr)
    table = report.compare(options.runs)
    _print(options, table, report.table)
    return 0


def _is_experiment(word: Path) -> bool:
    """Whether it names a file of experiments rather than a run."""
    from avjax.experiment import ExperimentError, find

    if word.is_dir():
        return False
    try:
        find(str(word).partition(":")[0])
    except ExperimentError:
        return word.suffix == ".py"
    return True


def _train_and_compare(options: CompareOptions) -> int:
    """The status is 1 where a run failed."""
    from avjax.comparison.carry_out import carry_out
    from avjax.comparison.outcome import outcome
    from avjax.comparison.plan import plan
    from avjax.comparison.show import plot, table
    from avjax.data.records import Records
    from avjax.experiment import load_comparison
    from avjax.run import write_json

    words: list[str] = []
    if options.steps:
        words += ["--training.steps", str(options.steps)]
    if options.records:
        words += ["--data.records", str(options.records)]
    files = [str(word) for word in options.runs]
    # Not the name of an experiment: its folder is its own run's.
    name = Path(files[0]).stem if len(files) == 1 and load_comparison(files[0]) else "compare"
    out = options.out or Path("runs") / name
    runs = plan(files, out, seeds=options.seeds, only=options.only, words=words)
    for place in {run.experiment.data.records for run in runs}:
        # Where there are none, that is told once and not by every run.
        Records(place)
    failures = carry_out(runs, out, late=options.misaligned, quiet=options.quiet)
    found = outcome(runs, failures, options.misaligned)
    write_json(out / "comparison.json", found)
    plot(found, out / "comparison.png")
    print(f"wrote {out / 'comparison.json'} and {out / 'comparison.png'}", file=sys.stderr)
    _print(options, found, table)
    for path, reason in failures.items():
        print(f"avjax: {path} failed: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _print(options: CompareOptions, found: dict[str, Any], table: Any) -> None:
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        Console().print(table(found))
