"""Sound and pictures that do not belong together, are not there, or are diluted (5.4, 5.5, 5.7)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.drift.warps import late
from avjax.diagnostics.fills import Fill
from avjax.diagnostics.measured import Condition, Undefined
from avjax.diagnostics.protocol.answers import changes
from avjax.diagnostics.protocol.dilution import dilution, in_one_class
from avjax.diagnostics.protocol.looking import Looking, of_stressed
from avjax.diagnostics.protocol.saliency import STATE
from avjax.diagnostics.protocol.study import Found, Part, Said, Study, joined
from avjax.diagnostics.stress.misalignment import mismatched, out_of_sync, shifted, sync_sensitivity
from avjax.diagnostics.stress.missing import area, frames_missing, missing

PATTERNS = ("block", "random")
FRAME_SHARES = (0.25, 0.5, 0.75)
SOUND = "audio"
SHIFTED = f"{STATE}, against the clean state moved along"


def offsets(study: Study) -> Found:
    """Accuracy over the offset of the sound, with the records' own sound around it and with silence at the edge.

    Drift in the first of these, where records can be read; the silent edge is seen too.
    """
    part, found = study.part(study.tier.stressed), Found()
    clips = part.clips
    if SOUND not in clips.streams or clips.streams[SOUND].values.ndim != 2 or len(study.modalities) < 2:
        reason = "the model does not take a waveform and another modality"
        found.lines.append(skipped("stress/offset_accuracy", reason, estimator="argmax"))
        return found
    both = sorted({*study.tier.offsets, *(-offset for offset in study.tier.offsets), 0.0})
    clean = part.clean.right
    ways = {"zero": lambda milliseconds: shifted(clips, milliseconds)}
    if study.read is not None:
        ways["real"] = lambda milliseconds: out_of_sync(
            clips, milliseconds, lambda seconds: study.read(clips.index, seconds)
        )
    looking = _looking(study, found)
    for fill, move in ways.items():
        right: dict[float, np.ndarray] = {}
        for milliseconds in both:
            moved = move(milliseconds) if milliseconds else clips
            condition = Condition("offset", milliseconds, study.seed)
            if not milliseconds:
                right[milliseconds] = clean
            elif fill == list(ways)[-1]:
                right[milliseconds] = _drifted(study, looking, moved, condition, fill, found).right
            else:
                right[milliseconds] = study.said(moved).right
            lost = int((~moved.streams[SOUND].valid.any(axis=1) & clips.streams[SOUND].valid.any(axis=1)).sum())
            estimator = "argmax" if not lost else f"argmax; {lost} of {len(clips)} clips have no sound left"
            found.lines.append(
                study.mean("stress/offset_accuracy", right[milliseconds], clips, estimator=estimator, fill=fill,
                           condition=condition)
            )  # fmt: skip

        def sensitivity(chosen: np.ndarray, right: Mapping[float, np.ndarray] = right) -> float:
            return sync_sensitivity({offset: float(yes[chosen].mean()) for offset, yes in right.items()})

        found.lines.append(study.line("stress/sync_sensitivity", sensitivity, clips, estimator="accuracy", fill=fill))
    return found


def _looking(study: Study, found: Found) -> Looking | None:
    """What drift under offsets is measured against; None where there is none."""
    try:
        return of_stressed(study) if study.tier.drift else None
    except Undefined as undefined:
        fields = {"estimator": SHIFTED, "condition": Condition("offset", None, study.seed)}
        found.lines.append(skipped("drift/cmsd", undefined.reason, **fields))
        return None


def _drifted(
    study: Study, looking: Looking | None, moved: Clips, condition: Condition, fill: str, found: Found
) -> Said:
    """What the model says of clips whose sound has moved, with the drift of its saliency against the clean state that
    has moved along."""
    if looking is None:
        return study.said(moved)
    stream = looking.clips.streams[SOUND]
    share = condition.severity / 1000 * stream.rate / stream.values.shape[1]
    heard = next(one for one in looking.clean.cells if one.modality == SOUND)
    warps = {SOUND: late(np.full(len(moved), share), heard.fine)}
    _, said, lines = looking.under(moved, condition, warps, estimator=SHIFTED, fill=fill)
    found.lines += lines
    return said


def mixtures(study: Study) -> Found:
    """Clips of which some have another clip's sound, all a share of it, or one class noise."""
    part, found = study.part(study.tier.stressed), Found()
    clips = part.clips
    for modality in study.modalities if len(study.modalities) > 1 else ():
        for same in (True, False):
            name = "of the same class" if same else "of another class"
            for rate in study.tier.rates:
                _add(
                    study, found, clips, "stress/mismatch_accuracy", Condition(f"mismatch {name}", rate, study.seed),
                    lambda rate=rate, same=same, m=modality: mismatched(
                        clips, rate, same_class=same, modality=m, seed=study.seed
                    ),
                    group=modality,
                )  # fmt: skip
    if len(study.modalities) > 1:
        dilution(study, part, found)
        in_one_class(study, part, found)
    return found


