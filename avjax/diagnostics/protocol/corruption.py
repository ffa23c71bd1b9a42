"""Clips under corruption at rising severity: what is still right, what answers change, and where saliency goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import robustness
from avjax.diagnostics.contribution import performance
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import RIGHT, STRESSED
from avjax.diagnostics.drift.warps import Warp, sped, turned
from avjax.diagnostics.measured import Condition, Measured, Undefined
from avjax.diagnostics.protocol.answers import changes
from avjax.diagnostics.protocol.companions import companions
from avjax.diagnostics.protocol.contributions import attention_shares, gradient_shares, of_answers
from avjax.diagnostics.protocol.looking import Looking, Moved, of_stressed
from avjax.diagnostics.protocol.saliency import ROLLOUT, STATE
from avjax.diagnostics.protocol.severity_drift import Track, over_all, over_severities, separation
from avjax.diagnostics.protocol.study import Found, Part, Said, Study, joined
from avjax.diagnostics.stress.corruption import SUITE, corrupted, motion, unchanged

# Clips whose attention is rolled out under corruption: a pass costs several of the model's own.
ROLLED = 32


def corruptions(study: Study) -> Found:
    """5.1 to 5.3 with section 3 and the severity axis of section 2 recomputed under each, and shares of modalities; at
    the greatest severity attention, necessity and sufficiency too."""
    part, found = study.part(study.tier.stressed), Found()
    names = study.tier.corruptions or tuple(SUITE)
    looking = None
    if study.tier.drift:
        try:
            looking = of_stressed(study)
        except Undefined as undefined:
            found.lines.append(skipped("drift/cmsd", undefined.reason, estimator=STATE, n=len(part.rows)))
    if looking is not None:
        found.lines += gradient_shares(looking, looking.clean, None, STRESSED)
    if study.tier.drift:
        found.lines += attention_shares(study, part.clips, None, STRESSED)
    if len(study.modalities) > 1:
        found.lines += of_answers(study, part.clips, part.clean, None, STRESSED)
    under = _Under(study, part, looking, found)
    for name in names:
        try:
            under.one(name)
        except Undefined as undefined:
            fields = {"estimator": "argmax", "condition": Condition(name)}
            found.lines.append(skipped("stress/accuracy", undefined.reason, **fields))
    for group, table in under.tables.items():
        fields = {"estimator": f"{len(table)} corruptions, severities {_words(study.tier.severities)}", "group": group}
        accuracy = float(part.clean.right.mean())
        found.lines += _of_table(np.array(table), accuracy, len(part.rows), fields)
    if looking is not None:
        found.lines += over_all(looking, list(under.tracks.values()))
    if study.tier.drift and study.tier.relevance and looking is not None:
        _rolled_out(study, names, found)
    return found


def _words(severities: tuple[int, ...]) -> str:
    return ", ".join(map(str, severities))


def _of_table(table: np.ndarray, clean: float, n: int, fields: dict[str, str]) -> list[Measured]:
    return [
        number("stress/mean_performance", lambda: robustness.mean_performance(table), n=n, **fields),
        number("stress/relative_performance", lambda: robustness.relative_performance(clean, table), n=n, **fields),
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Under:
    """Some clips under one corruption after another.

    Attributes:
      tables: by what is corrupted, the accuracies of each corruption.
      tracks: drift of each corruption at which all severities have a state.
    """

    study: Study
    part: Part
    looking: Looking | None
    found: Found
    tables: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    tracks: dict[str, Track] = dataclasses.field(default_factory=dict)

    def one(self, name: str) -> None:
        """Raises ``Undefined`` where it cannot be applied."""
        study, clips, clean, found = self.study, self.part.clips, self.part.clean, self.found
        group = _group(study, name)
        accuracies, way, answers = [], [], []
        for severity in study.tier.severities:
            stressed = _stressed(study, clips, name, severity)
            condition = Condition(name, severity, study.seed)
            moved, said = self._look(stressed, condition)
            right, fields = said.right, {"condition": condition, "group": group}
            found.lines.append(
                study.mean("stress/accuracy", right, clips, estimator=_argmax(clips, stressed, name), **fields)
            )
            found.keep(f"{RIGHT}{name} {severity}", right, self.part.rows)
            found.lines += changes(study, clips, clean, said, condition=condition)
            accuracies.append(float(right.mean()))
            answers.append(said)
            if moved is not None:
                way.append(moved)
                found.lines += gradient_shares(self.looking, moved.states, condition, STRESSED)
                if moved.score is not None:
                    found.lines += self.looking.of_harm(moved.score, clean, said, condition)
        found.lines += _retention(study, clips, clean, said, fields)
        if study.tier.drift:
            found.lines += attention_shares(study, stressed, condition, STRESSED)
        if len(study.modalities) > 1:
            found.lines += of_answers(study, stressed, said, condition, STRESSED)
        self.tables.setdefault(group, []).append(accuracies)
        if self.looking is not None and len(way) == len(answers):
            self._over_severities(name, way, answers, condition)

    def _look(self, stressed: Clips, condition: Condition) -> tuple[Moved | None, Said]:
        """Drift of the clips under a condition, if any, and the answers."""
        if self.looking is None:
            return None, self.study.said(stressed)
        warps = _warps(self.looking, condition.corruption, condition.severity)
        moved, said, lines = self.looking.under(stressed, condition, warps)
        self.found.lines += lines
        return moved, said

    def _over_severities(self, name: str, way: list[Moved], answers: list[Said], greatest: Condition) -> None:
        track = Track.of(self.looking, way)
        self.tracks[name] = track
        track.keep(self.found, name, self.part.rows)
        self.found.lines += companions(self.looking, way[-1], greatest)
        self.found.lines += over_severities(self.looking, name, _only(self.study, name), track)
        if track.score is not None:
            self.found.lines.append(separation(self.looking, name, track.score, self.part.clean, answers))


def _group(study: Study, name: str) -> str:
    return joined([m for m in study.modalities if m in SUITE[name].modalities])


def _only(study: Study, name: str) -> str | None:
    """The modality that is corrupted; None of all of them, of which there is no other to turn to."""
    (modality, *more) = SUITE[name].modalities
    return None if more or len(study.modalities) < 2 else modality


def _stressed(study: Study, clips: Clips, name: str, severity: int) -> Clips:
    return clips.replace(corrupted(clips.streams, name, severity, seed=study.seed, index=clips.index))


def _argmax(clips: Clips, stressed: Clips, name: str) -> str:
    """The estimator of an accuracy, with the clips that the corruption left as they were."""
    as_before = unchanged(clips.streams, stressed.streams)
    same = int(np.all([as_before[m] for m in SUITE[name].modalities], axis=0).sum())
    return "argmax" if not same else f"argmax; {same} of {len(clips)} clips came out unchanged"


def _warps(looking: Looking, name: str, severity: int) -> dict[str, Warp] | None:
    """Where a geometric corruption takes the content of each cell; None where content stays, or cells have no place."""
    clips = looking.clips
    moves = motion(name, severity, seed=looking.study.seed, index=clips.index)
    if moves is None:
        return None
    (kind, amount), (modality,) = moves, SUITE[name].modalities
    cells = next(one for one in looking.clean.cells if one.modality == modality)
    stream = clips.streams[modality]
    if kind == "turn":
        return {modality: turned(amount, cells.fine, stream.values.shape[2:4])} if cells.axes == "picture" else None
    valid = np.asarray(stream.valid)
    length = valid.shape[1]
    begin, end = valid.argmax(axis=1) / length, 1 - valid[:, ::-1].argmax(axis=1) / length
    return {modality: sped(amount, begin, end, cells.fine)}


def _rolled_out(study: Study, names: Sequence[str], found: Found) -> None:
    """Drift of attention, under the first corruption of each modality alone."""
    size = min(ROLLED, len(study.clips) if study.tier.stressed is None else study.tier.stressed)
    first: dict[str | None, str] = {}
    for name in names:
        first.setdefault(_only(study, name), name)
    try:
        looking = Looking.by_rollout(study, study.part(size))
        for modality, name in first.items():
            if modality is None or modality not in study.modalities:
                continue
            way = []
            for severity in study.tier.severities:
                states, _ = looking.look(_stressed(study, looking.clips, name, severity))
                way.append(looking.moved(states, _warps(looking, name, severity)))
                found.lines += looking.lines(way[-1], Condition(name, severity, study.seed))
            found.lines += over_severities(looking, name, modality, Track.of(looking, way))
    except Undefined as undefined:
        found.lines.append(skipped("drift/cmsd", undefined.reason, estimator=ROLLOUT, n=size))


def _retention(study: Study, clips: Clips, clean: Said, said: Said, fields: dict) -> list[Measured]:
    """What is left of the accuracy at the condition in ``fields``, the greatest severity."""
    guess, at = performance.commonest_right(clips.label), f"at severity {fields['condition'].severity}"

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
        study.line("stress/retention", plain, clips, estimator=f"accuracy {at}", **fields),
        study.mean("stress/absolute_robustness", kept, clips, estimator=f"accuracy {at}", **fields),
        study.line(
            "stress/chance_adjusted_retention", chance, clips, estimator=f"over the commonest class, {at}", **fields
        ),
    ]
