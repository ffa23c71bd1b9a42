"""avjax eval: scores of runs, with intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from avjax.commands import UsageError, Words, show_results


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Evaluates runs on a split, with bootstrap intervals.

    Attributes:
      runs: run directories.
      split: train, validation or test.
      checkpoint: the newest, or the one that did best on the validation split (whose scores the run then keeps).
      records: other records than the run was trained on; they must have the same classes.
      average: also averages the probabilities of all runs (late fusion of separately trained models), and keeps the
        result in this folder.
      json: prints the results as JSON.
    """

    runs: Positional[tuple[Path, ...]]
    split: str = "test"
    checkpoint: Literal["last", "best"] = "last"
    records: Path | None = None
    average: Path | None = None
    json: bool = False


def evaluate(words: Words) -> int:
    """RUN... [--split test] [--average FOLDER]    scores runs, alone and averaged"""
    from avjax.data.records import Records
    from avjax.run import distinct_names
    from avjax.training.evaluate import average
    from avjax.training.trained import Trained

    options = tyro.cli(EvalOptions, prog="avjax eval", args=words)
    if not options.runs:
        raise UsageError("avjax eval needs a run directory, such as runs/demo_mbt")
    if options.average and options.records:
        raise UsageError("avjax eval averages what runs say of their own records: leave out --records or --average")
    split, results = options.split, {}
    names = distinct_names([*options.runs, *([options.average] if options.average else [])])
    for name, path in zip(names, options.runs, strict=False):
        trained = Trained.load(path, options.checkpoint)
        description = Records(options.records).description if options.records else trained.description
        results[name] = {split: trained.score(split, options.records), "synthetic": description.synthetic}
    if options.average:
        found = average(options.runs, split, options.average)
        synthetic = any(result["synthetic"] for result in results.values())
        results[names[-1]] = {split: found, "synthetic": synthetic}
    show_results(results, as_json=options.json, split=split)
    return 0
