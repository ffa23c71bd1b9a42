"""Runs a trained state over a split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np

from avjax.data.pipeline import VALUES, evaluation_batches
from avjax.experiment import Experiment
from avjax.progress import progress
from avjax.run import Run, RunError, read_json, write_json, write_predictions
from avjax.streams import Batch, Mean
from avjax.training.distributed import everywhere, is_first
from avjax.training.metrics import Estimate, classification_metrics, regression_metrics
from avjax.training.step import Means, TrainState
from avjax.training.tracking import finite

# What the numbers of a head are.
Kind = Literal["softmax", "sigmoid", "values"]


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
      probabilities: head (and ``head/modality``) -> [N, K]; of a head of values the values themselves.
      target: head -> [N, K].
      index: [N] record numbers.
      present: modality -> [N] whether the clip has it; ``head/modality`` is scored on those clips alone.
      losses: mean of each part of the loss.
    """

    probabilities: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    index: np.ndarray
    present: dict[str, np.ndarray]
    losses: dict[str, float]

    def arrays(self) -> dict[str, np.ndarray]:
        """For an .npz file; ``from_arrays`` reads it back."""
        named = {f"probabilities:{head}": values for head, values in self.probabilities.items()}
        named |= {f"target:{head}": values for head, values in self.target.items()}
        named |= {f"present:{modality}": there for modality, there in self.present.items()}
        return named | {"index": self.index}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Predictions:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.split(":", 1)[1]: values for name, values in arrays.items() if name.startswith(f"{prefix}:")}

        return cls(part("probabilities"), part("target"), arrays["index"], part("present"), {})

    def metrics(self, *, kind: Kind = "softmax", samples: int = 1000) -> dict[str, dict[str, Estimate]]:
        """Head -> metric -> estimate; ``head/modality`` counts as a head, unless no clip has that modality."""
        found = {}
        for name, values in self.probabilities.items():
            head, _, modality = name.partition("/")
            rows = self.present.get(modality, np.ones(len(values), bool))
            if rows.any():
                target = self.target[head][rows]
                if kind == "values":
                    found[name] = regression_metrics(values[rows], target, samples=samples)
                else:
                    several = kind == "sigmoid"
                    found[name] = classification_metrics(values[rows], target, multi_label=several, samples=samples)
        return found

    def plain_metrics(self, *, kind: Kind = "softmax") -> dict[str, Any]:
        """``metrics`` as JSON takes it."""
        found = self.metrics(kind=kind)
        return {head: {name: e.plain() for name, e in estimates.items()} for head, estimates in found.items()}


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
            probabilities, parts = evaluate(state, batch)
            host = jax.device_get((probabilities, parts, _everywhere(batch)))
            probabilities, parts, (target, weight, index, present) = host
            real = weight > 0
            require_one_class(experiment, target, weight)
            arrays = {f"p:{head}": values for head, values in probabilities.items()}
            arrays |= {f"t:{head}": values for head, values in target.items()} | {"index": index}
            arrays |= {f"m:{modality}": there for modality, there in present.items()}
            rows.append({name: values[real] for name, values in arrays.items()})
            losses = {name: losses[name] + part if losses else part for name, part in parts.items()}
            advance(number)
    whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    # The crops of a clip stand one after the other.
    clips = experiment.data.test_clips
    mean = {name: values.reshape(-1, clips, *values.shape[1:]).mean(axis=1) for name, values in whole.items()}
    return Predictions(
        probabilities={name[2:]: values for name, values in mean.items() if name.startswith("p:")},
        target={name[2:]: values for name, values in mean.items() if name.startswith("t:")},
        index=whole["index"][::clips],
        present={name[2:]: values > 0 for name, values in mean.items() if name.startswith("m:")},
        losses={name: float(mean.value) for name, mean in losses.items()},
    )


def require_one_class(experiment: Experiment, target: Mapping[str, np.ndarray], weight: np.ndarray) -> None:
    """Refuses clips of several classes, or of none, where the objective takes every clip to have one.

    Raises:
      ValueError: says which head, and what to set.
    """
    if kind_of(experiment) != "softmax":
        return
    for head, values in target.items():
        one = np.allclose(np.asarray(values)[np.asarray(weight) > 0].sum(axis=-1), 1, atol=1e-3)
        if head != VALUES and not one:
            raise ValueError(
                f"clips have several classes of {head!r}, or none, and the objective takes one for granted; set"
                " --objective.kind sigmoid"
            )


def kind_of(experiment: Experiment) -> Kind:
    """What the model's outputs are: one class a clip, any number of them (mAP is the metric then), or values."""
    kind = getattr(experiment.objective, "kind", "softmax")
    return kind if kind in ("softmax", "sigmoid") else "values"


def keep(folder: Path, split: str, seen: Predictions, *, kind: Kind) -> dict[str, Any]:
    """Writes predictions/SPLIT.npz into a run's folder; returns what results.json says of the split."""
    if is_first():
        write_predictions(folder, split, seen.arrays())
    return {"metrics": seen.plain_metrics(kind=kind), "losses": finite(seen.losses)}


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
    mean = {head: np.mean([one.probabilities[head] for one in seen], axis=0) for head in heads}
    whole = Predictions(mean, seen[0].target, seen[0].index, {}, {})
    out.mkdir(parents=True, exist_ok=True)
    result = keep(out, split, whole, kind=kind_of(opened[0].experiment()))
    synthetic = any(read_json(run.path / "dataset.json")["synthetic"] for run in opened)
    write_json(out / "results.json", {"averaged": [str(path) for path in runs], "synthetic": synthetic, split: result})
    return result


def _everywhere(batch: Batch) -> tuple[dict[str, jax.Array], jax.Array, jax.Array, dict[str, jax.Array]]:
    """Targets, weights, record numbers and modalities of all rows, on every process."""
    present = {modality: stream.valid.any(axis=1) for modality, stream in batch.streams.items()}
    return everywhere((dict(batch.target), batch.weight, batch.index, present))
