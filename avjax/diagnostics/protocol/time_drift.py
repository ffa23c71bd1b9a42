"""Where saliency goes within a clip: the time axis of drift (2.3 a), version 1.

A window's state is |x df_c/dx| of the features behind the front end in it, of the class that the model predicts for
the whole clip, on 16 cells of sound and 49 of the pictures, as one distribution. The model sees the whole clip: windows
divide what it says, and not what it is given.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import TIME
from avjax.diagnostics.drift import axes, calibrated, grid
from avjax.diagnostics.drift.divergence import Drift, drift
from avjax.diagnostics.drift.windows import Edges, Span, content_change, in_windows, windows
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.saliency import FLOOR_SEEDS, STATE, re_encoded
from avjax.diagnostics.protocol.study import Found, Study

Saliency = Mapping[str, np.ndarray]
"""Modality -> [B, T, ...], as ``ModelProbe.saliency`` gives it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Way:
    """States of a clip's windows.

    Attributes:
      edges: of the windows, in seconds of the clip.
      pi: [V, J], each row a distribution.
      groups: modality of each cell.
      change: of the content from each window to the next, by modality; those that the clip lacks are not there.
    """

    edges: Edges
    pi: Float[np.ndarray, "V J"]
    groups: tuple[str, ...]
    change: Mapping[str, Float[np.ndarray, " V-1"]]

    def masses(self, names: Sequence[str]) -> Float[np.ndarray, "V M"]:
        """Of each modality in each window."""
        return np.stack([self.pi[:, [g == name for g in self.groups]].sum(axis=1) for name in names], axis=1)

    def steps(self, names: Sequence[str]) -> Drift:
        """From each window to the next."""
        return drift(self.pi[:-1], self.pi[1:], self.groups, names)


def spans(clips: Clips, row: int) -> dict[str, Span]:
    """Modality -> seconds that a clip has of it, those of them that it has at all."""
    found = {}
    for modality, stream in clips.streams.items():
        there = np.flatnonzero(stream.valid[row])
        if len(there):
            begin = float(np.asarray(stream.start)[row])
            found[modality] = (begin + there[0] / stream.rate, begin + (there[-1] + 1) / stream.rate)
    return found


def way(clips: Clips, row: int, saliency: Saliency, names: Sequence[str]) -> Way:
    """A clip's windows, over the time that all its modalities have.

    Undefined where there is none, or where a window has no saliency.

    Args:
      saliency: of these clips; the steps of a modality fill its stream's whole length evenly.
    """
    own = spans(clips, row)
    if not own:
        raise Undefined("it has no modality")
    edges = windows((max(begin for begin, _ in own.values()), min(end for _, end in own.values())))
    parts, groups, change = [], [], {}
    for name in names:
        stream = clips.streams[name]
        begin = float(np.asarray(stream.start)[row])
        parts.append(in_windows(saliency[name][row], (begin, begin + stream.values.shape[1] / stream.rate), edges))
        groups += [name] * parts[-1].shape[1]
        if name in own:
            there = np.flatnonzero(stream.valid[row])
            change[name] = content_change(stream.values[row, there[0] : there[-1] + 1], own[name], edges)
    return Way(edges, grid.state(parts), tuple(groups), change)


@dataclasses.dataclass(frozen=True, eq=False)
class _Moved:
    """What one clip's way comes to."""

    way: Way
    steps: Drift
    floor: float
    shuffled: float


def over_time(study: Study) -> Found:
    """Drift from window to window of each clip, between that of a re-encoding and that of windows in any order."""
    part, probe, found = study.part(study.tier.timed), study.probe, Found()
    if not isinstance(probe, ModelProbe):
        found.lines.append(skipped("drift/cmsd_time", "a plain function has no gradients here", estimator=STATE))
        return found
    moved: dict[int, _Moved] = {}
    lost: collections.Counter[str] = collections.Counter()
    for rows in probe.parts(len(part.rows)):
        clips, target = part.clips.take(rows), part.clean.predicted[rows]
        saliency = probe.saliency(clips, target)[0]
        encoded = [probe.saliency(re_encoded(clips, seed=study.seed + seed), target)[0] for seed in range(FLOOR_SEEDS)]
        for place, row in enumerate(rows):
            try:
                moved[int(row)] = _moved(clips, place, saliency, encoded, study.modalities)
            except Undefined as undefined:
                lost[undefined.reason] += 1
    if not moved:
        reason = f"of {len(part.rows)} clips none has a way: {lost.most_common(1)[0][0]}"
        found.lines.append(skipped("drift/cmsd_time", reason, n=len(part.rows), estimator=STATE))
        return found
    rows = np.array(list(moved))
    found.lines += _lines(study, part.clips.take(rows), list(moved.values()), _words(list(moved.values()), lost))
    for name, values in _of_clips(list(moved.values())).items():
        found.keep(f"{TIME}{name}", values, part.rows[rows])
    return found


