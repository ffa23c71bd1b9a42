"""Whether explanations point at what tells the label, where the corpus knows of it (plausibility, section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.faithfulness import localisation
from avjax.diagnostics.faithfulness.localisation import by_chance, harmonic, overlap
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Found, Part, Study

GRADIENT = "gradient x input"
CENTRE = "centre prior"
TOLERANCE = 15 / 224
"""Of the pointing game in pictures, as a share of their height: 15 of 224 pixels."""
HALF = 0.5
"""Of a map's range: what lies above it is what the map shows. Of cIoU: a clip that has it is a success."""
OfClip = Callable[[localisation.PerClip], localisation.PerClip]
OF_OVERLAPS: Mapping[str, tuple[str, OfClip]] = {
    "faithfulness/consensus_iou": ("", lambda overlaps: overlaps),
    "faithfulness/success_rate": (f", cIoU >= {HALF:g}", lambda overlaps: (overlaps >= HALF).astype(np.float64)),
    "faithfulness/success_area": (f", {len(localisation.THRESHOLDS)} thresholds", localisation.success_areas),
}
"""Definition -> what its estimator adds, and its number of each clip from cIoU."""
OF_SCORES: Mapping[str, tuple[str, OfClip]] = {"faithfulness/segment_f1": ("", lambda scores: scores)}
"""The same from F1."""


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Saliency of some clips on one plane, and what it is held against.

    Attributes:
      rows: places of the clips that have both.
      saliency, inside: of them; over time [n, 1, T], or over the picture [n, H, W].
      plane: "in time" or "in space".
      lost: why the other clips are left out, with their number; empty where none is.
    """

    rows: np.ndarray
    saliency: Float[np.ndarray, "n H W"]
    inside: Bool[np.ndarray, "n H W"]
    plane: str
    lost: str


def pointing(study: Study) -> Found:
    """Pointing game, mass and rank accuracy, and overlap with a box or with moments, of gradient x input; beside chance
    and the centre prior."""
    found, part = Found(), study.part(study.tier.pointed)
    found.lines += pointed(study, part)
    return found


def pointed(study: Study, part: Part, *, prior: bool = True, **fields: Any) -> list[Measured]:
    """Lines of every modality, of the class that is predicted for these clips as they are.

    Args:
      prior: whether the centre prior stands beside them.
      fields: of the lines, such as a condition.
    """
    lines, words = [], {"target": "predicted", **fields}
    if not isinstance(study.probe, ModelProbe):
        reason = "a plain function has no gradients here"
        return [skipped("faithfulness/pointing_game", reason, estimator=GRADIENT, n=len(part.rows), **words)]
    saliency = None
    for modality in study.modalities:
        known = sum(modality in one for one in part.clips.truth)
        if not known:
            reason = f"the records of none of {len(part.rows)} clips know where in its {modality} the label is told"
            lines.append(skipped("faithfulness/pointing_game", reason, estimator=GRADIENT, n=len(part.rows),
                                 group=modality, **words))  # fmt: skip
            continue
        saliency = study.probe.saliency(part.clips, part.clean.predicted)[0] if saliency is None else saliency
        maps = held_against(part.clips, modality, saliency[modality])
        if not len(maps.rows):
            lines.append(skipped("faithfulness/pointing_game", maps.lost, estimator=f"{GRADIENT}, {maps.plane}",
                                 n=len(part.rows), group=modality, **words))  # fmt: skip
            continue
        lines += _lines(study, part, modality, maps, prior, words)
    return lines


def held_against(clips: Clips, modality: str, mass: Float[np.ndarray, "B ..."]) -> Maps:
    """Saliency behind the front end, and where the records say that the label is told.

    Over the picture where the records know a box, over time otherwise. What is inside everywhere, or nowhere in the
    part of the clip that the model was given, can be told by no map from another: such clips are left out.
    """
    stream, mass = clips.streams[modality], np.asarray(mass, np.float64)
    rows, shown, inside = [], [], []
    lost = {"the records do not know": 0, "nothing or everything is inside": 0, "no saliency": 0}
    boxed = mass.ndim == 4 and any(modality in one and one[modality].box is not None for one in clips.truth)
    for row, truth in enumerate(clips.truth):
        region = truth.get(modality)
        if region is None or boxed != (region.box is not None):
            lost["the records do not know"] += 1
            continue
        if boxed:
            plane, there = mass[row].sum(axis=0), region.pixels(*mass.shape[2:])
        else:
            plane = mass[row].reshape(len(mass[row]), -1).sum(axis=1)[None]
            steps, length = plane.shape[1], stream.values.shape[1] / stream.rate
            middle = float(stream.start[row]) + (np.arange(steps) + 0.5) / steps * length
            there = region.moments(middle)[None]
        if not there.any() or there.all():
            lost["nothing or everything is inside"] += 1
        elif not plane.any():
            lost["no saliency"] += 1
        else:
            rows.append(row)
            shown.append(plane)
            inside.append(there)
    words = ", ".join(f"{number}: {reason}" for reason, number in lost.items() if number)
    empty = np.zeros((0, 1, 1))
    return Maps(
        np.array(rows, int), np.stack(shown) if rows else empty, np.stack(inside) if rows else empty.astype(bool),
        "in space" if boxed else "in time", f"{len(clips) - len(rows)} of {len(clips)} clips left out ({words})"
        if words else "",
    )  # fmt: skip


def _lines(study: Study, part: Part, modality: str, maps: Maps, prior: bool, words: dict[str, Any]) -> list[Measured]:
    clips, label = part.clips.take(maps.rows), part.clips.label[maps.rows]
    height, width = maps.saliency.shape[1:]
    tolerance = TOLERANCE * height if maps.plane == "in space" else 0.0
    chance = float(maps.inside.mean())
    common = {"group": modality, "null_baseline": chance, **words}
    left = f"; {maps.lost}" if maps.lost else ""
    centre = np.broadcast_to(localisation.centre_prior(height, width), maps.saliency.shape)
    lines = []
    for name, saliency in ((GRADIENT, maps.saliency), (CENTRE, centre))[: 1 + prior]:
        hits = localisation.pointing_game(saliency, maps.inside, tolerance=tolerance)

        def by_class(rows: np.ndarray, hits: np.ndarray = hits) -> float:
            return localisation.mean_over_classes(hits[rows], label[rows])

        estimator = f"{name}, {maps.plane}"
        near = f", tolerance {tolerance:.1f} pixels" if tolerance else ""
        # Nothing of the model is in the prior.
        own = {**common, "target": None} if name == CENTRE else common
        lines += [
            study.line("faithfulness/pointing_game", by_class, clips, estimator=f"{estimator}{near}{left}", **own),
            study.mean("faithfulness/relevance_mass", localisation.relevance_mass(saliency, maps.inside), clips,
                       estimator=f"{estimator}{left}", **own),
            study.mean("faithfulness/relevance_rank", localisation.relevance_rank(saliency, maps.inside), clips,
                       estimator=f"{estimator}{left}", **own),
            study.mean("faithfulness/top_iou", localisation.top_iou_with(saliency, maps.inside), clips,
                       estimator=f"{estimator}{left}",
                       **{**own, "null_baseline": by_chance(maps.inside, maps.inside, overlap)}),
        ]  # fmt: skip
        lines += _above_half(study, clips, dataclasses.replace(maps, saliency=saliency), estimator, own)
    return lines


def _above_half(study: Study, clips: Clips, maps: Maps, estimator: str, own: dict[str, Any]) -> list[Measured]:
    """Of the cells above half of a map's range: overlap with the box, or F1 of steps of time.

    A map that is constant has no range: its clip is left out.

    Args:
      estimator: name of the explanation and plane.
      own: what the lines have in common; their null baseline is that of the same maps, each in random order.
    """
    number = len(maps.rows)
    ranged = np.flatnonzero(np.ptp(maps.saliency.reshape(number, -1), axis=1))
    constant = f"{number - len(ranged)} of {number} maps are constant" if len(ranged) < number else ""
    left = "".join(f"; {words}" for words in (maps.lost, constant) if words)
    in_space = maps.plane == "in space"
    numbers, counted = (OF_OVERLAPS, overlap) if in_space else (OF_SCORES, harmonic)
    estimators = {id: f"{estimator}, above {HALF:g} of the range{words}{left}" for id, (words, _) in numbers.items()}
    if not len(ranged):
        own = {**own, "null_baseline": None}
        reason = f"all of {number} maps are constant and have no range"
        return [skipped(id, reason, estimator=words, n=number, **own) for id, words in estimators.items()]
    shown, inside = localisation.unit_range(maps.saliency[ranged]), maps.inside[ranged]
    if in_space:
        found = localisation.consensus_iou(shown, inside, threshold=HALF)
    else:
        # The one row of the plane: time.
        found = localisation.segment_f1(shown[:, 0] > HALF, inside[:, 0])
    lines = []
    for id, (_, of_clip) in numbers.items():

        def drawn(shared: np.ndarray, marked: int, there: int, of_clip: OfClip = of_clip) -> np.ndarray:
            return of_clip(counted(shared, marked, there))

        chance = by_chance(shown > HALF, inside, drawn)
        lines.append(study.mean(id, of_clip(found), clips.take(ranged), estimator=estimators[id],
                                **{**own, "null_baseline": chance}))  # fmt: skip
    return lines
