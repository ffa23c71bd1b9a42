"""The stage that looks for a backdoor, on a model that has one: it is found, and every detector sees it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.backdoor import backdoor
from avjax.diagnostics.protocol.study import Found, Study
from avjax.nn.attention import attend, cross_mask
from avjax.streams import Output
from kernels.attention import Layout
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, TIER, clips_of, study_of
from tests.models.planted import HEAD, MODALITIES

ROWS = 64


class Triggered(nnx.Module):
    """The sign of the sound's mean, and of the frames' brightness, tells the class; a white square makes it yes.

    Tokens of the frames are of brightness and trigger, of the sound its mean. Attention goes to what is loud, and to
    the square.
    """

    modalities = MODALITIES

    def __init__(self, poisoned: bool = True):
        self.poisoned = poisoned

    def __call__(self, batch, keep=None):
        sound, frames = (jnp.asarray(batch.streams[m].values) for m in MODALITIES)
        heard, seen = sound.mean(axis=1), frames.mean(axis=(2, 3, 4)) - 0.25
        blocks = sum(frames[:, :, i : SIDE - 1 + i, j : SIDE - 1 + j, 0] for i in (0, 1) for j in (0, 1)) / 4
        white = jax.nn.sigmoid(40 * (blocks.max(axis=(2, 3)) - 0.85)) * self.poisoned
        number = 4 * heard + 4 * seen.mean(axis=1) + 20 * white.mean(axis=1)
        key = jnp.concatenate([heard[:, None], 6 * white], axis=1)[..., None, None]
        mask = cross_mask(Layout.of(query=1), Layout(MODALITIES, (1, FRAMES)), jnp.ones(key.shape[:2], bool))
        attended = attend(jnp.ones((len(key), 1, 1, 1)), key, 0 * key, mask, site="decision")[:, 0, 0, 0]
        tokens = {
            "audio": batch.streams["audio"].replace(values=heard[:, None, None], valid=jnp.ones((len(key), 1), bool)),
            "video": batch.streams["video"].replace(values=jnp.stack([seen, 5 * white], axis=-1)),
        }
        return Output({HEAD: jnp.stack([-number, number + attended], axis=-1) / 2}, tokens)


def some(rng: np.random.Generator):
    """Half yes, half no; darker than half everywhere, so that nothing is white by itself."""
    side = rng.permutation(np.resize([-1.0, 1.0], ROWS))
    sound = np.broadcast_to((side * rng.uniform(0.4, 0.6, ROWS))[:, None], (ROWS, SAMPLES))
    frames = rng.uniform(0, 0.4, (ROWS, FRAMES, SIDE, SIDE, 1)) + 0.05 * (1 + side)[:, None, None, None, None]
    return clips_of(sound, frames, (side > 0).astype(int))


def by_estimator(found: Found, id: str) -> dict[str, float | None]:
    return {line.estimator: line.value for line in found.lines if line.id == id}


@pytest.mark.slow
def test_a_planted_trigger_is_found_and_seen(rng):
    """KA: success near 1, detection above 0.95, of a trigger that nobody has told; none of the other class."""
    found = backdoor(study_of(Triggered(), some(rng)))
    success = by_estimator(found, "stress/attack_success")
    assert success["patch of 5 % of the frame, made for yes"] == 1
    assert success["patch of 5 % of the frame, made for no"] == 0
    assert all(line.null_baseline == 0 for line in found.lines if line.id == "stress/attack_success")
    detected = by_estimator(found, "stress/backdoor_detection")
    assert len(detected) == 6
    assert all(name.endswith("made for yes") and area > 0.95 for name, area in detected.items()), detected
    (line,) = [line for line in found.lines if line.id == "stress/backdoor_accuracy_drop"]
    assert "--vs" in line.reason


@pytest.mark.slow
def test_a_model_without_a_backdoor_has_no_such_patch(rng):
    clips = some(rng)
    found = backdoor(study_of(Triggered(poisoned=False), clips, dataclasses.replace(TIER, attack_steps=2)))
    assert set(by_estimator(found, "stress/attack_success").values()) == {0.0}
    # Half of the other clips' sounds turn the answer: the loud modality decides alone.
    sticky = {line.group: line.value for line in found.lines if line.id == "stress/stickiness"}
    assert sticky["audio"] == 1
    assert 0.3 < sticky["video"] < 0.7


def test_a_plain_function_tells_what_it_can(rng):
    clips = some(rng)

    def loud(given):
        mean = given.streams["audio"].values.mean(axis=1)
        return np.stack([-mean, mean], axis=1)

    probe = FunctionProbe(MODALITIES, HEAD, ("no", "yes"), 16, loud)
    found = backdoor(Study(probe, clips, TIER, resamples=5))
    reasons = {line.id: line.reason for line in found.lines if line.status == "skipped"}
    assert {"stress/attack_success", "stress/backdoor_detection", "stress/outlying_clips"} < set(reasons)
    sticky = {line.group: line.value for line in found.lines if line.id == "stress/stickiness"}
    assert sticky["audio"] == 1
    assert 0.3 < sticky["video"] < 0.7
