"""Adversarial budgets of each modality, alone and together (5.6), and whether the attacks are what they are called."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np

from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import ATTACK
from avjax.diagnostics.measured import Condition, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.contributions import attention_shares, gradient_shares, of_answers
from avjax.diagnostics.protocol.looking import Looking
from avjax.diagnostics.protocol.saliency import STATE
from avjax.diagnostics.protocol.study import Found, Part, Study, joined
from avjax.diagnostics.stress.attacks.adversary import Adversary, Attack, Budget, standard_autoattack
from avjax.diagnostics.stress.attacks.clips import adversary_of, attacked, inputs
from avjax.diagnostics.stress.attacks.frontier import (
    Attempt,
    Frontier,
    Guard,
    Once,
    clean_guard,
    fields_of,
    frontier,
    lines,
    masking_guard,
    matched,
    radius_guard,
    steps_guard,
    unbounded_guard,
)
from avjax.diagnostics.stress.attacks.gradient import PGD, fgsm, mi_fgsm
from avjax.diagnostics.stress.attacks.noise import Noise
from avjax.diagnostics.stress.attacks.region import BOX, snr_radius
from avjax.diagnostics.stress.attacks.square import Square
from avjax.diagnostics.stress.attacks.universal import universal_patch, universal_perturbation
from avjax.streams import Stream

DECIBELS = (40.0, 30.0, 20.0)
PIXELS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
# Radii of the grid, of each modality: no change, the smallest and the largest.
GRID = (0, -1)
# One clip in fifty may fall to less and withstand more: an attack is no exhaustive search.
SLACK = 0.02
# Beside PGD of the tier's steps, by which a model is judged: FGSM, and with ``auto`` PGD of a quarter of them, which
# may do no more; as many draws of noise; Square with some queries for each of its steps; and twice as many steps for
# one perturbation of all clips.
FEWER, DRAWS, QUERIES, UNIVERSAL = 4, 4, 5, 2
FRAMES = "video"

Levels = Mapping[str, list[tuple[str, np.ndarray | float]]]
"""Modality -> names of radii and radii, rising."""


def attacks(study: Study) -> Found:
    """PGD within each modality's radii and on a grid of both; FGSM; one perturbation and one patch for all clips; with
    ``auto`` MI-FGSM and AutoAttack.

    Whatever must hold of attacks is checked, and stands beside their numbers.
    """
    found, probe = Found(), study.probe
    if not isinstance(probe, ModelProbe):
        reason = "a plain function has no gradients here"
        found.lines.append(skipped("stress/adversarial_accuracy", reason, estimator="PGD"))
        return found
    part = study.part(study.tier.attacked)
    streams = {m: part.clips.streams[m] for m in study.modalities if m in BOX}
    levels = {m: radii for m, stream in streams.items() if (radii := _radii(stream)) is not None}
    if not levels:
        reason = "no modality is a waveform or frames: features have no units that an attacker's budget could be in"
        found.lines.append(skipped("stress/adversarial_accuracy", reason, estimator="PGD"))
        return found
    target = _Target(study, part, levels)
    pgd = PGD(steps=study.tier.attack_steps, restarts=study.tier.attack_restarts)
    name, once = f"{pgd.name}, {_times(pgd.restarts, 'start')}", Once(target.by(pgd))
    guards = []
    surface = _grid(target, once, name, found) if len(levels) == 2 else None
    if surface is not None:
        guards += [clean_guard(surface, part.clean.right), radius_guard(surface, SLACK)]
    drawn = {line.condition for line in found.lines}
    for modality, radii in levels.items():
        for text, radius in radii:
            fields = fields_of({modality: text}, attack=name, seed=study.seed)
            # Those of the grid have their lines.
            if fields["condition"] not in drawn:
                right = once({modality: radius}).right
                found.lines.append(study.mean("stress/adversarial_accuracy", right, part.clips, **fields))
    guards += _guards(target, once)
    whole = joined(list(levels))
    for guard in guards:
        found.lines.append(
            number("stress/attack_guard", lambda guard=guard: guard.excess, estimator=f"{name}: {guard.name}",
                   n=len(part.rows), group=whole)
        )  # fmt: skip
    _universal(target, found)
    _drift(target, once, name, found)
    _patched(target, found)
    others = {fgsm().name: target.single}
    if study.tier.auto:
        momentum = mi_fgsm(study.tier.attack_steps)
        others[momentum.name] = target.by(momentum)(_at(levels)).right
        others["AutoAttack"] = target.by(*standard_autoattack())(_at(levels)).right
    for words, right in others.items():
        fields = fields_of(_named(levels), attack=words, seed=study.seed)
        found.lines.append(study.mean("stress/adversarial_accuracy", right, part.clips, **fields))
    return found


def _times(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
    """The clips that are attacked, and the model, of which one adversary takes the programs of another."""

    study: Study
    part: Part
    levels: Levels

    @functools.cached_property
    def adversary(self) -> Adversary:
        probe = self.study.probe
        batch = probe.backward_batch(len(self.part.rows))
        return adversary_of(probe.program, self.part.clips, (), batch=batch, seed=self.study.seed)

    @functools.cached_property
    def single(self) -> np.ndarray:
        """Clips that withstand one gradient at the widest radii."""
        return self.by(fgsm())(_at(self.levels)).right

    def by(self, *which: Attack) -> Attempt:
        """These attacks within a budget."""
        adversary = dataclasses.replace(self.adversary, attacks=which)
        return lambda budget: attacked(adversary, self.part.clips, budget)[0]

    def transferred(self, other: ModelProbe, which: Attack) -> np.ndarray:
        """Clips that withstand what an attack at the widest radii makes of them on another model."""
        # With the function of the own adversary, so that its programs serve.
        model = jax.tree_util.Partial(self.adversary.model.func, other.program)
        _, changed = attacked(
            dataclasses.replace(self.adversary, model=model, attacks=(which,)), self.part.clips, _at(self.levels)
        )
        return self.study.said(changed).right


def _another(study: Study) -> tuple[int, ModelProbe] | None:
    """The latest checkpoint that is another model than the diagnosed one, with its step."""
    own = [np.asarray(leaf) for leaf in jax.tree.leaves(study.probe.state.params)]
    for step, other in study.kept(backwards=True):
        if not all(map(np.array_equal, own, jax.tree.leaves(other.state.params))):
            return step, other
    return None


def _named(levels: Levels, place: int = -1) -> dict[str, str]:
    return {modality: radii[place][0] for modality, radii in levels.items()}


def _at(levels: Levels, place: int = -1) -> dict[str, np.ndarray | float]:
    """Radii: the widest, unless told."""
    return {modality: radii[place][1] for modality, radii in levels.items()}


def _grid(target: _Target, once: Once, name: str, found: Found) -> Frontier:
    """Both modalities at some radii of each, and half of both narrowest against the whole of either."""
    study, part, levels = target.study, target.part, target.levels
    one, other = levels
    chosen = {m: [("0", 0.0), *[radii[place] for place in GRID]] for m, radii in levels.items()}
    names = {m: [text for text, _ in radii] for m, radii in chosen.items()}
    surface = frontier(once, {m: [radius for _, radius in radii] for m, radii in chosen.items()})
    found.arrays |= {
        f"{ATTACK}{name}/{one}": np.array(names[one]),
        f"{ATTACK}{name}/{other}": np.array(names[other]),
        f"{ATTACK}{name}/accuracy": surface.accuracy().astype(np.float32),
    }
    common = {"attack": name, "seed": study.seed}
    found.lines += lines(surface, names, part.clips.source, samples=study.resamples, **common)
    halves = matched(once, _at(levels, 0))
    found.lines.append(
        study.line("stress/spread_advantage", halves.advantage, part.clips, **fields_of(_named(levels, 0), **common))
    )
    return surface


def _guards(target: _Target, once: Once) -> list[Guard]:
    """At the widest radii of all modalities together."""
    study, part, levels = target.study, target.part, target.levels
    widest, steps = _at(levels), study.tier.attack_steps
    right = once(widest).right
    fewer = [target.by(PGD(steps=max(steps // FEWER, 1)))(widest).right] if study.tier.auto else []
    noise = target.by(Noise(DRAWS))(widest).right
    square = target.by(Square(queries=QUERIES * steps))(widest).right
    # As far as from one end of the box to the other.
    everything = once({modality: BOX[modality][1] - BOX[modality][0] for modality in levels}).right
    there = np.any([np.asarray(part.clips.streams[modality].valid).any(axis=1) for modality in levels], axis=0)
    another = _another(study)
    transferred = []
    if another is not None:
        step, other = another
        transferred = [masking_guard(right, target.transferred(other, PGD(steps=steps)), SLACK,
                                     f"values made on the checkpoint of step {step}")]  # fmt: skip
    return [
        *transferred,
        steps_guard([target.single, *fewer, right], SLACK),
        masking_guard(right, noise, SLACK, "noise"),
        masking_guard(right, square, SLACK, f"Square of {QUERIES * steps} queries"),
        unbounded_guard(everything[there], SLACK),
    ]


def _halves(target: _Target) -> tuple[np.ndarray, np.ndarray]:
    """Places of the clips on which something for all is made, and of those on which it is judged."""
    places = np.arange(len(target.part.rows))
    return places[::2], places[1::2]


def _universal(target: _Target, found: Found) -> None:
    """One perturbation for all clips, made on every other clip and judged on the rest."""
    study, part, levels = target.study, target.part, target.levels
    steps = UNIVERSAL * study.tier.attack_steps
    fields = fields_of(_named(levels), attack=f"one perturbation for all clips, {steps} steps", seed=study.seed)
    made, judged = _halves(target)
    if not len(judged):
        found.lines.append(skipped("stress/adversarial_accuracy", "one clip has no other to be judged on", **fields))
        return
    clips, adversary = part.clips.take(judged), target.adversary

    def budget(rows: np.ndarray) -> Budget:
        return {m: radius[rows] if isinstance(radius, np.ndarray) else radius for m, radius in _at(levels).items()}

    values, valid = inputs(part.clips.take(made))
    one = universal_perturbation(
        adversary.model, values, part.clips.label[made], budget(made), valid, steps=steps,
        batch=min(study.probe.batch, len(made)), seed=study.seed,
    )  # fmt: skip
    values, valid = inputs(clips)
    right = adversary.logits(one.applied(values, budget(judged), valid)).argmax(axis=1) == clips.label
    found.lines.append(study.mean("stress/adversarial_accuracy", right, clips, **fields))


def _drift(target: _Target, once: Once, name: str, found: Found) -> None:
    """Whether the attack at the widest radii of all modalities moves saliency, and from one modality to the other; and
    what modalities contribute under it."""
    study, part = target.study, target.part
    condition = fields_of(_named(target.levels), attack=name, seed=study.seed)["condition"]
    under = f", under {name}"
    words = f"{STATE}{under}"
    values = once(_at(target.levels)).values
    clips = part.clips.replace({m: part.clips.streams[m].replace(values=x) for m, x in values.items()})
    try:
        looking = Looking.by_gradients(study, part)
    except Undefined as undefined:
        said = study.said(clips)
        fields = {"estimator": words, "condition": condition, "n": len(part.rows)}
        found.lines.append(skipped("drift/cmsd", undefined.reason, **fields))
    else:
        moved, said, lines = looking.under(clips, condition, estimator=words)
        found.lines += lines
        if moved is not None:
            found.lines += gradient_shares(looking, moved.states, condition, under)
        if moved is not None and moved.score is not None:
            found.lines += looking.of_harm(moved.score, part.clean, said, condition, estimator=words)
    found.lines += attention_shares(study, clips, condition, under)
    if len(study.modalities) > 1:
        found.lines += of_answers(study, clips, said, condition, under)


def _patched(target: _Target, found: Found) -> None:
    """One patch that takes clips for any class but their own, made and judged likewise, at random places."""
    study, part, adversary = target.study, target.part, target.adversary
    made, judged = _halves(target)
    if FRAMES not in target.levels or not len(judged):
        return
    steps, clips = study.tier.attack_steps, part.clips.take(judged)
    for area in study.tier.patches:
        values, valid = inputs(part.clips.take(made))
        patch = universal_patch(
            adversary.model, values, part.clips.label[made], area, valid, modality=FRAMES, steps=steps,
            batch=min(study.probe.batch, len(made)), seed=study.seed,
        )  # fmt: skip
        values, valid = inputs(clips)
        stamped = patch.applied(values, patch.corners(values[FRAMES], clips.index, study.seed), valid)
        right = adversary.logits(stamped).argmax(axis=1) == clips.label
        found.lines.append(
            study.mean(
                "stress/adversarial_accuracy", right, clips, estimator=f"one patch for all clips, {steps} steps",
                target="label", group=FRAMES,
                condition=Condition(f"patch of {100 * area:g} % of the frame", seed=study.seed),
            )
        )  # fmt: skip


def _radii(stream: Stream) -> list[tuple[str, np.ndarray | float]] | None:
    """Names of radii and radii, rising; None of features."""
    if stream.values.ndim == 2:
        return [(f"{level:g} dB", snr_radius(stream.values, stream.valid, level)) for level in DECIBELS]
    if stream.values.ndim == 5:
        return [(f"{round(level * 255)}/255", level) for level in PIXELS]
    return None
