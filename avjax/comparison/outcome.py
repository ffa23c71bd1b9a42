"""A comparison's runs as one flat table: what comparison.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avjax.comparison.measure import CONDITIONS, SPLIT, measure_of, reason_against
from avjax.comparison.plan import Planned, differences
from avjax.run import Run, RunError, read_json
from avjax.training.metrics import over_seeds
from avjax.training.metrics.tasks import higher_is_better

COSTS = ("parameters", "flops_per_clip", "energy_joules_per_clip", "peak_bytes")

FORMULAS = {
    "flops_per_clip": "2 x multiply-accumulates of all products and convolutions of the evaluation step, front end"
    " included, loops counted as often as they run",
    "energy_joules_per_clip": "estimate: 4.6 pJ (float32 at 45 nm, Horowitz 2014) x FLOPs / 2; without memory, not"
    " measured",
    "step_seconds": "median training step, median over seeds; measured on the hardware named",
    "peak_bytes": "of a training step on one device, the compiler's plan: arguments, outputs and temporaries",
}
INTERVAL = "95 % interval bootstrapped over seeds and clips"
MISSING = "where the stream is valid nowhere"
MISALIGNED = "with pictures from another moment than the sound, as many as otherwise"


def outcome(runs: Sequence[Planned], failures: Mapping[Path, str], late: float) -> dict[str, Any]:
    """Everything that is known of the runs; None, beside a reason, where something is not.

    Returns:
      What all share, and ``experiments``: name -> its numbers, each under a name of its own.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    by_name = {name: [run for run in runs if run.name == name] for name in names}
    done = [run for run in runs if run.path not in failures]
    found = {run.path: read_json(run.path / "conditions.json") for run in done}
    metric, conditions = _metric(found), _conditions(found)
    experiments = {name: _row(own, failures, metric, conditions) for name, own in by_name.items()}
    results = [Run(run.path).results() for run in done]
    first = {name: own[0].experiment for name, own in by_name.items()}
    return {
        "split": SPLIT,
        "metric": metric,
        "higher_is_better": higher_is_better(metric),
        "head": found[done[0].path]["head"] if done else None,
        "conditions": conditions,
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "records": list(dict.fromkeys(run.experiment.data.records for run in runs)),
        "synthetic": any(result["synthetic"] for result in results) if results else None,
        "misaligned_seconds": late,
        "hardware": list(dict.fromkeys(_hardware(r["environment"]) for r in results if "environment" in r)),
        "formulas": _formulas(metric, conditions),
        "differences": differences(first),
        "runs": len(runs),
        "failed": len(failures),
        "experiments": experiments,
    }


def _metric(found: Mapping[Path, Mapping[str, Any]]) -> str:
    """The metric by which all are compared; accuracy where nothing came to its end.

    Raises:
      RunError: where they are of different tasks.
    """
    tasks = {each["task"]: (path, each["metric"]) for path, each in found.items()}
    if len(tasks) > 1:
        (one, (path, _)), (two, (other, _)) = list(tasks.items())[:2]
        raise RunError(f"{path} is scored as {one} and {other} as {two}: they cannot be compared")
    return next((metric for _, metric in tasks.values()), "accuracy")


def _conditions(found: Mapping[Path, Mapping[str, Any]]) -> list[str]:
    """The usual ones, and those that some experiment has besides; but the whole."""
    return list(dict.fromkeys([*CONDITIONS, *(name for each in found.values() for name in each["conditions"])]))[1:]


def _formulas(metric: str, conditions: Sequence[str]) -> dict[str, str]:
    """What the numbers of a row are."""
    of = "and test clips" if metric == "accuracy" else f"of {metric} on the test clips"
    found = {metric: f"mean over seeds {of}; {INTERVAL}"}
    for condition in conditions:
        found[condition] = f"{metric} {MISALIGNED if condition == 'misaligned' else MISSING}"
    return found | FORMULAS


def _row(
    runs: Sequence[Planned], failures: Mapping[Path, str], metric: str, conditions: Sequence[str]
) -> dict[str, Any]:
    """One experiment over its seeds."""
    done = [run for run in runs if run.path not in failures]
    row: dict[str, Any] = {
        "seeds": [run.seed for run in done],
        "failed": len(runs) - len(done),
        "failures": [f"seed {run.seed}: {failures[run.path]}" for run in runs if run.path in failures],
        "modalities": list(runs[0].experiment.data.sampling),
        "steps": runs[0].steps,
    }
    if not done:
        failed = "no seed of it came to its end"
        for name in (metric, *conditions, *COSTS, "step_seconds"):
            row |= {name: None, f"{name}_reason": failed}
        return row
    reasons = read_json(done[0].path / "conditions.json")["reasons"]
    for condition in ("whole", *conditions):
        name = metric if condition == "whole" else condition
        reason = reasons.get(condition) or reason_against(condition, runs[0].experiment.data)
        if reason:
            row |= {name: None, f"{name}_reason": reason}
            continue
        estimate = over_seeds([measure_of(run.path, condition) for run in done])
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row["clips"] = estimate.count
    row |= read_json(done[0].path / "costs.json")
    speeds = [Run(run.path).results().get("speed", {}).get("speed/step_seconds_p50") for run in done]
    known = [seconds for seconds in speeds if seconds is not None]
    row["step_seconds"] = float(np.median(known)) if known else None
    if not known:
        row["step_seconds_reason"] = "too few steps to time one"
    return row


def _hardware(environment: Mapping[str, Any]) -> str:
    """One line of what trained a run."""
    return (
        f"{environment['devices']} x {environment['device']} ({environment['platform']}, {environment['cores']} cores),"
        f" jax {environment['jax']}"
    )
