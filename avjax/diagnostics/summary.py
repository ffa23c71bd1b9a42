"""What a run directory tells, read so that nothing missing or damaged stops a comparison.

A run may also be a plain folder with results.json and predictions/, as averaging makes it.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avjax.data.records import RecordError, Records
from avjax.run import Run, RunError, distinct_names, read_json
from avjax.training.evaluate import Predictions
from avjax.training.metrics.tasks import TASKS, first_with, higher_is_better

METRICS = {
    "accuracy": "Accuracy",
    "uar": "UAR",
    "macro_f1": "Macro-F1",
    "map": "mAP",
    "segment_accuracy": "Segment accuracy",
    "ap_50": "AP@0.5",
    "ap_95": "AP@0.95",
    "ar_10": "AR@10",
    "eer": "EER",
    "auc": "AUC",
    "wer": "WER",
    "cer": "CER",
    "wer_beam": "WER, beam",
    "ccc": "CCC",
    "pcc": "PCC",
    "mae": "MAE",
    "corr": "Correlation",
    "acc7": "Acc-7",
    "acc2_nonzero": "Acc-2",
}

Estimates = dict[str, dict[str, float | int | None]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """One run on one split.

    Attributes:
      name: unique among the runs read together.
      path: of the run.
      split: what ``heads`` and ``predictions`` are of.
      missing: why the run has no results; None where it has.
      remarks: what else could not be read, and why.
      results: results.json as it is.
      heads: head, or ``head/modality`` -> metric -> value, low, high, count; finite numbers or None.
      predictions: of every clip of the split.
      records: that the predictions are of.
      modalities: that the run was given.
      command: as typed; "" for a folder that no training made.
      averaged: the runs whose mean this is.
      lines: of metrics.jsonl.
    """

    name: str
    path: Path
    split: str
    missing: str | None = None
    remarks: tuple[str, ...] = ()
    results: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, Estimates] = dataclasses.field(default_factory=dict)
    predictions: Predictions | None = None
    records: Records | None = None
    modalities: tuple[str, ...] = ()
    command: str = ""
    averaged: tuple[str, ...] = ()
    lines: tuple[Mapping[str, Any], ...] = ()

    @property
    def head(self) -> str:
        """The head that the run is compared by: its first that is no single modality's and has the task's metric."""
        found = first_with(self._primary, [f"{head}/{name}" for head in self.heads for name in self.heads[head]])
        if found:
            return found.rpartition("/")[0]
        return next((head for head in self.heads if "/" not in head), next(iter(self.heads), ""))

    @property
    def measure(self) -> str:
        """The metric that the run is compared by: its task's first, or the first that is known of the head."""
        found = self.heads.get(self.head, {})
        return next((name for name in (self._primary, *METRICS) if name in found), "accuracy")

    @property
    def _primary(self) -> str:
        """The task's first metric; accuracy of a run that does not say its task."""
        task = self.results.get("task")
        return TASKS[task].primary if task in TASKS else "accuracy"

    @property
    def score(self) -> float:
        """Value of ``measure``, negative where less is better; below every value where there is none."""
        value = self.heads.get(self.head, {}).get(self.measure, {}).get("value")
        return -math.inf if value is None else float(value) * (1 if higher_is_better(self.measure) else -1)

    @property
    def synthetic(self) -> bool | None:
        """Whether the records were generated; None where they cannot be read."""
        return None if self.records is None else bool(self.records.description.synthetic)

    @property
    def ceiling(self) -> float | None:
        """The accuracy that an ideal observer of the run's modalities reaches, where the description holds one.

        ``ceilings`` stands in the corpus's settings or in the provenance: split (or "expected") -> modality (or
        "both") -> accuracy.
        """
        if self.records is None or not self.modalities or self.measure != "accuracy":
            return None
        description = self.records.description
        for place in (description.corpus, description.provenance):
            found = place.get("ceilings")
            if isinstance(found, Mapping):
                found = found.get(self.split, found.get("expected", found))
                key = self.modalities[0] if len(self.modalities) == 1 else "both"
                return number(found.get(key)) if isinstance(found, Mapping) else None
        return None

    def fact(self, *keys: str) -> float | None:
        """A number of results.json; None where it is absent or not finite."""
        value: Any = self.results
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return number(value)

    def classes(self, head: str, count: int) -> list[str]:
        """Class names of a head, by the records; "class 3" where they do not say."""
        known = self.records.description.classes.get(head.split("/")[0], ()) if self.records is not None else ()
        return [str(name) for name in known] if len(known) == count else [f"class {k}" for k in range(count)]

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a number in metrics.jsonl; a step logged again after a resumption counts once."""
        points = {}
        for line in self.lines:
            step, value = number(line.get("step")), number(line.get(metric))
            if step is not None and value is not None:
                points[int(step)] = value
        steps = sorted(points)
        return steps, [points[step] for step in steps]


def number(value: Any) -> float | None:
    """A finite number, or None: what is not one is shown as absent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def read_runs(paths: Sequence[Path], split: str = "test") -> list[Summary]:
    """The summary of every path, in order; never raises for what a folder holds."""
    return [_read(Path(path), name, split) for path, name in zip(paths, distinct_names(paths), strict=True)]


