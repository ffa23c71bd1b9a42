"""A comparison's runs as one flat table: what comparison.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avjax.comparison.measure import CONDITIONS, SPLIT
from avjax.comparison.plan import Planned, differences
from avjax.run import Run, read_json
from avjax.training.metrics import over_seeds

COSTS = ("parameters", "flops_per_clip", "energy_joules_per_clip", "peak_bytes")

FORMULAS = {
    "accuracy": "mean over seeds and test clips; 95 % interval bootstrapped over seeds and clips",
    "flops_per_clip": "2 x multiply-accumulates of all products and convolutions of the evaluation step, front end"
    " included, loops counted as often as they run",
    "energy_joules_per_clip": "estimate: 4.6 pJ (float32 at 45 nm, Horowitz 2014) x FLOPs / 2; without memory, not"
    " measured",
    "step_seconds": "median training step, median over seeds; measured on the hardware named",
    "peak_bytes": "of a training step on one device, the compiler's plan: arguments, outputs and temporaries",
    "without_audio": "accuracy where the stream is valid nowhere",
    "without_video": "accuracy where the stream is valid nowhere",
    "misaligned": "accuracy with pictures from another moment than the sound, as many as otherwise",
}


def outcome(runs: Sequence[Planned], failures: Mapping[Path, str], late: float) -> dict[str, Any]:
    """Everything that is known of the runs; None, beside a reason, where something is not.

    Returns:
      What all share, and ``experiments``: name -> its numbers, each under a name of its own.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    by_name = {name: [run for run in runs if run.name == name] for name in names}
    experiments = {name: _row(own, failures) for name, own in by_name.items()}
    done = [run for run in runs if run.path not in failures]
    results = [Run(run.path).results() for run in done]
    first = {name: own[0].experiment for name, own in by_name.items()}
    heads = [read_json(run.path / "conditions.json")["head"] for run in done]
    return {
        "split": SPLIT,
        "metric": "accuracy",
        "head": heads[0] if heads else None,
        "seeds": list(dict.fromkeys(run.seed for run in runs)),
        "records": list(dict.fromkeys(run.experiment.data.records for run in runs)),
        "synthetic": any(result["synthetic"] for result in results) if results else None,
        "misaligned_seconds": late,
        "hardware": list(dict.fromkeys(_hardware(r["environment"]) for r in results if "environment" in r)),
        "formulas": FORMULAS,
        "differences": differences(first),
        "runs": len(runs),
        "failed": len(failures),
        "experiments": experiments,
    }


def _row(runs: Sequence[Planned], failures: Mapping[Path, str]) -> dict[str, Any]:
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
        for name in ("accuracy", *CONDITIONS[1:], *COSTS, "step_seconds"):
            row |= {name: None, f"{name}_reason": failed}
        return row
    found = [read_json(run.path / "conditions.json") for run in done]
    for condition in CONDITIONS:
        name = "accuracy" if condition == "whole" else condition
        reason = found[0]["reasons"].get(condition)
        if reason:
            row |= {name: None, f"{name}_reason": reason}
            continue
        estimate = over_seeds(np.array([one["right"][condition] for one in found], bool))
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
