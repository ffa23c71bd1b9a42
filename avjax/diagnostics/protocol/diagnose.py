"""Runs the stages of a diagnosis, keeps each as soon as it is done, and puts them together.

    OUT/run.lock           what the numbers follow from: model, clips, tier, seed, version
    OUT/stages/NAME.json   lines of a finished stage, with its time; NAME.npz its arrays
    OUT/report.json, report.html, samples.npz

The same command goes on with the stages that are missing. Of another model, other clips or another tier, the folder's
stages are done anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from avjax import __version__
from avjax.diagnostics.diagnosis.result import INDEX, SOURCE, Diagnosis
from avjax.diagnostics.measured import Condition, Measured
from avjax.diagnostics.protocol import explanation
from avjax.diagnostics.protocol.ablation import ablation, additive
from avjax.diagnostics.protocol.alignment import absences, mixtures, offsets
from avjax.diagnostics.protocol.attack import attacks
from avjax.diagnostics.protocol.backdoor import backdoor
from avjax.diagnostics.protocol.corruption import corruptions
from avjax.diagnostics.protocol.degraded import degraded
from avjax.diagnostics.protocol.faithfulness import faithfulness
from avjax.diagnostics.protocol.groups import gaps, groups
from avjax.diagnostics.protocol.heads import heads
from avjax.diagnostics.protocol.imbalance import imbalance
from avjax.diagnostics.protocol.information import information
from avjax.diagnostics.protocol.noise import noise
from avjax.diagnostics.protocol.pointing import pointing
from avjax.diagnostics.protocol.randomised import randomised
from avjax.diagnostics.protocol.shown import worst
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.tiers import Tier
from avjax.diagnostics.protocol.time_drift import over_time
from avjax.diagnostics.protocol.training_drift import over_training
from avjax.progress import progress
from avjax.run import write_json

Stage = Callable[[Study], Found]
VERSION = 6
"""Of the protocol: rises when a stage would give other numbers of the same study."""
SIZES = (
    "timed", "trained", "shapley", "attention", "gradients", "additive", "faithful", "randomised", "pointed",
    "degraded", "stressed", "attacked",
)  # fmt: skip
"""Fields of a tier that are numbers of clips."""


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished stage."""

    found: Found
    seconds: float


def stages(tier: Tier, modalities: Sequence[str]) -> dict[str, Stage | str]:
    """Name -> the stage, or why this tier or this model goes without."""
    alone = "the model has one modality" if len(modalities) < 2 else ""
    small = f"left out of the tier {tier.name}"
    return {
        "ablation": ablation,
        "information": alone or information,
        "imbalance": alone or imbalance,
        "additive": alone or (additive if tier.additive else small),
        "shapley": explanation.shapley_values,
        "attention": explanation.attention,
        "gradients": small if tier.gradients == 0 else explanation.by_gradients,
        "heads": small if tier.gradients == 0 else heads,
        "corruptions": corruptions,
        "time": over_time if tier.timed != 0 else small,
        "training": over_training if tier.trained != 0 else small,
        "offsets": alone or (offsets if tier.offsets else small),
        "mixtures": alone or (mixtures if len(tier.rates) > 1 else small),
        "absences": absences,
        "attacks": attacks if tier.attack_steps else small,
        "backdoor": backdoor if tier.attack_steps else small,
        "faithfulness": small if tier.faithful == 0 else faithfulness,
        "randomised": small if tier.randomised == 0 else randomised,
        "pointing": small if tier.pointed == 0 else pointing,
        "degraded": small if tier.degraded == 0 else degraded,
        "groups": groups,
    }