def _read(path: Path, name: str, split: str) -> Summary:
    summary = Summary(name, path, split)
    if not path.is_dir():
        return dataclasses.replace(summary, missing="there is no such folder")
    try:
        results = read_json(path / "results.json")
    except FileNotFoundError:
        return dataclasses.replace(summary, missing="it has no results.json: training has not finished")
    except (RunError, OSError, ValueError) as error:
        return dataclasses.replace(summary, missing=f"results.json cannot be read: {error}")
    if not isinstance(results, dict):
        return dataclasses.replace(summary, missing="results.json holds no table of results")
    heads = _estimates(results.get(split))
    if not heads:
        has = [key for key, value in results.items() if _estimates(value)]
        found = f"it has results on {', '.join(has)} alone" if has else "it has no results"
        return dataclasses.replace(summary, missing=f"{found}; `avjax eval {path} --split {split}` scores it")
    remarks: list[str] = []
    averaged = results.get("averaged")
    origins = [Path(o) for o in averaged if isinstance(o, str)] if isinstance(averaged, list) else []
    configs = [_config(origin, remarks) for origin in origins or [path]]
    return dataclasses.replace(
        summary,
        results=results,
        heads=heads,
        predictions=_predictions(path, split, remarks) if _of_clips(results) else None,
        records=_records(configs, remarks),
        modalities=tuple(dict.fromkeys(name for config in configs for name in _modalities(config))),
        command=_command(path, remarks),
        averaged=tuple(origin.name for origin in origins),
        lines=_lines(path, remarks),
        remarks=tuple(remarks),
    )


def _estimates(split: Any) -> dict[str, Estimates]:
    """The metrics of a split in results.json, without what is no finite number."""
    metrics = split.get("metrics") if isinstance(split, Mapping) else None
    heads = {}
    for head, estimates in metrics.items() if isinstance(metrics, Mapping) else ():
        kept = {}
        for name, estimate in estimates.items() if isinstance(estimates, Mapping) else ():
            if isinstance(estimate, Mapping) and number(estimate.get("value")) is not None and name in METRICS:
                kept[name] = {key: number(estimate.get(key)) for key in ("value", "low", "high", "count")}
                if None in (kept[name]["low"], kept[name]["high"]):
                    kept[name] |= {"low": None, "high": None}
                if kept[name]["count"] is not None:
                    kept[name]["count"] = int(kept[name]["count"])
        if kept:
            heads[str(head)] = kept
    return heads


def _config(path: Path, remarks: list[str]) -> Mapping[str, Any]:
    file = path / "config.json"
    try:
        config = read_json(file)
    except FileNotFoundError:
        remarks.append(f"{path} has no config.json, so which records it was trained on is not known")
        return {}
    except (RunError, OSError, ValueError) as error:
        remarks.append(f"{file} cannot be read: {error}")
        return {}
    return config if isinstance(config, dict) else {}


def _modalities(config: Mapping[str, Any]) -> list[str]:
    """The fields of the configuration of data that say how a modality is sampled."""
    data = config.get("data")
    return [name for name, way in data.items() if isinstance(way, Mapping)] if isinstance(data, Mapping) else []


def _records(configs: Sequence[Mapping[str, Any]], remarks: list[str]) -> Records | None:
    """The records of the first configuration that names some."""
    for config in configs:
        data = config.get("data")
        place = data.get("records") if isinstance(data, Mapping) else None
        if isinstance(place, str):
            try:
                return Records(place)
            except (RecordError, OSError, ValueError, TypeError) as error:
                remarks.append(f"its records cannot be read, so neither clips nor class names are shown: {error}")
                return None
    return None


def _of_clips(results: Mapping[str, Any]) -> bool:
    """Whether predictions are a row of numbers a clip, like their targets, as the report shows them."""
    return results.get("task", "classes") in ("classes", "labels", "values", "sentiment")


def _predictions(path: Path, split: str, remarks: list[str]) -> Predictions | None:
    file = path / "predictions" / f"{split}.npz"
    if file.is_file() and not zipfile.is_zipfile(file):
        remarks.append(f"{file} is damaged; `avjax eval {path} --split {split}` writes it again")
        return None
    try:
        found = Predictions.from_arrays(Run(path).predictions(split))
    except (RunError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        remarks.append(f"its predictions cannot be read: {error}")
        return None
    rows = len(found.index)
    for head, values in found.predicted.items():
        target = found.target.get(head.split("/")[0])
        if target is None or values.shape != target.shape or values.ndim != 2 or len(values) != rows:
            remarks.append(f"its predictions of {head} do not fit their targets; they are not shown")
            return None
        if not (np.isfinite(values).all() and np.isfinite(target).all()):
            remarks.append(f"its predictions of {head} are not all finite; they are not shown")
            return None
    return found


def _command(path: Path, remarks: list[str]) -> str:
    if not (path / "command.json").is_file():
        return ""
    try:
        command = read_json(path / "command.json")
        return shlex.join(["avjax", "train", str(command["experiment"]), *map(str, command["words"])])
    except (RunError, OSError, ValueError, KeyError, TypeError) as error:
        remarks.append(f"its command.json cannot be read: {error!r}")
        return ""


def _lines(path: Path, remarks: list[str]) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(line for line in Run(path).metrics() if isinstance(line, dict))
    except (OSError, ValueError) as error:
        remarks.append(f"its metrics.jsonl cannot be read: {error}")
        return ()
