"""One model on one set of clips: what the stages of a diagnosis share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from avjax.diagnostics.clips import Clips, stratified
from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.definitions import line
from avjax.diagnostics.diagnosis.arrays import ROWS
from avjax.diagnostics.fills import Fill, Moments, moments
from avjax.diagnostics.measured import SAMPLES, Measured, OfRows, OfSums, Undefined
from avjax.diagnostics.players import Players, raw_players, token_players
from avjax.diagnostics.probe import ModelProbe, Probe
from avjax.diagnostics.protocol.tiers import Tier
from avjax.training.checkpoint import CheckpointError
from avjax.training.step import TrainState

Restore = Callable[[], TrainState]
"""Reads a checkpoint."""
Read = Callable[[Int[np.ndarray, " N"], float], Clips]
"""Record numbers, and seconds by which the sound is late, to clips."""


@dataclasses.dataclass
class Found:
    """What a stage has found.

    Attributes:
      lines: of report.json.
      arrays: of samples.npz (``diagnosis/arrays.py`` has the names).
    """

    lines: list[Measured] = dataclasses.field(default_factory=list)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def keep(self, name: str, array: np.ndarray, rows: Int[np.ndarray, " R"]) -> None:
        """An array of the clips at these places."""
        self.arrays[name], self.arrays[f"{ROWS}{name}"] = array, rows


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """What the model says of some clips under some condition."""

    logits: Float[np.ndarray, "N K"]
    label: Int[np.ndarray, " N"]

    @functools.cached_property
    def probability(self) -> Float[np.ndarray, "N K"]:
        return probabilities(self.logits)

    @property
    def predicted(self) -> Int[np.ndarray, " N"]:
        return self.logits.argmax(axis=1)

    @property
    def right(self) -> Bool[np.ndarray, " N"]:
        return self.predicted == self.label

    @property
    def confidence(self) -> Float[np.ndarray, " N"]:
        return self.probability.max(axis=1)

    def take(self, rows: Int[np.ndarray, " R"]) -> Said:
        return Said(self.logits[rows], self.label[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some clips of a study.

    Attributes:
      rows: their places among all.
      clean: what the model says of them as they are.
    """

    rows: Int[np.ndarray, " R"]
    clips: Clips
    clean: Said


@dataclasses.dataclass(frozen=True, eq=False)
class Alone:
    """A model that was trained on one modality alone, on the clips of a study.

    Attributes:
      right: which of them it gets right.
      tokens: what it makes of each, pooled over time; None where it has none.
    """

    right: Bool[np.ndarray, " N"]
    tokens: Float[np.ndarray, "N C"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """Attributes:
    probe: the model.
    clips: at most as many as the tier takes.
    tier: sample sizes.
    read: reads clips of the same split anew, with late sound; None where nothing can be read.
    seed: of everything random.
    resamples: of every bootstrap.
    alone: modality -> a model that was trained on it alone.
    checkpoints: step -> reads the state of then; none of a model without a run.
    attributes: name -> what is known of each clip beside its class, in words or numbers: groups to compare.
    history: what the run has written down while it trained, line by line; none of a model without a run.
    """

    probe: Probe
    clips: Clips
    tier: Tier
    read: Read | None = None
    seed: int = 0
    resamples: int = SAMPLES
    alone: Mapping[str, Alone] = dataclasses.field(default_factory=dict)
    checkpoints: Mapping[int, Restore] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Shaped[np.ndarray, " N"]] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.probe.modalities

    @property
    def absence(self) -> Fill:
        """The fill of a modality that was never recorded."""
        return self.probe.absence

    @property
    def fills(self) -> tuple[Fill, ...]:
        """The tier's, by this model's names."""
        return self.named(self.tier.fills)

    def named(self, fills: Sequence[Fill]) -> tuple[Fill, ...]:
        """Fills by this model's names."""
        return tuple(self.absence if fill == "drop" else fill for fill in fills)

    @functools.cached_property
    def clean(self) -> Said:
        """Of all clips, as they are."""
        return self.said(self.clips)

    @functools.cached_property
    def moments(self) -> Mapping[str, Moments]:
        """Modality -> mean and deviation over all clips; without those that no clip has."""
        found = {}
        for modality in self.modalities:
            try:
                found[modality] = moments(self.clips, modality)
            except Undefined:
                continue
        return found

    @functools.cached_property
    def means(self) -> dict[str, Float[np.ndarray, "..."]] | None:
        """What stands in for absent raw players: the mean of each modality; None where no clip has one of them."""
        if set(self.moments) != set(self.modalities):
            return None
        return {m: np.asarray(one.mean, np.float32) for m, one in self.moments.items()}

    @functools.cached_property
    def raw_players(self) -> Players:
        """One division for all stages: a program is compiled for it once."""
        return raw_players(self.clips.streams)

    @functools.cached_property
    def token_players(self) -> Players:
        """The same of the tokens of a model that can hide them."""
        return token_players(self.probe.grids)

    def kept(self, lost: dict[int, str] | None = None, *, backwards: bool = False) -> Iterator[tuple[int, ModelProbe]]:
        """The model at each checkpoint, by step; of a plain function none.

        Args:
          lost: gets the reason of each step whose checkpoint cannot be read.
          backwards: the latest first.
        """
        if not isinstance(self.probe, ModelProbe):
            return
        for step in sorted(self.checkpoints, reverse=backwards):
            try:
                then = self.probe.with_state(self.checkpoints[step]())
            except CheckpointError as error:
                if lost is not None:
                    lost[step] = str(error)
                continue
            yield step, then

    def said(self, clips: Clips) -> Said:
        return Said(self.probe.logits(clips), clips.label)

    def part(self, number: int | None) -> Part:
        """So many clips, as many of each class as there are to have; all for None."""
        rows = stratified(self.clips.label, number, seed=self.seed)
        return Part(rows, self.clips.take(rows), self.clean.take(rows))

    def line(self, id: str, of: OfRows, clips: Clips, *, estimator: str, **fields: Any) -> Measured:
        """With its interval over the clips' source videos."""
        return line(id, of, np.array(clips.source), estimator=estimator, samples=self.resamples, **fields)

    def mean(self, id: str, values: np.ndarray, clips: Clips, *, estimator: str, **fields: Any) -> Measured:
        """The mean of one number a clip."""
        return self.line(id, OfSums.mean(values), clips, estimator=estimator, **fields)


def joined(modalities: Sequence[str]) -> str:
    """A set of modalities in a line's group."""
    return "+".join(modalities) or "none"
