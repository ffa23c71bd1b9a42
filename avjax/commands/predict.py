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
      top: number of classes to show.
      without: a modality to leave out.
      clips: crops of each file to average over; the experiment's own number unless told.
      json: prints the probabilities of all classes as JSON.
    """

    run: Positional[Path]
    files: Positional[tuple[Path, ...]]
    checkpoint: Literal["last", "best"] = "last"
    top: int = 3
    without: Literal["audio", "video"] | None = None
    clips: int | None = None
    json: bool = False


def predict(words: Words) -> int:
    """RUN FILE... [--top 3] [--without audio|video]    classifies media files"""
    from avjax.data.pipeline import VALUES
    from avjax.training.trained import Trained

    options = tyro.cli(PredictOptions, prog="avjax predict", args=words)
    if not options.files:
        raise UsageError("avjax predict needs a media file behind the run directory")
    trained = Trained.load(options.run, options.checkpoint)
    found, table = [], Table("file", "head", "prediction", "missing")
    table.title = f"{trained.run.name}{', trained on SYNTHETIC data' if trained.description.synthetic else ''}"
    for answer in trained.classify(options.files, without=options.without, clips=options.clips):
        if "error" in answer:
            table.add_row(Path(answer["file"]).name, "", f"[red]{answer['error']}")
        for head, values in answer.pop("probabilities", {}).items():
            if head.split("/")[0] == VALUES:
                ranked = list(zip(trained.experiment.data.values, map(float, values), strict=True))
                best = ", ".join(f"{name} {value:.3g}" for name, value in ranked)
            else:
                names = trained.description.classes[head.split("/")[0]]
                ranked = sorted(zip(names, map(float, values), strict=True), key=lambda pair: -pair[1])
                best = ", ".join(f"{name} {value:.0%}" for name, value in ranked[: options.top])
            table.add_row(Path(answer["file"]).name, head, best, ", ".join(answer["missing"]))
            answer.setdefault("heads", {})[head] = dict(ranked)
        found.append(answer)
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        Console().print(table)
    return 1 if all("error" in answer for answer in found) else 0
