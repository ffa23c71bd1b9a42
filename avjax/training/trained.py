"""A trained model taken from its run: the state, and the evaluation step that runs it on any devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from avjax.data import media
from avjax.data.augment.picture import GREY
from avjax.data.pipeline import Crop
from avjax.data.record import Audio, Record, Video
from avjax.data.records import Description, Records
from avjax.data.series import Series
from avjax.experiment import Experiment
from avjax.run import Run, RunError, read_json
from avjax.training.checkpoint import CheckpointError, Checkpoints, problem_of
from avjax.training.evaluate import EvaluateStep, keep, over_crops, predict, task_of
from avjax.training.on_mesh import DeviceBatches, build_state, jit_evaluate
from avjax.training.sharding import MeshShape
from avjax.training.step import Steps, TrainState


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's newest checkpoint, ready to evaluate.

    Attributes:
      run: where it comes from.
      experiment: rebuilt from the run.
      description: of the records that it was trained on.
      steps: the functions of a step, not compiled.
      state: parameters and all.
      evaluate: the jitted evaluation step.
      on_devices: from rows to the global batch.
    """

    run: Run
    experiment: Experiment
    description: Description
    steps: Steps
    state: TrainState
    evaluate: EvaluateStep
    on_devices: DeviceBatches

    @classmethod
    def load(cls, path: str | Path, which: Literal["last", "best"] = "last") -> Trained:
        """Onto the devices that are here, whatever the run was trained on.

        Args:
          which: the newest checkpoint, or the one that did best on the validation split.

        Raises:
          RunError: where the run has no such checkpoint yet.
          CheckpointError: where all are damaged.
        """
        run = Run.open(path)
        experiment = run.experiment()
        devices = jax.devices()
        if jax.process_count() == 1:
            devices = devices[: math.gcd(experiment.data.batch, len(devices))]
        mesh = MeshShape().build(devices)
        steps, _, abstract = build_state(experiment, mesh)
        if not run.checkpoints.is_dir():
            raise RunError(
                f"{path} has no checkpoint yet; `avjax train` writes one every"
                f" {experiment.training.checkpoint_every} steps and at the end"
            )
        checkpoints = Checkpoints(run.checkpoints, best_by=experiment.training.best_by)
        step = checkpoints.newest() if which == "last" else checkpoints.best()
        if step is None:
            raise RunError(
                f"{path} has no whole checkpoint; train again: `avjax train` goes on where it can"
                if which == "last"
                else f"{path} has no checkpoint with a score; --training.evaluate-every makes the run look at its"
                " validation split"
            )
        if which == "best" and (problem := problem_of(run.checkpoints / str(step))):
            raise CheckpointError(
                f"the best checkpoint of {path}, step {step}, is damaged: {problem}; use the last one"
            )
        state, _ = checkpoints.load(step, abstract)
        return cls(
            run=run,
            experiment=experiment,
            description=Description(**read_json(run.path / "dataset.json")),
            steps=steps,
            state=state,
            evaluate=jit_evaluate(steps, mesh),
            on_devices=DeviceBatches(mesh, experiment.training.rules, experiment.data.batch),
        )

    def score(self, split: str, records: Path | None = None) -> dict[str, Any]:
        """Metrics of a split with intervals; kept in the run where the records are its own.

        Args:
          records: another prepared folder with the same classes.

        Raises:
          RunError: where its classes differ.
        """
        experiment = self.experiment
        if records is not None:
            classes = Records(records).description.classes
            if classes != self.description.classes:
                raise RunError(f"{records} has the classes {classes}, but {self.run.path} was trained on others")
            experiment = dataclasses.replace(
                experiment, data=dataclasses.replace(experiment.data, records=str(records))
            )
        title = f"evaluate {self.run.name} on {split}"
        seen = predict(self.evaluate, self.state, experiment, split, self.on_devices, title)
        task = task_of(experiment)
        if records is not None:
            return seen.result(task, self.description)
        result = keep(self.run.path, split, seen, task, self.description)
        self.run.add_results(**{split: result})
        return result

    def classify(
        self, files: Sequence[Path], *, without: str | None = None, clips: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """The predictions for media files, one dictionary a file, in order.

        A file that cannot be used yields {"file", "error"} and stops nothing. Of another: "missing" modalities,
        "start" of what was seen in seconds, and "predicted" (see ``Objective.predictions``) without the axis of rows.

        Args:
          without: a modality to leave out, as if the file lacked it.
          clips: evenly spaced crops of each file whose predictions are averaged; the experiment's own unless told.
        """
        data = self.experiment.data
        clips = clips or data.test_clips
        for file in files:
            try:
                record = self._read(file, without)
            except media.MediaError as error:
                yield {"file": str(file), "error": str(error)}
                continue
            missing = [name for name, way in data.sampling.items() if way.of(record) is None]
            if len(missing) == len(data.sampling):
                yield {"file": str(file), "error": f"it has no {' and no '.join(missing)}, and the model needs one"}
                continue
            predicted, start = self._run(record, clips)
            yield {"file": str(file), "missing": missing, "start": start, "predicted": predicted}

    def _read(self, file: Path, without: str | None) -> Record:
        """The file as a record, decoded as the training clips were."""
        size = self.description.video and (self.description.video["height"], self.description.video["width"])
        found = media.decode(
            file,
            audio=self.experiment.data.audio is not None and without != "audio",
            video=self.experiment.data.video is not None and without != "video",
            size=size,
        )
        frames = found.video
        if frames is not None and self.description.video["channels"] == 1:
            # Trained on pictures in grey.
            grey = np.rint(frames.images @ np.array(GREY)).astype(np.uint8)
            frames = media.Frames(grey[..., None], frames.times)
        return Record(
            name=str(file),
            split="",
            group="",
            labels={},
            cues={},
            audio=found.audio and Audio.encode(found.audio),
            video=frames and Video.encode(frames, codec="raw"),
            provenance={},
        )

    def _run(self, record: Record, clips: int) -> tuple[dict[str, np.ndarray], float]:
        """Predictions over all crops, in batches of the one size that is compiled; where the first crop begins."""
        size = self.experiment.data.batch
        # A clip without labels. The loss is not asked for, but it is part of the step: any target will do.
        data, crop = self.experiment.data, Crop(self.experiment.data, self.description)
        labels, cues = dict.fromkeys(self.description.classes, ()), dict.fromkeys(data.values, 0.0)
        nothing = {way.series: Series(np.zeros((1, *way.shape), np.float32), way.rate) for way in crop.targets.values()}
        record = dataclasses.replace(
            record,
            labels=labels,
            cues=cues,
            series=nothing | record.series,
            sequences=dict.fromkeys(data.sequences, ()),
        )
        outputs: list[dict[str, np.ndarray]] = []
        starts: list[float] = []
        for begin in range(0, clips, size):
            batch, count = crop.empty(size), min(size, clips - begin)
            for row in range(size):
                if row < count:
                    crop.fill(batch, row, record, 0, (begin + row + 0.5) / clips)
                else:
                    crop.fill_with_nothing(batch, row)
            starts.append(min(float(stream.start[0]) for stream in batch.streams.values()))
            predicted, _ = self.evaluate(self.state, self.on_devices(batch))
            outputs.append({name: np.asarray(values)[:count] for name, values in predicted.items()})
        whole = {name: np.concatenate([output[name] for output in outputs])[None] for name in outputs[0]}
        return {name: over_crops(values)[0] for name, values in whole.items()}, starts[0]
