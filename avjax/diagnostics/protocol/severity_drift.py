"""Drift over the severities of a corruption: the severity axis of drift (2.3 b), version 2."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.diagnosis.arrays import ALLOCATED, DRIFT, LOCALISED, MASS, RAW
from avjax.diagnostics.drift import axes
from avjax.diagnostics.measured import Condition, Measured, Undefined
from avjax.diagnostics.protocol.looking import Looking, Moved
from avjax.diagnostics.protocol.study import Found, Said

LEAST = 2
"""A spread over severities is of two at least."""


@dataclasses.dataclass(frozen=True, eq=False)
class Track:
    """Drift of clips at rising severity of one corruption.

    Attributes:
      raw, allocation: CMSD in bits, and what of it is between modalities.
      localisation: what is within each.
      score: calibrated; None where there is nothing to calibrate with.
      mass: of each modality: of the clean clips, and at each severity.
    """

    raw: Float[np.ndarray, "S N"]
    allocation: Float[np.ndarray, "S N"]
    localisation: Float[np.ndarray, "S N M"]
    score: Float[np.ndarray, "S N"] | None
    mass: Float[np.ndarray, "S+1 N M"]

    @classmethod
    def of(cls, looking: Looking, way: Sequence[Moved]) -> Track:
        """Of the clips at each severity, mildest first."""
        names, states = looking.study.modalities, [looking.clean, *(moved.states for moved in way)]
        scores = [moved.score for moved in way if moved.score is not None]
        return cls(
            np.stack([moved.drift.total for moved in way]),
            np.stack([moved.drift.allocation for moved in way]),
            np.stack([moved.drift.localisation for moved in way]),
            np.stack(scores) if len(scores) == len(way) else None,
            np.stack([np.stack([one.mass(name) for name in names], axis=1) for one in states]),
        )

    def keep(self, found: Found, name: str, rows: np.ndarray) -> None:
        """In samples.npz."""
        arrays = {RAW: self.raw, ALLOCATED: self.allocation, LOCALISED: self.localisation, MASS: self.mass}
        if self.score is not None:
            arrays[DRIFT] = self.score
        for prefix, array in arrays.items():
            found.keep(f"{prefix}{name}", array, rows)


def over_severities(looking: Looking, name: str, only: str | None, track: Track) -> list[Measured]:
    """Means over the severities of one corruption, and whether the model leaves what it corrupts.

    Args:
      only: the modality that it corrupts, where there is another to turn to.
    """
    if len(track.raw) < LEAST:
        return []
    study, condition = looking.study, Condition(name, None, looking.study.seed)
    lines = _means(looking, [track], condition)
    if only is not None:
        mass = track.mass[..., study.modalities.index(only)]
        lines.append(
            study.line(
                "drift/rfi", lambda rows: axes.reliability_following(mass[0, rows], mass[1:, rows]), looking.clips,
                group=only, condition=condition, **looking.fields,
            )
        )  # fmt: skip
    return lines


def separation(
    looking: Looking, name: str, score: Float[np.ndarray, "S N"], clean: Said, answers: Sequence[Said]
) -> Measured:
    """Whether drift tells the clips that a corruption costs, of all its severities together."""
    harmed = np.stack([clean.right & ~said.right for said in answers])
    same = np.stack([said.predicted == clean.predicted for said in answers])
    # ``axes.drift_separation`` of any rows: of every two clips, how many pairs of their severities there are, one
    # harmed and the other the same, and of how many of them drift is the greater, ties for half.
    pairs, ordered = np.zeros((2, score.shape[1], score.shape[1]))
    for (one, lost), (other, kept) in itertools.product(
        zip(score, harmed, strict=True), zip(score, same & ~harmed, strict=True)
    ):
        paired = lost[:, None] & kept
        pairs += paired
        ordered += paired * (np.sign(one[:, None] - other) / 2 + 1 / 2)

    def of(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=len(pairs)).astype(np.float64)
        if not (count := times @ pairs @ times):
            raise Undefined("no clip turns from right to wrong, or none keeps its prediction")
        return float(times @ ordered @ times / count)

    condition = Condition(name, None, looking.study.seed)
    return looking.study.line("drift/separation", of, looking.clips, condition=condition, **looking.fields)


def over_all(looking: Looking, tracks: Sequence[Track]) -> list[Measured]:
    """The mean over corruptions, which is the headline, and the two ends that scores lie between."""
    study = looking.study
    lines = [
        study.mean("drift/cmsd_severity_floor", looking.floor, looking.clips, **looking.fields),
        study.mean("drift/cmsd_severity_ceiling", looking.ceiling, looking.clips, **looking.fields),
    ]
    tracks = [track for track in tracks if len(track.raw) >= LEAST]
    if not tracks:
        return lines
    return lines + _means(looking, tracks, None)


def _means(looking: Looking, tracks: Sequence[Track], condition: Condition | None) -> list[Measured]:
    """Over the severities of all tracks."""
    study, clips, common = looking.study, looking.clips, {**looking.fields, "condition": condition}
    scores = [track.score for track in tracks if track.score is not None]
    if not scores:
        lines = [looking.no_score("drift/cmsd_severity", **common)]
    else:
        score = np.concatenate(scores)
        lines = [study.line("drift/cmsd_severity", lambda rows: axes.severity_drift(score[:, rows]), clips, **common)]
    raw, allocation, within = (
        np.concatenate([getattr(track, part) for track in tracks]).mean(axis=0)
        for part in ("raw", "allocation", "localisation")
    )
    lines += [
        study.mean("drift/cmsd_severity_raw", raw, clips, **common),
        study.mean("drift/cmsd_severity_allocation", allocation, clips, **common),
    ]
    for place, modality in enumerate(study.modalities):
        lines.append(study.mean("drift/cmsd_severity_localisation", within[:, place], clips, group=modality, **common))
    return lines