def absences(study: Study) -> Found:
    """Under every fill of the tier for rates, over the share of clips that lack a modality: accuracy, and what becomes
    of the answers; accuracy over the share of steps that every clip lacks."""
    part, found = study.part(study.tier.stressed), Found()
    for fill in study.named(study.tier.rate_fills):
        _over_rates(study, part, fill, found)
        _over_steps(study, part, fill, found)
    return found


def _over_rates(study: Study, part: Part, fill: Fill, found: Found) -> None:
    clips = part.clips
    patterns = {joined([m]): (m,) for m in study.modalities}
    if len(study.modalities) > 1:
        patterns[joined(study.modalities)] = study.modalities
    for group, lacking in patterns.items():
        curve = {}
        for rate in (0.0, *study.tier.rates):
            said = _add(
                study, found, clips, "stress/missing_accuracy", Condition("missing", rate, study.seed),
                lambda rate=rate, lacking=lacking: missing(
                    clips, lacking, rate, fill, seed=study.seed, of=dict(study.moments)
                ) if rate else clips,
                group=group, fill=fill,
            )  # fmt: skip
            if said is None:
                continue
            curve[rate] = said.right
            if rate:
                fields = {"group": group, "fill": fill, "condition": Condition("missing", rate, study.seed)}
                found.lines += changes(study, clips, part.clean, said, **fields)

        def under(chosen: np.ndarray, curve: Mapping[float, np.ndarray] = curve) -> float:
            return area(list(curve), np.array([yes[chosen].mean() for yes in curve.values()]))

        if max(curve, default=0.0) == 1:
            found.lines.append(
                study.line("stress/missing_area", under, clips, estimator="accuracy", group=group, fill=fill)
            )


def _over_steps(study: Study, part: Part, fill: Fill, found: Found) -> None:
    clips = part.clips
    # A clip that lacks some steps has the modality: no token stands in for it.
    fill = "drop" if fill == study.absence else fill
    for modality, pattern, share in itertools.product(study.modalities, PATTERNS, FRAME_SHARES):
        _add(
            study, found, clips, "stress/frame_missing_accuracy", Condition(pattern, share, study.seed),
            lambda share=share, pattern=pattern, m=modality: frames_missing(
                clips, m, share, pattern, fill, seed=study.seed, of=study.moments.get(m)
            ),
            group=modality, fill=fill,
        )  # fmt: skip


def _add(
    study: Study, found: Found, clips: Clips, id: str, condition: Condition, make: Callable[[], Clips], **fields: str
) -> Said | None:
    """Accuracy of the clips that ``make`` gives; a line that says why where it gives none."""
    try:
        said = study.said(make())
    except Undefined as undefined:
        found.lines.append(skipped(id, undefined.reason, estimator="argmax", condition=condition, **fields))
        return None
    found.lines.append(study.mean(id, said.right, clips, estimator="argmax", condition=condition, **fields))
    return said
