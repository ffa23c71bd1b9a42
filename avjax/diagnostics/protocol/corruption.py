"""Clips under corruption at rising severity: what is still right, what answers change, and where saliency goes.

Saliency drift, version 1: a state is |x df_c/dx| of the features behind the front end, of the class that the model
predicts for the clean clip, pooled on 16 cells of sound (4 of frequency, 4 of time) and 49 of the pictures (7 by 7,
over all frames), as one distribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import robustness
from avjax.diagnostics.contribution import performance
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import DRIFT, RIGHT
from avjax.diagnostics.drift import axes, calibrated, grid
from avjax.diagnostics.drift.divergence import Drift, drift
from avjax.diagnostics.measured import Condition, Measured, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.answers import changes
from avjax.diagnostics.protocol.study import Found, Part, Said, Study, joined
from avjax.diagnostics.stress.corruption import SUITE, corrupted, unchanged

STATE = "gradient x input, 16 + 49 cells"
FLOOR_SEEDS = 4
DITHER_DB, PIXEL = 60.0, 1 / 255
LEAST_FOR_SPREAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class States:
    """Saliency on the common cells.

    Attributes:
      pi: [N, J], each row a distribution.
      groups: modality of each cell.
    """

    pi: Float[np.ndarray, "N J"]
    groups: tuple[str, ...]

    def mass(self, modality: str) -> Float[np.ndarray, " N"]:
        return self.pi[:, [group == modality for group in self.groups]].sum(axis=1)


def corruptions(study: Study) -> Found:
    """5.1 to 5.3 with section 3 and the severity axis of section 2 recomputed under each."""
    part, found = study.part(study.tier.stressed), Found()
    clips = part.clips
    names = study.tier.corruptions or tuple(SUITE)
    looking = None
    if study.tier.drift:
        try:
            looking = _Looking.of(study, part)
        except Undefined as undefined:
            found.lines.append(skipped("drift/cmsd", undefined.reason, estimator=STATE, n=len(clips)))
    tables: dict[str, list[list[float]]] = {}
    for name in names:
        try:
            _one(study, part, name, looking, found, tables)
        except Undefined as undefined:
            fields = {"estimator": "argmax", "condition": Condition(name)}
            found.lines.append(skipped("stress/accuracy", undefined.reason, **fields))
    for group, table in tables.items():
        fields = {"estimator": f"{len(table)} corruptions, severities {_words(study.tier.severities)}", "group": group}
        accuracy = float(part.clean.right.mean())
        found.lines += _of_table(np.array(table), accuracy, len(clips), fields)
    return found


def _words(severities: tuple[int, ...]) -> str:
    return ", ".join(map(str, severities))


def _of_table(table: np.ndarray, clean: float, n: int, fields: dict[str, str]) -> list[Measured]:
    return [
        number("stress/mean_performance", lambda: robustness.mean_performance(table), n=n, **fields),
        number("stress/relative_performance", lambda: robustness.relative_performance(clean, table), n=n, **fields),
    ]


def _one(
    study: Study, part: Part, name: str, looking: _Looking | None, found: Found, tables: dict[str, list[list[float]]]
) -> None:
    corruption, clips, clean = SUITE[name], part.clips, part.clean
    group = joined([m for m in study.modalities if m in corruption.modalities])
    accuracies, scores, masses = [], [], {m: [] for m in corruption.modalities}
    for severity in study.tier.severities:
        stressed = clips.replace(corrupted(clips.streams, name, severity, seed=study.seed, index=clips.index))
        condition = Condition(name, severity, study.seed)
        as_before = unchanged(clips.streams, stressed.streams)
        same = int(np.all([as_before[m] for m in corruption.modalities], axis=0).sum())
        estimator = "argmax" if not same else f"argmax; {same} of {len(clips)} clips came out unchanged"
        said, states = None, None
        if looking is not None:
            try:
                states, said = looking.look(stressed)
            except Undefined as undefined:
                fields = {"estimator": STATE, "n": len(clips), "condition": condition}
                found.lines.append(skipped("drift/cmsd", undefined.reason, **fields))
        if said is None:
            said = study.said(stressed)
        if states is not None:
            scores.append(looking.record(study, clips, states, said, clean, condition, found))
            for modality in masses:
                masses[modality].append(states.mass(modality))
        right = said.right
        fields = {"condition": condition, "group": group}
        found.lines.append(study.mean("stress/accuracy", right, clips, estimator=estimator, **fields))
        found.keep(f"{RIGHT}{name} {severity}", right, part.rows)
        found.lines += changes(study, clips, clean, said, condition=condition)
        accuracies.append(float(right.mean()))
        if severity == max(study.tier.severities):
            found.lines += _retention(study, clips, clean, said, fields)
    tables.setdefault(group, []).append(accuracies)
    # A spread over severities is of all of them.
    if looking is not None and len(scores) == len(study.tier.severities) >= LEAST_FOR_SPREAD:
        found.keep(f"{DRIFT}{name}", np.stack(scores), part.rows)
        found.lines += looking.over_severities(study, clips, name, np.stack(scores), masses)


def _retention(study: Study, clips: Clips, clean: Said, said: Said, fields: dict) -> list[Measured]:
    guess = performance.commonest_right(clips.label)

    def chance(rows: np.ndarray) -> float:
        return robustness.chance_adjusted_retention(
            float(clean.right[rows].mean()), float(said.right[rows].mean()),
            float(guess[rows].mean()),
        )  # fmt: skip

    def plain(rows: np.ndarray) -> float:
        return robustness.retention(float(clean.right[rows].mean()), float(said.right[rows].mean()))

    # ``robustness.absolute_robustness`` of any rows.
    kept = 1.0 - (clean.right.astype(np.float64) - said.right)
    return [
        study.line("stress/retention", plain, clips, estimator="accuracy", **fields),
        study.mean("stress/absolute_robustness", kept, clips, estimator="accuracy", **fields),
        study.line("stress/chance_adjusted_retention", chance, clips, estimator="over the commonest class", **fields),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Looking:
    """What drift is measured against: clean states, and between which drifts a score lies."""

    probe: ModelProbe
    target: np.ndarray
    clean: States
    floor: float
    ceiling: float

    @classmethod
    def of(cls, study: Study, part: Part) -> _Looking:
        """Raises ``Undefined`` where there is no saliency."""
        probe = study.probe
        if not isinstance(probe, ModelProbe):
            raise Undefined("a plain function has no gradients here")
        clips, target = part.clips, part.clean.predicted
        clean, _ = states(probe, clips, target)
        encoded = []
        for seed in range(FLOOR_SEEDS):
            again, _ = states(probe, re_encoded(clips, seed=study.seed + seed), target)
            encoded.append(again.pi)
        names = study.modalities
        floor = float(calibrated.drift_floor(clean.pi, np.stack(encoded), clean.groups, names).mean())
        ceiling = float(calibrated.drift_ceiling(clean.pi, clean.groups, names, seed=study.seed).mean())
        return cls(probe, target, clean, floor, ceiling)

    def look(self, clips: Clips) -> tuple[States, Said]:
        return states(self.probe, clips, self.target)

    def record(
        self, study: Study, clips: Clips, found: States, said: Said, clean: Said, condition: Condition, into: Found
    ) -> Float[np.ndarray, " N"]:
        """Lines of one condition; returns the calibrated drift of every clip."""
        moved: Drift = drift(self.clean.pi, found.pi, self.clean.groups, study.modalities)
        score = calibrated.calibrated(moved.total, self.floor, self.ceiling)
        common = {"estimator": STATE, "condition": condition, "target": "predicted"}
        into.lines += [
            study.mean("drift/cmsd", moved.total, clips, **common),
            study.mean("drift/cmsd_score", score, clips, **common),
            study.mean("drift/cmsd_allocation", moved.allocation, clips, **common),
        ]
        for place, modality in enumerate(study.modalities):
            into.lines.append(
                study.mean("drift/cmsd_localisation", moved.localisation[:, place], clips, group=modality, **common)
            )
        same = said.predicted == clean.predicted

        def unexplained(rows: np.ndarray) -> float:
            return axes.unexplained_drift(score[rows], same[rows])

        def harmful(rows: np.ndarray) -> float:
            return axes.harmful_drift(score[rows], clean.right[rows], said.right[rows])

        into.lines += [
            study.line("drift/unexplained", unexplained, clips, **common),
            study.line("drift/harmful", harmful, clips, **common),
        ]
        return score

    def over_severities(
        self, study: Study, clips: Clips, name: str, scores: np.ndarray, masses: Mapping[str, list[np.ndarray]]
    ) -> list[Measured]:
        common = {"estimator": STATE, "condition": Condition(name, None, study.seed), "target": "predicted"}
        lines = [study.line("drift/cmsd_severity", lambda rows: axes.severity_drift(scores[:, rows]), clips, **common)]
        # Of a corruption of everything there is no other modality to turn to.
        if len(masses) == 1 and len(study.modalities) > 1:
            ((modality, by_severity),) = masses.items()
            clean, corrupt = self.clean.mass(modality), np.stack(by_severity)
            lines.append(
                study.line(
                    "drift/rfi", lambda rows: axes.reliability_following(clean[rows], corrupt[:, rows]), clips,
                    group=modality, **common,
                )
            )  # fmt: skip
        return lines


def states(probe: ModelProbe, clips: Clips, target: np.ndarray) -> tuple[States, Said]:
    """Saliency of clips on the common cells, and what the model says of them.

    Undefined where a clip has no saliency at all.
    """
    found, logits = probe.saliency(clips, target)
    parts, groups = [], []
    for modality in probe.modalities:
        mass = np.asarray(found[modality], np.float64)
        if mass.ndim == 4:
            pooled = grid.pooled(mass.sum(axis=1), grid.VISUAL_GRID)
        elif mass.ndim == 3:
            pooled = grid.pooled(mass.swapaxes(1, 2), grid.AUDIO_GRID)
        else:
            pooled = grid.pooled(mass[:, None], (1, grid.AUDIO_GRID[0] * grid.AUDIO_GRID[1]))
        parts.append(pooled.reshape(len(clips), -1))
        groups += [modality] * parts[-1].shape[1]
    return States(grid.state(parts), tuple(groups)), Said(logits, clips.label)


def re_encoded(clips: Clips, *, seed: int) -> Clips:
    """The clips as changed by what nobody hears or sees: dither 60 dB below the sound, noise of 1/255 in pictures."""
    changed = {}
    for modality, stream in clips.streams.items():
        values = stream.values
        random = np.random.default_rng((seed, len(modality)))
        if values.ndim == 2:
            power = np.sqrt(np.mean(values**2, axis=1, keepdims=True))
            noisy = values + random.standard_normal(values.shape, np.float32) * power * 10 ** (-DITHER_DB / 20)
            changed[modality] = stream.replace(values=np.clip(noisy, -1, 1).astype(np.float32))
        elif values.ndim == 5:
            noisy = values + random.uniform(-PIXEL, PIXEL, values.shape).astype(np.float32)
            changed[modality] = stream.replace(values=np.clip(noisy, 0, 1))
    return clips.replace(changed)
