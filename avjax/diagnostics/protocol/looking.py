"""What drift of changed clips is measured against: clean states, and the two drifts between which a score lies."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.drift import calibrated, grid
from avjax.diagnostics.drift.divergence import Drift, drift
from avjax.diagnostics.drift.warps import Warp
from avjax.diagnostics.measured import Condition, Measured, OfSums, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.relevances import carried
from avjax.diagnostics.protocol.saliency import FLOOR_SEEDS, ROLLOUT, STATE, States, on_cells, re_encoded, states
from avjax.diagnostics.protocol.study import Part, Said, Study

Look = Callable[[Clips], tuple[States, Said | None]]
"""Changed clips to their states, and what the model says of them where that comes along."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moved:
    """Clips under one change against the same clips as they are.

    Attributes:
      states: of the changed clips.
      pair: the two states that are compared: of a geometric change the clean one is warped as the input is.
      drift: between them.
      score: calibrated; None where the two ends leave nothing between them.
      lost: of a geometric change, the mass of either state that is out of the comparison.
    """

    states: States
    pair: grid.Pair
    drift: Drift
    score: Float[np.ndarray, " N"] | None
    lost: grid.Lost | None = None


@functools.lru_cache(maxsize=1)
def of_stressed(study: Study) -> Looking:
    """By gradients, of the clips that are stressed: the same for all stages."""
    return Looking.by_gradients(study, study.part(study.tier.stressed))


@dataclasses.dataclass(frozen=True, eq=False)
class Looking:
    """Attributes:
    estimator: the source of the states.
    look: gives states of changed clips.
    clean: states of the clips as they are.
    floor, ceiling: of each clip.
    """

    study: Study
    clips: Clips
    estimator: str
    look: Look
    clean: States
    floor: Float[np.ndarray, " N"]
    ceiling: Float[np.ndarray, " N"]

    @classmethod
    def by_gradients(cls, study: Study, part: Part) -> Looking:
        """Raises ``Undefined`` where there is no saliency."""
        probe = study.probe
        if not isinstance(probe, ModelProbe):
            raise Undefined("a plain function has no gradients here")
        return cls._of(study, part, STATE, lambda clips: states(probe, clips, part.clean.predicted))

    @classmethod
    def by_rollout(cls, study: Study, part: Part) -> Looking:
        """Raises ``Undefined`` where relevance cannot be carried through the model."""
        through = carried(study)
        return cls._of(
            study, part, ROLLOUT, lambda clips: (on_cells(through.rollout(clips, part.clean.predicted)), None)
        )

    @classmethod
    def _of(cls, study: Study, part: Part, estimator: str, look: Look) -> Looking:
        clips, names = part.clips, study.modalities
        clean = look(clips)[0]
        again = [look(re_encoded(clips, seed=study.seed + seed))[0].pi for seed in range(FLOOR_SEEDS)]
        floor = calibrated.drift_floor(clean.pi, np.stack(again), clean.groups, names)
        ceiling = calibrated.drift_ceiling(clean.pi, clean.groups, names, seed=study.seed)
        return cls(study, clips, estimator, look, clean, floor, ceiling)

    @property
    def fields(self) -> dict[str, Any]:
        """Of every line: rollout is of no class."""
        return {"estimator": self.estimator} | ({"target": "predicted"} if self.estimator == STATE else {})

    def moved(self, found: States, warps: Mapping[str, Warp] | None = None) -> Moved:
        """Undefined where nothing of a state is in view after a warp."""
        pair, lost = ((self.clean.pi, found.pi), None) if warps is None else self.clean.against(found, warps)
        moved = drift(*pair, self.clean.groups, self.study.modalities)
        try:
            score = calibrated.calibrated(moved.total, float(self.floor.mean()), float(self.ceiling.mean()))
        except Undefined:
            score = None
        return Moved(found, pair, moved, score, lost)

    def under(
        self, clips: Clips, condition: Condition, warps: Mapping[str, Warp] | None = None, **fields: Any
    ) -> tuple[Moved | None, Said, list[Measured]]:
        """Drift of the clips under a condition, None where there is none; what the model says of them; and lines."""
        said = None
        try:
            states, said = self.look(clips)
            moved = self.moved(states, warps)
        except Undefined as undefined:
            named = {"estimator": self.estimator, "n": len(clips), "condition": condition, **fields}
            said = self.study.said(clips) if said is None else said
            return None, said, [skipped("drift/cmsd", undefined.reason, **named)]
        return moved, said, self.lines(moved, condition, **fields)

    def lines(self, moved: Moved, condition: Condition, **fields: Any) -> list[Measured]:
        """Drift under one condition, its parts, and what was out of the comparison."""
        study, common = self.study, {**self.fields, "condition": condition, **fields}
        found = [study.mean("drift/cmsd", moved.drift.total, self.clips, **common)]
        if moved.score is not None:
            found.append(study.mean("drift/cmsd_score", moved.score, self.clips, **common))
        else:
            found.append(self.no_score("drift/cmsd_score", **common))
        found.append(study.mean("drift/cmsd_allocation", moved.drift.allocation, self.clips, **common))
        for place, modality in enumerate(study.modalities):
            within = moved.drift.localisation[:, place]
            found.append(study.mean("drift/cmsd_localisation", within, self.clips, group=modality, **common))
        for side, mass in zip(("clean", "changed"), moved.lost or (), strict=False):
            own = {**common, "estimator": f"{common['estimator']}, of the {side} state"}
            found.append(study.mean("drift/dropped_mass", mass, self.clips, **own))
        return found

    def no_score(self, id: str, **fields: Any) -> Measured:
        """A line that says why there is nothing to calibrate with."""
        reason = (
            f"states of different clips differ by {self.ceiling.mean():.3g}, re-encodings of one by"
            f" {self.floor.mean():.3g}"
        )
        return skipped(id, reason, n=len(self.clips), **fields)

    def of_harm(
        self, score: np.ndarray, clean: Said, said: Said, condition: Condition, **fields: Any
    ) -> list[Measured]:
        """Drift without a change of the answer, and with harm."""
        common = {**self.fields, "condition": condition, **fields}
        same, harmed = said.predicted == clean.predicted, clean.right & ~said.right
        # ``axes.unexplained_drift`` and ``axes.harmful_drift`` of any rows.
        unexplained = OfSums.mean_where(score, same, "no clip keeps its prediction")
        harmful = OfSums.mean_where(score, harmed, "no clip turns from right to wrong")
        return [
            self.study.line("drift/unexplained", unexplained, self.clips, **common),
            self.study.line("drift/harmful", harmful, self.clips, **common),
        ]
