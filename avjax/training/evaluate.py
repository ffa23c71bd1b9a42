"""Runs a trained state over a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from avjax.data.pipeline import VALUES, evaluation_batches
from avjax.data.records import Description
from avjax.experiment import Experiment
from avjax.objectives.rows import VALID
from avjax.progress import progress
from avjax.run import Run, RunError, read_json, write_json, write_predictions
from avjax.streams import Batch, Mean
from avjax.training.distributed import everywhere, is_first
from avjax.training.metrics import Estimate, Measure
from avjax.training.metrics.tasks import TASKS, Task
from avjax.training.step import Means, TrainState
from avjax.training.tracking import finite


@runtime_checkable
class ToDevices(Protocol):
    """``on_mesh.DeviceBatches``."""

    @property
    def own(self) -> tuple[int, ...]: ...

    def __call__(self, local: Batch) -> Batch: ...


EvaluateStep = Callable[[TrainState, Batch], tuple[dict[str, jax.Array], Means]]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of every clip of a split, averaged over the clip's crops.

    Attributes:
      predicted: head, ``head/modality`` and ``head/valid`` -> [N, ...]; see ``Objective.predictions``.
      target: head -> [N, ...].
      index: [N] record numbers.
      present: modality -> [N] whether the clip has it; ``head/modality`` is scored on those clips alone.
      losses: mean of each part of the loss.
    """

    predicted: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    index: np.ndarray
    present: dict[str, np.ndarray]
    losses: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """For an .npz file; ``from_arrays`` reads it back."""
        named = {f"predicted:{head}": values for head, values in self.predicted.items()}
        named |= {f"target:{head}": values for head, values in self.target.items()}
        named |= {f"present:{modality}": there for modality, there in self.present.items()}
        return named | {"index": self.index}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Predictions:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.split(":", 1)[1]: values for name, values in arrays.items() if name.startswith(f"{prefix}:")}

        return cls(part("predicted"), part("target"), arrays["index"], part("present"), {})

    def measures(self, task: Task, description: Description) -> dict[str, Measure]:
        """``HEAD/METRIC`` -> the metric as a function of clips."""
        return task.measures(self.predicted, self.target, self.present, description)

    def metrics(self, task: Task, description: Description, *, samples: int = 1000) -> dict[str, dict[str, Estimate]]:
        """Head -> metric -> estimate; ``head/modality`` counts as a head, unless no clip has that modality."""
        found: dict[str, dict[str, Estimate]] = {}
        for name, estimate in task(self.predicted, self.target, self.present, description, samples=samples).items():
            head, _, metric = name.rpartition("/")
            found.setdefault(head, {})[metric] = estimate
        return found

    def result(self, task: Task, description: Description) -> dict[str, Any]:
        """What results.json says of a split."""
        found = self.metrics(task, description)
        metrics = {head: {name: e.plain() for name, e in estimates.items()} for head, estimates in found.items()}
        return {"metrics": metrics, "losses": finite(self.losses)}


def predict(
    evaluate: EvaluateStep,
    state: TrainState,
    experiment: Experiment,
    split: str,
    to_devices: ToDevices,
    title: str = "",
) -> Predictions:
    """Every clip of a split.

    Args:
      evaluate: the jitted evaluation step; its results are whole on every process.
      to_devices: from this process's rows to the global batch.
      title: shown with the progress; nothing is shown without.
    """
    count, batches = evaluation_batches(experiment.data, split, own=to_devices.own)
    if not count:
        raise ValueError(f"{experiment.data.records}: the split {split!r} has no clip")
    rows: list[dict[str, np.ndarray]] = []
    losses: dict[str, Mean] = {}
    with progress(title, count, quiet=not title) as advance:
        for number, local in enumerate(batches, start=1):
            batch = to_devices(local)
            predicted, parts = evaluate(state, batch)
            host = jax.device_get((predicted, parts, _everywhere(batch)))
            predicted, parts, (target, weight, index, present) = host
            real = weight > 0
            require_one_class(experiment, target, weight)
            arrays = {f"p:{name}": values for name, values in predicted.items()}
            arrays |= {f"t:{head}": values for head, values in target.items()} | {"index": index}
            arrays |= {f"m:{modality}": there for modality, there in present.items()}
            rows.append({name: values[real] for name, values in arrays.items()})
            losses = {name: losses[name] + part if losses else part for name, part in parts.items()}
            advance(number)
    # The crops of a clip stand one after the other.
    clips = experiment.data.test_clips
    whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    crops = {name: values.reshape(-1, clips, *values.shape[1:]) for name, values in whole.items()}
    return Predictions(
        predicted={name[2:]: over_crops(values) for name, values in crops.items() if name.startswith("p:")},
        target={name[2:]: _of_clip(name[2:], values) for name, values in crops.items() if name.startswith("t:")},
        index=whole["index"][::clips],
        present={name[2:]: values.any(axis=1) for name, values in crops.items() if name.startswith("m:")},
        losses={name: float(mean.value) for name, mean in losses.items()},
    )


