"""avjax predict: what a trained model makes of media files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from avjax.commands import UsageError, Words


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """Says what a trained model makes of media files.

    Attributes:
      run: run directory.
      files: videos or sound files; what a file lacks counts as a missing modality.
      checkpoint: the newest, or the one that did best on the validation split.
      top: number of classes, or moments, to show.
      without: a modality to leave out.
      clips: crops of each file to average over; the experiment's own number unless told. What is said over time is of
        one crop, the middle of the file.
      json: prints everything that was predicted as JSON: all classes, the numbers of every step.
    """

    run: Positional[Path]
    files: Positional[tuple[Path, ...]]
    checkpoint: Literal["last", "best"] = "last"
    top: int = 3
    without: Literal["audio", "video"] | None = None
    clips: int | None = None
    json: bool = False


def predict(words: Words) -> int:
    """RUN FILE... [--top 3] [--without audio|video]    says what media files hold"""
    from avjax.data.pipeline import Crop
    from avjax.training.metrics.said import Saying
    from avjax.training.trained import Trained

    options = tyro.cli(PredictOptions, prog="avjax predict", args=words)
    if not options.files:
        raise UsageError("avjax predict needs a media file behind the run directory")
    trained = Trained.load(options.run, options.checkpoint)
    data, task = trained.experiment.data, trained.experiment.objective.task
    if task == "matching":
        raise UsageError(
            f"{options.run} compares pairs, a voice with a face, and says nothing of one file; `avjax eval` scores it"
        )
    saying = Saying(task, trained.description, data.values, options.top)
    if saying.over_time and (options.clips or 1) > 1:
        raise UsageError("what a run says over time cannot be averaged over crops: leave out --clips")
    # Of all streams together, which begin and end together or lie inside one another.
    seconds = max(way.seconds for way in Crop(data, trained.description).streams.values())
    found, table = [], Table("file", "head", "prediction", "missing")
    table.title = f"{trained.run.name}{', trained on SYNTHETIC data' if trained.description.synthetic else ''}"
    for answer in trained.classify(options.files, without=options.without, clips=options.clips):
        if "error" in answer:
            table.add_row(Path(answer["file"]).name, "", f"[red]{answer['error']}")
        start = answer.pop("start", 0.0)
        for head, (said, value) in saying(answer.pop("predicted", {}), start, seconds).items():
            table.add_row(Path(answer["file"]).name, head, said, ", ".join(answer["missing"]))
            answer.setdefault("heads", {})[head] = value
        found.append(answer)
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        Console().print(table)
    return 1 if all("error" in answer for answer in found) else 0
