"""What a model says of clips as parts of them go: asked first, and answered in whole batches."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.faithfulness.curves import KeptValue
from avjax.diagnostics.imputation import imputed
from avjax.diagnostics.protocol.study import Part, Study

T = TypeVar("T")


class Removal:
    """Removal of raw players of some clips, and the class that the model predicts for each.

    A measure asks of one clip after another, a few masks at a time; the model is quick only with full batches. So
    measures are run twice (``answered``): first with made-up answers, to learn what is asked, then with the model's.
    No mask of a clip is computed twice.

    Args:
      fill: what stands in for what is removed: the modality's mean, or what its neighbours say (``imputation``).
    """

    def __init__(self, study: Study, part: Part, fill: Literal["mean", "imputed"] = "mean"):
        if study.means is None:
            raise ValueError("nothing stands in for what is removed where no clip has a modality")
        self.study, self.part, self.fill = study, part, fill
        self.target = part.clean.predicted
        self._places: list[dict[bytes, int]] = [{} for _ in part.rows]
        self._masks: list[list[np.ndarray]] = [[] for _ in part.rows]
        self._logits: list[np.ndarray] = [np.empty((0, len(study.probe.classes)), np.float32) for _ in part.rows]
        self._learning = False

    def towards(self, target: Int[np.ndarray, " R"]) -> Removal:
        """The same of other classes; what the model has said so far is kept."""
        other = copy.copy(self)
        other.target = target
        return other

    def probability(self, row: int) -> KeptValue:
        """Of the class, with the kept players of this clip: [S, n] to [S, 1]."""
        return lambda kept: probabilities(self._ask(row, kept))[:, self.target[row], None]

    def logit(self, row: int) -> KeptValue:
        """Of the class, likewise."""
        return lambda kept: self._ask(row, kept)[:, self.target[row], None].astype(np.float64)

    def answered(self, ask: Callable[[int], T]) -> list[T]:
        """``ask`` of every clip. It is called twice and may look at nothing but its row."""
        rows = range(len(self.part.rows))
        self._learning = True
        for row in rows:
            ask(row)
        self._learning = False
        self._answer()
        return [ask(row) for row in rows]

    def _ask(self, row: int, kept: Bool[np.ndarray, "S n"]) -> Float[np.ndarray, "S K"]:
        places = self._places[row]
        for mask in kept:
            key = mask.tobytes()
            if key not in places:
                places[key] = len(places)
                self._masks[row].append(mask.copy())
        if self._learning:
            # Numbers that no measure stumbles over: neither equal nor all of one sign.
            return np.random.default_rng(len(kept)).normal(size=(len(kept), len(self.study.probe.classes)))
        if len(self._logits[row]) < len(places):
            self._answer()
        return self._logits[row][[places[mask.tobytes()] for mask in kept]]

    def _answer(self) -> None:
        """What was asked since the last time."""
        new = [masks[len(known) :] for masks, known in zip(self._masks, self._logits, strict=True)]
        row = np.repeat(np.arange(len(new)), [len(masks) for masks in new])
        if not len(row):
            return
        kept = np.stack([mask for masks in new for mask in masks])
        study, clips = self.study, self.part.clips
        found = np.concatenate([
            self._said(clips.take(row[places]), kept[places])
            for places in study.probe.parts(len(row))
        ])  # fmt: skip
        self._logits = [np.concatenate([known, found[row == place]]) for place, known in enumerate(self._logits)]

    def _said(self, clips: Clips, kept: Bool[np.ndarray, "B n"]) -> Float[np.ndarray, "B K"]:
        """Logits of as many clips as go into one call, each with a coalition of its own."""
        study, players = self.study, self.study.raw_players
        if self.fill == "mean":
            return study.probe.varied(clips, kept, players, study.means)
        return study.probe.logits(
            imputed(clips, kept, players, study.means, self._deviation, rows=study.probe.batch, seed=study.seed)
        )

    @functools.cached_property
    def _deviation(self) -> dict[str, float]:
        return {m: float(np.mean(one.deviation)) for m, one in self.study.moments.items()}
