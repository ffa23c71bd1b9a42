"""Measures one trained run: ``python -m avjax.comparison.measure RUN --late 0.5``.

Writes RUN/conditions.json and RUN/costs.json. The first tells which clips of the test split are classified rightly in
each condition; of tasks other than classes RUN/predictions/test-CONDITION.npz has the predictions. Conditions: whole;
without_audio and without_video, and without any other stream (which is then valid nowhere); misaligned (pictures
``late`` seconds ahead in the clip, going on from its start where it ends, while the model is told the old time).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from avjax.comparison.costs import costs
from avjax.data.pipeline import Data, VideoSampling
from avjax.data.record import Record
from avjax.data.records import Description, Records
from avjax.experiment import Experiment
from avjax.run import Run, RunError, read_json, write_json, write_predictions
from avjax.streams import Batch
from avjax.training.evaluate import Predictions, ToDevices, predict, task_of
from avjax.training.metrics import Measure
from avjax.training.metrics.tasks import TASKS, first_with
from avjax.training.trained import Trained

CONDITIONS = ("whole", "without_audio", "without_video", "misaligned")
SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures a trained run.

    Attributes:
      run: its directory.
      late: seconds by which sound and pictures are misaligned.
    """

    run: tyro.conf.Positional[Path]
    late: float


@dataclasses.dataclass(frozen=True)
class LateVideo(VideoSampling):
    """Frames from ``late`` seconds further on in the clip, which goes on from its start where it ends.

    So as many frames are there as otherwise, and all are the clip's own.
    """

    late: float = 0.0

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        super().read(record, start, values, valid)
        end, count = record.video.end, int(valid.sum())
        if len(record.video.times) == 1 or not count:
            return
        done = 0
        while done < count:
            begin = (start + self.late + done / self.rate) % end
            # Until the clip ends; one at least, whatever rounding makes of a frame at its very end.
            here = min(max(int(np.ceil((end - 1e-6 - begin) * self.rate)), 1), count - done)
            part = VideoSampling(here, self.rate)
            part.read(record, min(begin, end - 1e-5), values[done : done + here], valid[done : done + here])
            done += here


@dataclasses.dataclass(frozen=True)
class Lacking:
    """Batches without a modality, on their way to the devices."""

    to_devices: ToDevices
    modality: str

    @property
    def own(self) -> tuple[int, ...]:
        return self.to_devices.own

    def __call__(self, local: Batch) -> Batch:
        return self.to_devices(without(local, self.modality))


def without(batch: Batch, modality: str) -> Batch:
    """The batch with a stream that is valid nowhere."""
    stream = batch.streams[modality]
    gone = stream.replace(values=np.zeros_like(stream.values), valid=np.zeros_like(stream.valid))
    return batch.replace(streams={**batch.streams, modality: gone})


def misaligned(experiment: Experiment, late: float) -> Experiment:
    """The experiment with pictures from another moment than the sound."""
    video = experiment.data.video
    moved = LateVideo(video.frames, video.rate, late)
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, video=moved))


def reason_against(condition: str, data: Data) -> str | None:
    """Why a condition cannot be asked of an experiment that reads ``data``; None where it can."""
    modalities = tuple(data.sampling)
    if condition == "whole":
        return None
    if len(modalities) == 1:
        return f"it takes {modalities[0]} alone"
    if condition == "misaligned":
        return (
            None if data.audio is not None and data.video is not None else "it takes features, not sound and pictures"
        )
    missing = condition.removeprefix("without_")
    return None if missing in modalities else f"it takes no {missing}"


def conditions(trained: Trained, late: float) -> dict[str, Any]:
    """What conditions.json holds; predictions of tasks other than classes go beside it."""
    experiment = trained.experiment
    names = dict.fromkeys([*CONDITIONS, *(f"without_{name}" for name in experiment.data.sampling)])
    reasons = {condition: reason_against(condition, experiment.data) for condition in names}
    task, right, head = task_of(experiment), {}, ""
    for condition in [name for name, reason in reasons.items() if reason is None]:
        asked, to_devices = experiment, trained.on_devices
        if condition == "misaligned":
            asked = misaligned(experiment, late)
        elif condition != "whole":
            to_devices = Lacking(to_devices, condition.removeprefix("without_"))
        seen = predict(trained.evaluate, trained.state, asked, SPLIT, to_devices)
        if task.primary == "accuracy":
            head, right[condition] = rightly(seen)
            continue
        measures = seen.measures(task, trained.description)
        head = head or first_head(measures, task.primary)
        if f"{head}/{task.primary}" in measures:
            write_predictions(trained.run.path, f"{SPLIT}-{condition}", seen.arrays())
        else:
            reasons[condition] = "nothing is left to be scored"
    return {
        "split": SPLIT,
        "task": experiment.objective.task,
        "metric": task.primary,
        "head": head,
        "conditions": list(names),
        "late": late,
        "fingerprint": Records(experiment.data.records).fingerprint,
        "right": right,
        "reasons": {condition: reason for condition, reason in reasons.items() if reason},
    }


def rightly(seen: Predictions) -> tuple[str, list[int]]:
    """The first head, and 1 for every clip whose class it tells, 0 for the others."""
    head = next(head for head in seen.target if head in seen.predicted)
    return head, (seen.predicted[head].argmax(1) == seen.target[head].argmax(1)).astype(int).tolist()


def first_head(measures: Mapping[str, Measure], metric: str) -> str:
    """The first head that has the metric.

    Raises:
      RunError: where none has.
    """
    found = first_with(metric, measures)
    if not found:
        raise RunError(f"no head has the metric {metric}, by which the experiments are compared")
    return found.rpartition("/")[0]


def measure_of(run: Path, condition: str) -> Measure:
    """The metric by which experiments are compared, of one measured run, as a function of clips."""
    found = read_json(run / "conditions.json")
    if condition in found["right"]:
        return Measure.mean(np.array(found["right"][condition], bool))
    seen = Predictions.from_arrays(Run(run).predictions(f"{SPLIT}-{condition}"))
    description = Description(**read_json(run / "dataset.json"))
    return seen.measures(TASKS[found["task"]], description)[f"{found['head']}/{found['metric']}"]


def main(options: Options) -> None:
    """Measures, and keeps what it has found in the run."""
    path = options.run
    if not (path / "costs.json").is_file():
        run = Run.open(path)
        experiment = run.experiment()
        write_json(path / "costs.json", costs(experiment, Records(experiment.data.records).description))
    write_json(path / "conditions.json", conditions(Trained.load(path), options.late))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m avjax.comparison.measure")))
