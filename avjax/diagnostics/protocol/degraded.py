"""Whether an explanation is still true when the input is bad: section 4 recomputed under corruption and attack."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.measured import Condition, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol import randomised
from avjax.diagnostics.protocol.faithfulness import (
    GRADIENT,
    JOINT,
    Effort,
    by_gradient,
    erased,
    erasure,
    form,
    prediction,
    steadiness,
)
from avjax.diagnostics.protocol.pointing import pointed
from avjax.diagnostics.protocol.removal import Removal
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.diagnostics.stress.attacks.clips import adversary_of, attacked
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.diagnostics.stress.attacks.region import snr_radius
from avjax.diagnostics.stress.corruption import SUITE, corrupted

EFFORT = Effort(fractions=tuple(step / 10 for step in range(11)), orders=3, sets=12, disturbances=3)
"""Of every condition: half the points of a curve, and fewer draws."""
DECIBELS, PIXELS = 20.0, 8 / 255
"""Radii of the attack: of sound below the clip's own, of pictures."""


def degraded(study: Study) -> Found:
    """Of gradient x input, under every corruption of the tier at its greatest severity and under PGD.

    Explained is what the model says of the changed clip. The same clips as they are come first, as closely looked at.
    """
    found, reason = Found(), ""
    if not isinstance(study.probe, ModelProbe):
        reason = "a plain function has no gradients here"
    elif study.means is None:
        reason = "no clip has one of the modalities: it has no mean to stand in for what is removed"
    if reason:
        found.lines.append(skipped("faithfulness/gap_change", reason, estimator=GRADIENT, fill="mean"))
        return found
    part = study.part(study.tier.degraded)
    words = f"{GRADIENT}, {JOINT} ranking, {len(study.raw_players)} raw players, {len(EFFORT.fractions)} points"
    named = {"estimator": words, "target": "predicted", "fill": "mean"}
    ladder = randomised.levels(study.probe.state.params)
    random = randomised.random_probe(study, ladder[-1]) if ladder else None
    clean = _one(study, part, None, random, ladder, found)
    for condition, clips in _conditions(study, part):
        if isinstance(clips, str):
            found.lines.append(
                skipped("faithfulness/gap_change", clips, condition=condition, n=len(part.rows), **named)
            )
            continue
        changed = Part(part.rows, clips, study.said(clips))
        gap = _one(study, changed, condition, random, ladder, found)
        found.lines.append(
            study.mean("faithfulness/gap_change", gap - clean, clips, condition=condition, **named)
        )  # fmt: skip
    return found


def _conditions(study: Study, part: Part) -> Iterator[tuple[Condition, Clips | str]]:
    """With the changed clips, or why there are none."""
    clips, severity = part.clips, max(study.tier.severities)
    for name in study.tier.corruptions or tuple(SUITE):
        condition = Condition(name, severity, study.seed)
        try:
            streams = corrupted(clips.streams, name, severity, seed=study.seed, index=clips.index)
        except Undefined as undefined:
            yield condition, undefined.reason
        else:
            yield condition, clips.replace(streams)
    if not study.tier.attack_steps:
        return
    radii = {}
    for modality, stream in clips.streams.items():
        if stream.values.ndim == 2:
            radii[modality] = f"{DECIBELS:g} dB", snr_radius(stream.values, stream.valid, DECIBELS)
        elif stream.values.ndim == 5:
            radii[modality] = f"{round(PIXELS * 255)}/255", PIXELS
    attack = PGD(steps=study.tier.attack_steps)
    adversary = adversary_of(
        study.probe.program, clips, (attack,), batch=study.probe.backward_batch(len(clips)), seed=study.seed
    )
    for chosen in [[m] for m in radii] + ([list(radii)] if len(radii) > 1 else []):
        text = ", ".join(f"{m} {radii[m][0]}" for m in chosen)
        yield (
            Condition(f"{attack.name}: {text}", None, study.seed),
            attacked(adversary, clips, {m: radii[m][1] for m in chosen})[1],
        )


def _one(
    study: Study, part: Part, condition: Condition | None, random: ModelProbe | None,
    ladder: list[randomised.Level], found: Found,
) -> np.ndarray:  # fmt: skip
    """Lines of one condition; returns the deletion gap of every clip."""
    one, removal, fields = by_gradient(study, part), Removal(study, part), {"condition": condition}
    one = dataclasses.replace(one, name=f"{GRADIENT}, {len(EFFORT.fractions)} points")
    every = np.ones(len(study.raw_players), bool)
    clips = erased(study, removal, one, EFFORT, every)
    gap = np.array([own.numbers["deletion_gap"] for own in clips])
    found.lines += erasure(study, part, one, JOINT, clips, **fields)
    if condition is None:
        # Of clean clips the other stages say the rest, of more of them.
        return gap
    found.lines += prediction(study, removal, one, EFFORT, **fields)
    found.lines += form(study, part, one, **fields)
    found.lines += steadiness(study, part, EFFORT, **fields)
    found.lines += pointed(study, part, prior=False, **fields)
    maps = randomised.gradient_maps(study.probe, part.clips, part.clean.predicted)
    found.lines += randomised.another_class(study, part, maps, **fields)
    if random is not None:
        after = randomised.gradient_maps(random, part.clips, part.clean.predicted)
        found.lines += randomised.cascade(study, part, GRADIENT, ladder[-1:], maps, [after], **fields)
    return gap
