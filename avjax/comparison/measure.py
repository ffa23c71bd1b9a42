"""Measures one trained run: ``python -m avjax.comparison.measure RUN --late 0.5``.

Writes RUN/conditions.json, which clips of the test split are classified rightly in each condition, and RUN/costs.json.
Conditions: whole; without_audio and without_video (the stream valid nowhere); misaligned (pictures ``late`` seconds
ahead in the clip, going on from its start where it ends, while the model is told the old time).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from avjax.comparison.costs import costs
from avjax.data.pipeline import VideoSampling
from avjax.data.record import Record
from avjax.data.records import Records
from avjax.experiment import Experiment
from avjax.run import Run, RunError, write_json
from avjax.streams import Batch
from avjax.training.evaluate import Predictions, ToDevices, predict
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


def reason_against(condition: str, modalities: tuple[str, ...]) -> str | None:
    """Why a condition cannot be asked of an experiment; None where it can."""
    if condition == "whole" or len(modalities) > 1:
        return None
    return f"it takes {modalities[0]} alone"


def conditions(trained: Trained, late: float) -> dict[str, Any]:
    """What conditions.json holds."""
    experiment = trained.experiment
    if experiment.objective.task != "classes":
        raise RunError("experiments are compared by accuracy, which needs one class a clip")
    names = tuple(experiment.data.sampling)
    reasons = {condition: reason_against(condition, names) for condition in CONDITIONS}
    right: dict[str, list[int]] = {}
    for condition in [name for name, reason in reasons.items() if reason is None]:
        asked, to_devices = experiment, trained.on_devices
        if condition == "misaligned":
            asked = misaligned(experiment, late)
        elif condition != "whole":
            to_devices = Lacking(to_devices, condition.removeprefix("without_"))
        seen = predict(trained.evaluate, trained.state, asked, SPLIT, to_devices)
        head, right[condition] = rightly(seen)
    return {
        "split": SPLIT,
        "head": head,
        "late": late,
        "fingerprint": Records(experiment.data.records).fingerprint,
        "right": right,
        "reasons": {condition: reason for condition, reason in reasons.items() if reason},
    }


def rightly(seen: Predictions) -> tuple[str, list[int]]:
    """The first head, and 1 for every clip whose class it tells, 0 for the others."""
    head = next(iter(seen.target))
    return head, (seen.predicted[head].argmax(1) == seen.target[head].argmax(1)).astype(int).tolist()


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
