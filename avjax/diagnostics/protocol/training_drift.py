"""Where saliency went while the model was trained: the training axis of drift (2.3 c), version 1.

States are those of corruption.py, of fixed clips and of the class that the diagnosed model predicts, at every
checkpoint that the run still has.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import ALLOCATION, STEP, TO_FINAL
from avjax.diagnostics.drift import axes, calibrated
from avjax.diagnostics.drift.divergence import Drift, drift
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.saliency import FLOOR_SEEDS, STATE, States, re_encoded, states
from avjax.diagnostics.protocol.study import Found, Restore, Study
from avjax.training.checkpoint import CheckpointError, Checkpoints, problem_of
from avjax.training.step import TrainState
from avjax.training.trained import Trained


def kept_checkpoints(trained: Trained) -> dict[int, Restore]:
    """Step -> restores the state of then, of every checkpoint in the run's folder, from step 1 on.

    Restoring raises CheckpointError where the checkpoint is damaged, or of another model.
    """
    checkpoints = Checkpoints(trained.run.checkpoints)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trained.state)

    def restore(step: int) -> TrainState:
        if problem := problem_of(checkpoints.path / str(step)):
            raise CheckpointError(f"checkpoint {step} is damaged: {problem}")
        return checkpoints.load(step, target)[0]

    return {step: functools.partial(restore, step) for step in checkpoints.finished() if step >= 1}


def over_training(study: Study) -> Found:
    """Drift from checkpoint to checkpoint, and of each to the last; a reason where there are not two of them."""
    part, probe, found = study.part(study.tier.trained), study.probe, Found()
    fields = {"estimator": STATE, "target": "predicted"}
    if not isinstance(probe, ModelProbe):
        found.lines.append(skipped("drift/cmsd_train", "a plain function has no checkpoints", **fields))
        return found
    target, at, lost, last = part.clean.predicted, {}, {}, probe
    for step, own in study.kept(lost):
        try:
            at[step] = states(own, part.clips, target)[0]
        except Undefined as undefined:
            lost[step] = undefined.reason
        else:
            last = own
    try:
        if len(at) < 2:
            raise Undefined(_too_few(list(at), lost))
        again = [re_encoded(part.clips, seed=study.seed + seed) for seed in range(FLOOR_SEEDS)]
        encoded = np.stack([states(last, clips, target)[0].pi for clips in again])
    except Undefined as undefined:
        found.lines.append(skipped("drift/cmsd_train", undefined.reason, n=len(part.rows), **fields))
        return found
    steps = np.array(list(at))
    fields["estimator"] = f"{STATE}, {len(steps)} checkpoints of steps {_list(steps)}"
    if lost:
        fields["estimator"] += f"; {len(lost)} more cannot be used: {lost[min(lost)]}"
    found.lines += _lines(study, part.clips, steps, list(at.values()), encoded, fields)
    mass = np.array([[one.mass(name).mean() for name in study.modalities] for one in at.values()])
    found.arrays |= {STEP: steps, ALLOCATION: mass, TO_FINAL: _to_final(list(at.values()), study).mean(axis=1)}
    return found


def _too_few(steps: list[int], lost: Mapping[int, str]) -> str:
    every = sorted([*steps, *lost])
    kept = f"the run keeps {len(every)} checkpoints{f', of steps {_list(np.array(every))}' if every else ''}"
    if len(every) == 1:
        kept = f"the run keeps one checkpoint, of step {every[0]}"
    if lost:
        kept += f", of which {len(lost)} cannot be used ({lost[min(lost)]})"
    return f"{kept}; drift needs two, and --training.keep-last keeps more"


def _list(steps: Int[np.ndarray, " K"]) -> str:
    """All of few; of many the first and the last."""
    return ", ".join(map(str, steps)) if len(steps) <= 4 else f"{steps[0]} to {steps[-1]}"


def _to_final(at: list[States], study: Study) -> Float[np.ndarray, "K N"]:
    """CMSD(pi^k, pi^K) of each clip."""
    last = at[-1]
    return np.stack([drift(one.pi, last.pi, last.groups, study.modalities).total for one in at])


def _lines(
    study: Study,
    clips: Clips,
    steps: Int[np.ndarray, " K"],
    at: list[States],
    encoded: Float[np.ndarray, "S N J"],
    fields: Mapping[str, str],
) -> list[Measured]:
    names, groups, last = study.modalities, at[-1].groups, at[-1].pi
    moved: list[Drift] = [drift(one.pi, other.pi, groups, names) for one, other in itertools.pairwise(at)]
    total = np.stack([one.total for one in moved])
    floor = calibrated.drift_floor(last, encoded, groups, names)
    lines = []
    try:
        ceiling = calibrated.drift_ceiling(last, groups, names, seed=study.seed)
    except Undefined as undefined:
        lines.append(skipped("drift/cmsd_train", undefined.reason, n=len(clips), **fields))
    else:

        def score(rows: np.ndarray) -> float:
            ends = float(floor[rows].mean()), float(ceiling[rows].mean())
            between = np.asarray(calibrated.calibrated(total[:, rows], *ends)).mean(axis=1)
            return float(axes.training_drift(between, steps).mean())

        lines += [
            study.line("drift/cmsd_train", score, clips, **fields),
            study.mean("drift/cmsd_train_ceiling", ceiling, clips, **fields),
        ]
    allocation = np.mean([one.allocation for one in moved], axis=0)
    lines += [
        study.mean("drift/cmsd_train_raw", total.mean(axis=0), clips, **fields),
        study.mean("drift/cmsd_train_floor", floor, clips, **fields),
        study.mean("drift/cmsd_train_allocation", allocation, clips, **fields),
    ]
    for place, name in enumerate(names):
        within = np.mean([one.localisation[:, place] for one in moved], axis=0)
        lines.append(study.mean("drift/cmsd_train_localisation", within, clips, group=name, **fields))
    final = _to_final(at, study)
    for step, own in zip(steps[:-1], final, strict=False):
        estimator = f"{STATE}, step {step} to step {steps[-1]}"
        lines.append(study.mean("drift/to_final", own, clips, **{**fields, "estimator": estimator}))
    lines.append(
        number("drift/settle_step", lambda: axes.settle_step(final.mean(axis=1), steps), n=len(clips), **fields)
    )
    for name in names:
        mass = np.array([one.mass(name).mean() for one in at])
        lines.append(
            number("drift/collapse_step", lambda mass=mass: _collapsed(mass, steps), n=len(clips), group=name, **fields)
        )
    return lines


def _collapsed(mass: Float[np.ndarray, " K"], steps: Int[np.ndarray, " K"]) -> float:
    step = axes.collapsed_since(mass, steps)
    if step is None:
        raise Undefined(f"the mass is within {axes.MASS_BOUNDS[0]} and {axes.MASS_BOUNDS[1]} at the last checkpoint")
    return float(step)