def diagnose(
    study: Study, about: Mapping[str, Mapping[str, Any]], out: Path, *, command: str = "", quiet: bool = False,
    baseline: Diagnosis | None = None,
) -> Diagnosis:  # fmt: skip
    """Every number of the tier; what is there already in ``out`` is read.

    Args:
      baseline: another model on the same clips, for numbers that need one; none of them is kept.
      about: model, data and env, as report.json has them; what the numbers follow from is told by them.
    """
    folder = out / "stages"
    _claim(folder, out / "run.lock", _identity(study, about))
    plan, done, skipped = stages(study.tier, study.modalities), {}, {}
    with progress(f"diagnose into {out}", len(plan), quiet=quiet) as advance:
        for place, (name, stage) in enumerate(plan.items()):
            if isinstance(stage, str):
                skipped[name] = stage
            elif (kept := _read(folder, name)) is not None:
                done[name] = kept
            else:
                advance(place, name)
                begin = time.monotonic()
                found = stage(study)
                done[name] = Done(found, time.monotonic() - begin)
                _write(folder, name, done[name])
            advance(place + 1, name)
    arrays = {name: array for one in done.values() for name, array in one.found.arrays.items()}
    lines = [line for one in done.values() for line in one.found.lines]
    lines += explanation.agreement(study, arrays).lines + gaps(study, arrays).lines
    lines += noise(study, arrays, baseline).lines
    arrays |= {SOURCE: np.array(study.clips.source), INDEX: study.clips.index}
    return Diagnosis(
        tuple(lines), {**about, "protocol": _protocol(study, done, skipped, command)}, arrays, worst(study)
    )


def fingerprint(tree: Any) -> str:
    """Hash of a tree of arrays, such as parameters."""
    made = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        made.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _identity(study: Study, about: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    plain = json.loads(json.dumps(dataclasses.asdict(study.tier)))
    return {
        "protocol": VERSION,
        "avjax": __version__,
        "tier": plain,
        "seed": study.seed,
        "resamples": study.resamples,
        "alone": {name: fingerprint((one.right, one.tokens)) for name, one in sorted(study.alone.items())},
        "model": about["model"].get("checkpoint"),
        "training": sorted(study.checkpoints),
        "attributes": fingerprint(dict(study.attributes)),
        "records": about["data"].get("fingerprint"),
        "clips": hashlib.sha256(np.ascontiguousarray(study.clips.index)).hexdigest(),
    }


def _claim(folder: Path, lock: Path, identity: Mapping[str, Any]) -> None:
    """Stages of something else go."""
    try:
        same = json.loads(lock.read_text(encoding="utf-8")) == identity
    except (OSError, ValueError):
        same = False
    if not same and folder.is_dir():
        print(f"avjax: {folder} is of another model, other clips or another tier: done anew", file=sys.stderr)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(lock, identity)


def _write(folder: Path, name: str, done: Done) -> None:
    """The arrays first: the lines say that a stage is done."""
    partial = folder / f".{name}.npz"
    np.savez(partial, **done.found.arrays)
    partial.replace(folder / f"{name}.npz")
    write_json(folder / f"{name}.json", {"seconds": done.seconds, "lines": [line.plain() for line in done.found.lines]})


def _read(folder: Path, name: str) -> Done | None:
    """None where it is not there, or damaged."""
    try:
        kept = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        lines = [
            Measured(**{**line, "condition": line["condition"] and Condition(**line["condition"])})
            for line in kept["lines"]
        ]
        return Done(Found(lines, arrays), float(kept["seconds"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _protocol(study: Study, done: Mapping[str, Done], skipped: Mapping[str, str], command: str) -> dict[str, Any]:
    tier = study.tier
    sizes = {"clips": len(study.clips)}
    for name in SIZES:
        size = getattr(tier, name)
        sizes[name] = len(study.clips) if size is None else min(size, len(study.clips))
    times = [{"name": name, "seconds": round(one.seconds, 2), "reason": ""} for name, one in done.items()]
    times += [{"name": name, "seconds": None, "reason": reason} for name, reason in skipped.items()]
    return {
        "tier": tier.name,
        "seeds": {"protocol": study.seed},
        "fills": list(study.fills),
        "samples": sizes,
        "command": command,
        "stages": times,
        # Kilobytes on Linux, bytes on a Mac.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
    }
