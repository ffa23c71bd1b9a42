"""The stage of attacks on models whose robust accuracy is known, and guards that see a gradient that is hidden."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.drift.divergence import drift
from avjax.diagnostics.probe import reader_of
from avjax.diagnostics.protocol import attack
from avjax.diagnostics.protocol.attack import DECIBELS, PIXELS, attacks
from avjax.diagnostics.protocol.saliency import STATE
from avjax.diagnostics.protocol.study import Found, Study
from avjax.diagnostics.protocol.training_drift import kept_checkpoints
from avjax.diagnostics.stress.attacks.clips import attacked
from avjax.diagnostics.stress.attacks.frontier import Once, unbounded_guard
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.training.checkpoint import CheckpointError
from avjax.training.trained import Trained
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, TIER, clips_of, study_of
from tests.models.planted import MODALITIES

ROWS = 24
ELEMENTS = {"audio": SAMPLES, "video": FRAMES * SIDE * SIDE}
# Root mean square of the sound, from which a radius in decibels follows.
LOUD = 0.5


def evidence(tokens):
    """Sum of everything, so that a radius r moves it by r times the number of elements."""
    return tokens["audio"].values.sum(axis=1) + (tokens["video"].values - 0.5).sum(axis=(1, 2, 3, 4))


def hidden(tokens):
    """The same decision in steps of a hundredth, which have no slope."""
    whole = evidence(tokens)
    return jnp.round(100 * whole) / 100


def linear_clips(rng: np.random.Generator) -> tuple[np.ndarray, object]:
    """Clips at known distances from the decision, half on either side."""
    distance = rng.permutation(np.linspace(0.05, 4, ROWS)) * np.resize([1, 1, -1, -1], ROWS)
    # Signs that cancel, and a shift of the frames: no value is near the ends of its box.
    sound = LOUD * np.resize([1.0, -1.0], (ROWS, SAMPLES))
    frames = np.full((ROWS, FRAMES, SIDE, SIDE, 1), 0.5) + (distance / ELEMENTS["video"])[:, None, None, None, None]
    return distance, clips_of(sound, frames, (distance > 0).astype(int))


def values(found: Found, id: str) -> dict[str, float]:
    return {f"{line.estimator}: {line.condition.corruption}": line.value for line in found.lines if line.id == id}


def guards(found: Found) -> dict[str, float]:
    return {line.estimator.partition(": ")[2]: line.value for line in found.lines if line.id == "stress/attack_guard"}


@pytest.mark.slow
def test_a_linear_model(rng, monkeypatch):
    """acc(eps_a, eps_v) = share with |f| > eps_a N_a + eps_v N_v, of one gradient as of many; one perturbation, or one
    patch, breaks one side alone."""
    distance, clips = linear_clips(rng)
    budgets = []

    def counted(adversary, clips, budget):
        budgets.append(
            (adversary.attacks[0].name, *((m, np.asarray(r).tobytes()) for m, r in sorted(budget.items()) if np.any(r)))
        )
        return attacked(adversary, clips, budget)

    monkeypatch.setattr(attack, "attacked", counted)
    found = attacks(study_of(evidence, clips))
    sound = {f"audio {level:g} dB": LOUD * 10 ** (-level / 20) * ELEMENTS["audio"] for level in DECIBELS}
    sight = {f"video {round(255 * level)}/255": level * ELEMENTS["video"] for level in PIXELS}
    reach = sound | sight
    for a in ("audio 40 dB", "audio 20 dB"):
        for v in ("video 1/255", "video 8/255"):
            reach[f"{a}, {v}"] = sound[a] + sight[v]
    (moved,) = [line for line in found.lines if line.id == "drift/cmsd_allocation"]
    # Every slope is 1: a state is the size of what is there, and the worst is at the corner of both radii.
    mass = []
    for radius in (0.0, 1.0):
        push = -radius * np.sign(distance)[:, None]
        heard = np.abs(clips.streams["audio"].values + push * sound["audio 20 dB"] / ELEMENTS["audio"]).sum(axis=1)
        seen = np.abs(clips.streams["video"].values.reshape(ROWS, -1) + push * PIXELS[-1]).sum(axis=1)
        mass.append(np.stack([heard, seen], axis=1) / (heard + seen)[:, None])
    assert moved.value == pytest.approx(drift(*mass, MODALITIES, MODALITIES).total.mean(), rel=1e-2)
    assert (moved.condition.corruption, moved.estimator) == (
        "audio 20 dB, video 8/255", f"{STATE}, under PGD-4, 1 start",
    )  # fmt: skip
    accuracy = values(found, "stress/adversarial_accuracy")
    for words, far in reach.items():
        # Within rounding of the distance either may be.
        assert np.abs(np.abs(distance) - far).min() > 1e-4
        assert accuracy.pop(f"PGD-4, 1 start: {words}") == pytest.approx((np.abs(distance) > far).mean()), words
    widest = "audio 20 dB, video 8/255"
    assert accuracy.pop(f"FGSM: {widest}") == pytest.approx((np.abs(distance) > reach[widest]).mean())
    judged, far = distance[1::2], reach[widest]
    # White, or black, on 2 by 2 pixels of both frames outweighs any clip.
    broken = {f"one perturbation for all clips, 8 steps: {widest}": np.abs(judged) <= far,
              "one patch for all clips, 4 steps: patch of 5 % of the frame": np.abs(judged) > 0}  # fmt: skip
    assert set(accuracy) == set(broken)
    for name, near in broken.items():
        # It goes one way: the clips on that side fall, if they are near enough.
        fallen = [((judged * side > 0) & near).mean() for side in (1, -1)]
        assert min(fallen) > 0
        assert 1 - accuracy[name] in [pytest.approx(share) for share in fallen], name

    halves = (sound["audio 40 dB"] + sight["video 1/255"]) / 2
    alone = min((np.abs(distance) > sound["audio 40 dB"]).mean(), (np.abs(distance) > sight["video 1/255"]).mean())
    (advantage,) = values(found, "stress/spread_advantage").values()
    assert advantage == pytest.approx(alone - (np.abs(distance) > halves).mean())
    assert len(values(found, "stress/attack_synergy")) == 4

    held = guards(found)
    assert len(held) == 6
    assert all(excess == 0 for excess in held.values()), held
    # Every budget once; nothing is asked of no change but of the grid's first cell.
    assert len(budgets) == len(set(budgets))
    assert sum(name == "PGD-4" for name, *_ in budgets) == 3 + 4 + 4 + 1 + 2


@pytest.mark.slow
def test_a_model_that_hides_its_gradient(rng, monkeypatch):
    """Nothing but the random start is tried, so that an attack without gradients does more: the guards say so.

    The start moves the decision by some 0.3; signs that agree move it by 5.6, further than any clip is from it.
    """
    monkeypatch.setattr(attack, "QUERIES", 100)
    _, clips = linear_clips(rng)
    study = study_of(hidden, clips)
    part = study.part(None)
    levels = {m: attack._radii(clips.streams[m]) for m in ("audio", "video")}
    target = attack._Target(study, part, levels)
    _, _, square, unbounded = attack._guards(target, Once(target.by(PGD(steps=study.tier.attack_steps))))
    assert not square.holds
    assert not unbounded.holds


@pytest.mark.slow
def test_one_modality_has_no_grid(rng, monkeypatch):
    """And what the full tier adds: PGD that starts again, momentum, patches of several sizes, AutoAttack."""
    distance, clips = linear_clips(rng)
    monkeypatch.setattr(attack, "_guards", lambda target, once: [unbounded_guard(np.zeros(1, bool))])
    monkeypatch.setattr(attack, "_universal", lambda *of: None)
    monkeypatch.setattr(attack, "standard_autoattack", lambda: (PGD(steps=3),))
    features = clips.streams["audio"].replace(values=np.zeros((ROWS, SAMPLES, 1), np.float32))
    study = study_of(
        lambda tokens: evidence({**tokens, "audio": tokens["audio"].replace(values=tokens["audio"].values[..., 0])}),
        clips.replace({"audio": features}),
        dataclasses.replace(TIER, attack_steps=2, attack_restarts=2, auto=True, patches=(0.02, 0.05)),
    )  # fmt: skip
    found = attacks(study)
    # Drift is of all modalities, and within each; contributions are of each.
    both = ("drift/", "contribution/")
    assert {line.group for line in found.lines if not line.id.startswith(both)} == {"video"}
    contributed = [line for line in found.lines if line.id.startswith("contribution/")]
    assert {line.group for line in contributed if line.status == "ok"} == {"audio", "video"}
    (attended,) = [line for line in contributed if line.status == "skipped"]
    assert "no attention" in attended.reason
    assert {line.group for line in found.lines if line.id.startswith("drift/")} == {None, "audio", "video"}
    assert not found.arrays
    accuracy, reach = values(found, "stress/adversarial_accuracy"), PIXELS[-1] * ELEMENTS["video"]
    patches = {f"one patch for all clips, 2 steps: patch of {size} % of the frame" for size in (2, 5)}
    each = {f"PGD-2, 2 starts: video {round(255 * level)}/255" for level in PIXELS}
    others = {f"{name}: video 8/255" for name in ("FGSM", "MI-FGSM-2", "AutoAttack")}
    assert set(accuracy) == patches | each | others
    for name in others:
        assert accuracy[name] == pytest.approx((np.abs(distance) > reach).mean()), name


@pytest.mark.slow
def test_what_is_made_on_another_checkpoint(probe, run):
    """The same attack on the same parameters makes the same values; of a run it is the latest that has others."""
    trained = Trained.load(run.path)
    reader = reader_of(trained, "label", "test")
    clips = reader.read(reader.choose(None))
    study = Study(probe, clips, dataclasses.replace(TIER, attack_steps=3), checkpoints=kept_checkpoints(trained))
    target = attack._Target(study, study.part(None), {"video": attack._radii(clips.streams["video"])})
    pgd = PGD(steps=3)
    np.testing.assert_array_equal(target.transferred(probe.with_state(probe.state), pgd),
                                  target.by(pgd)(attack._at(target.levels)).right)  # fmt: skip
    step, other = attack._another(study)
    assert step == 2
    assert not np.allclose(other.logits(clips), probe.logits(clips), atol=1e-6)
    np.testing.assert_allclose(
        other.program(dict(clips.streams)), other.logits(clips), rtol=1e-4, atol=1e-5
    )  # fmt: skip
    (guard,) = [one for one in attack._guards(target, Once(target.by(pgd))) if "checkpoint of step 2" in one.name]
    held = target.by(pgd)(attack._at(target.levels)).right.mean() - target.transferred(other, pgd).mean()
    assert guard.excess == pytest.approx(max(0, held))
    assert attack._another(dataclasses.replace(study, checkpoints={3: study.checkpoints[3]})) is None

    def damaged():
        raise CheckpointError("cut short")

    assert attack._another(dataclasses.replace(study, checkpoints={2: damaged})) is None