def _moved(clips: Clips, row: int, saliency: Saliency, encoded: Sequence[Saliency], names: Sequence[str]) -> _Moved:
    own = way(clips, row, saliency, names)
    again = np.stack([way(clips, row, one, names).pi for one in encoded])
    floor = calibrated.drift_floor(own.pi, again, own.groups, names).mean()
    return _Moved(own, own.steps(names), float(floor), axes.shuffled_rate(own.pi, own.groups, names))


def _words(moved: Sequence[_Moved], lost: Mapping[str, int]) -> str:
    """The estimator, with the clips that have no number and why."""
    lengths = [float(np.diff(one.way.edges[0])[0]) for one in moved]
    least, most = f"{min(lengths):.2g}", f"{max(lengths):.2g}"
    words = f"{STATE}, windows of {least if least == most else f'{least} to {most}'} s"
    for reason, count in lost.items():
        words += f"; {count} of {len(moved) + sum(lost.values())} clips left out: {reason}"
    return words


def _of_clips(moved: Sequence[_Moved]) -> dict[str, np.ndarray]:
    """Means over each clip's windows."""
    return {
        "rate": np.array([one.steps.total.mean() for one in moved]),
        "floor": np.array([one.floor for one in moved]),
        "shuffled": np.array([one.shuffled for one in moved]),
        "allocation": np.array([one.steps.allocation.mean() for one in moved]),
        "localisation": np.array([one.steps.localisation.mean(axis=0) for one in moved]),
    }


def _lines(study: Study, clips: Clips, moved: Sequence[_Moved], estimator: str) -> list[Measured]:
    names, of, fields = study.modalities, _of_clips(moved), {"estimator": estimator, "target": "predicted"}

    # Of means over clips, as its ends are: cut clip by clip, windows in any order would come to less than 1.
    def score(rows: np.ndarray) -> float:
        rate, floor, shuffled = (float(of[end][rows].mean()) for end in ("rate", "floor", "shuffled"))
        if not shuffled > floor:
            raise Undefined(f"windows of a clip differ by {shuffled:.3g}, re-encodings of one by {floor:.3g}")
        return float(calibrated.calibrated(rate, floor, shuffled))

    lines = [study.line("drift/cmsd_time", score, clips, **fields)]
    raw = {"raw": "rate", "floor": "floor", "ceiling": "shuffled", "allocation": "allocation"}
    lines += [study.mean(f"drift/cmsd_time_{part}", of[name], clips, **fields) for part, name in raw.items()]
    lines += [
        study.mean("drift/cmsd_time_localisation", of["localisation"][:, place], clips, group=name, **fields)
        for place, name in enumerate(names)
    ]
    length = np.array([axes.path_length(one.steps.total) for one in moved])
    lines.append(study.mean("drift/path_length", length, clips, **fields))
    going = np.flatnonzero(length)
    if len(going):
        turns = np.array([axes.wander(moved[k].way.pi, moved[k].way.groups, names) for k in going])
        lines.append(study.mean("drift/wander", turns, clips.take(going), **fields))
    else:
        reason = "the state never moves: there is no way to compare its ends with"
        lines.append(skipped("drift/wander", reason, n=len(moved), **fields))
    rates, change = [one.steps.total for one in moved], changes([one.way for one in moved])

    def following(rows: np.ndarray) -> axes.Following:
        return axes.content_following(
            np.concatenate([rates[row] for row in rows]), np.concatenate([change[row] for row in rows])
        )

    lines += [
        study.line("drift/unprovoked", lambda rows: following(rows).unprovoked, clips, **fields),
        study.line("drift/content_following", lambda rows: following(rows).correlation, clips, **fields),
    ]
    return lines


def changes(ways: Sequence[Way]) -> list[Float[np.ndarray, " _"]]:
    """Change of each clip's content, comparable between modalities: share of all changes of a modality that are less.

    The mean of the modalities that the clip has; 0 where nothing changes.
    """
    names = dict.fromkeys(name for one in ways for name in one.change)
    known = {name: np.sort(np.concatenate([one.change[name] for one in ways if name in one.change])) for name in names}
    return [
        np.mean([np.searchsorted(known[name], own) / len(known[name]) for name, own in one.change.items()], axis=0)
        for one in ways
    ]
