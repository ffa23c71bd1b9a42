"""Adversarial budgets of each modality, alone and together (5.6)."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import ATTACK
from avjax.diagnostics.measured import Condition
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Found, Study, joined
from avjax.diagnostics.stress.attacks.adversary import standard_autoattack
from avjax.diagnostics.stress.attacks.clips import adversary_of, attacked
from avjax.diagnostics.stress.attacks.frontier import clean_guard, frontier, radius_guard
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.diagnostics.stress.attacks.region import snr_radius
from avjax.streams import Stream

DECIBELS = (40.0, 30.0, 20.0)
PIXELS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
# Radii of the grid, of each modality: no change, a small one and the largest.
GRID = (0, -1)
# By one clip in so many an attack may miss more at a wider radius than at a narrower: it is no exhaustive search.
SLACK = 0.02


def attacks(study: Study) -> Found:
    """PGD within each modality's radii and on the grid of both; with ``auto`` AutoAttack at the widest."""
    found, probe = Found(), study.probe
    if not isinstance(probe, ModelProbe):
        reason = "a plain function has no gradients here"
        found.lines.append(skipped("stress/adversarial_accuracy", reason, estimator="PGD"))
        return found
    part = study.part(study.tier.attacked)
    clips = part.clips
    radii = {m: r for m in study.modalities if (r := _radii(clips.streams[m])) is not None}
    if not radii:
        reason = "no modality is a waveform or frames: features have no units that an attacker's budget could be in"
        found.lines.append(skipped("stress/adversarial_accuracy", reason, estimator="PGD"))
        return found
    name = f"PGD-{study.tier.attack_steps}"
    adversary = adversary_of(
        probe.program, clips, (PGD(steps=study.tier.attack_steps),), batch=probe.batch, seed=study.seed
    )
    for modality, levels in radii.items():
        for text, radius in levels:
            right = attacked(adversary, clips, {modality: radius})[0].right
            found.lines.append(
                study.mean("stress/adversarial_accuracy", right, clips, estimator=name, target="label", group=modality,
                           condition=Condition(f"{modality} {text}", None, study.seed))
            )  # fmt: skip
    if len(radii) == 2:
        one, other = radii
        chosen = {m: [("0", 0.0), *[levels[place] for place in GRID]] for m, levels in radii.items()}
        surface = frontier(
            lambda budget: attacked(adversary, clips, budget)[0],
            {m: [radius for _, radius in levels] for m, levels in chosen.items()},
        )
        found.arrays |= {
            f"{ATTACK}{name}/{one}": np.array([text for text, _ in chosen[one]]),
            f"{ATTACK}{name}/{other}": np.array([text for text, _ in chosen[other]]),
            f"{ATTACK}{name}/accuracy": surface.accuracy().astype(np.float32),
        }
        for i, (a, _) in enumerate(chosen[one]):
            for j, (b, _) in enumerate(chosen[other]):
                if i and j:
                    fields = {
                        "estimator": name, "target": "label", "group": joined([one, other]),
                        "condition": Condition(f"{one} {a}, {other} {b}", None, study.seed),
                    }  # fmt: skip
                    found.lines += [
                        study.mean("stress/adversarial_accuracy", surface.right[i, j], clips, **fields),
                        study.line(
                            "stress/attack_synergy",
                            lambda chosen_rows, i=i, j=j: float(surface.synergy(chosen_rows)[i, j]), clips, **fields,
                        ),
                    ]  # fmt: skip
        for guard in (clean_guard(surface, part.clean.right), radius_guard(surface, SLACK)):
            if not guard.holds:
                reason = f"the numbers above are not to be believed: not so that {guard.name} ({guard.meaning})"
                found.lines.append(skipped("stress/attack_success", reason, estimator=name))
    if study.tier.auto:
        widest = {m: levels[-1][1] for m, levels in radii.items()}
        strong = adversary_of(probe.program, clips, standard_autoattack(), batch=probe.batch, seed=study.seed)
        right = attacked(strong, clips, widest)[0].right
        text = ", ".join(f"{m} {levels[-1][0]}" for m, levels in radii.items())
        found.lines.append(
            study.mean("stress/adversarial_accuracy", right, clips, estimator="AutoAttack", target="label",
                       group=joined(list(radii)), condition=Condition(text, None, study.seed))
        )  # fmt: skip
    return found


def _radii(stream: Stream) -> list[tuple[str, np.ndarray | float]] | None:
    """Names of radii and radii, rising; None of features."""
    if stream.values.ndim == 2:
        return [(f"{level:g} dB", snr_radius(stream.values, stream.valid, level)) for level in DECIBELS]
    if stream.values.ndim == 5:
        return [(f"{round(level * 255)}/255", level) for level in PIXELS]
    return None