def over_crops(values: np.ndarray) -> np.ndarray:
    """[N, crops, ...] -> [N, ...]: the mean; of what is true or not, whether it is of all."""
    return values.all(axis=1) if values.dtype == bool else values.mean(axis=1)


def _of_clip(head: str, target: np.ndarray) -> np.ndarray:
    """[N, crops, ...] -> [N, ...]: the target that all crops of a clip share.

    Raises:
      ValueError: where they do not, as with labels over time: their mean would be of several moments.
    """
    if not (target == target[:, :1]).all():
        raise ValueError(
            f"the crops of a clip differ in their target of {head!r} and cannot be averaged; set --data.test-clips 1"
        )
    return target[:, 0]


def require_one_class(experiment: Experiment, target: Mapping[str, np.ndarray], weight: np.ndarray) -> None:
    """Refuses clips of several classes, or of none, where the objective takes every clip to have one.

    Raises:
      ValueError: says which head, and what to set.
    """
    if experiment.objective.task != "classes":
        return
    data = experiment.data
    for head, values in target.items():
        if head.partition("/")[0] in (VALUES, *data.targets, *data.sequences):
            continue
        if not np.allclose(np.asarray(values)[np.asarray(weight) > 0].sum(axis=-1), 1, atol=1e-3):
            raise ValueError(
                f"clips have several classes of {head!r}, or none, and the objective takes one for granted; set"
                " --objective.kind sigmoid"
            )


def task_of(experiment: Experiment) -> Task:
    """How the experiment's predictions are scored."""
    return TASKS[experiment.objective.task]


def keep(folder: Path, split: str, seen: Predictions, task: Task, description: Description) -> dict[str, Any]:
    """Writes predictions/SPLIT.npz into a run's folder; returns what results.json says of the split."""
    if is_first():
        write_predictions(folder, split, seen.arrays())
    return seen.result(task, description)


def average(runs: Sequence[Path], split: str, out: Path) -> dict[str, Any]:
    """Late fusion without training: the mean of the probabilities of separately trained runs.

    Writes predictions and results into the folder ``out``, which is then compared like a run.

    Raises:
      RunError: where the runs were not scored on the same clips.
    """
    opened = [Run.open(path) for path in runs]
    seen = [Predictions.from_arrays(run.predictions(split)) for run in opened]
    heads = list(seen[0].target)
    for run, one in zip(opened, seen, strict=True):
        same = list(one.target) == heads and np.array_equal(one.index, seen[0].index)
        if not same or not all(np.array_equal(one.target[head], seen[0].target[head]) for head in heads):
            raise RunError(f"{run.path} was not scored on the same clips as {opened[0].path}; they cannot be averaged")
    names = [name for name in seen[0].predicted if name.partition("/")[2] in ("", VALID)]
    predicted = {name: over_crops(np.stack([one.predicted[name] for one in seen], axis=1)) for name in names}
    whole = Predictions(predicted, seen[0].target, seen[0].index, {}, {})
    out.mkdir(parents=True, exist_ok=True)
    experiment = opened[0].experiment()
    descriptions = [Description(**read_json(run.path / "dataset.json")) for run in opened]
    result = keep(out, split, whole, task_of(experiment), descriptions[0])
    about = {
        "averaged": [str(path) for path in runs],
        "synthetic": any(description.synthetic for description in descriptions),
        "task": experiment.objective.task,
    }
    write_json(out / "results.json", about | {split: result})
    return result


def _everywhere(batch: Batch) -> tuple[dict[str, jax.Array], jax.Array, jax.Array, dict[str, jax.Array]]:
    """Targets, weights, record numbers and modalities of all rows, on every process."""
    present = {modality: stream.valid.any(axis=1) for modality, stream in batch.streams.items()}
    return everywhere((dict(batch.target), batch.weight, batch.index, present))
