"""Universal perturbations and patches: made on some clips, judged on others."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks.adversary import Adversary
from avjax.diagnostics.stress.attacks.region import BOX
from avjax.diagnostics.stress.attacks.universal import UniversalPatch, universal_patch, universal_perturbation
from tests.diagnostics.stress.attacks.linear import Linear


def halves(linear: Linear):
    rows = np.arange(len(linear.label))
    return [
        ({name: x[part] for name, x in linear.clean.items()}, linear.label[part]) for part in (rows[::2], rows[1::2])
    ]


def test_one_direction_for_all_clips_of_a_class(rng):
    """Of clips of one of two classes every minimal perturbation is -r sign(w): the universal one is that."""
    linear = Linear.draw(rng, rows=60, classes=2)
    own = linear.label == 0
    linear = Linear(linear.weight, linear.bias, {name: x[own] for name, x in linear.clean.items()}, linear.label[own])
    (made_on, label), (judged_on, other) = halves(linear)
    budget = {"audio": 0.03, "video": 0.02}
    found = universal_perturbation(linear.model, made_on, label, budget, {}, steps=10, batch=8)
    for name, w in linear.weight.items():
        assert np.array_equal(found.direction[name], -np.sign(w[0] - w[1]))
    changed = found.applied(judged_on, budget, {})
    for name, (low, high) in BOX.items():
        assert ((changed[name] >= low) & (changed[name] <= high)).all()
        assert np.abs(changed[name] - judged_on[name]).max() <= budget[name] + 1e-6
    right = Adversary(linear.model, ()).logits(changed).argmax(axis=1) == other
    need = linear.distance({name: budget[name] for name in budget})[1::2]
    assert (right == (need > 1))[np.abs(need - 1) > 1e-3].all()


@pytest.mark.slow
def test_a_perturbation_is_held_to_radius_validity_and_modality(rng):
    linear = Linear.draw(rng, rows=6, classes=3)
    clean = {name: x.copy() for name, x in linear.clean.items()}
    valid = {"audio": np.arange(7) < np.array([7, 6, 5, 7, 7, 0])[:, None]}
    clean["audio"][~valid["audio"]] = np.nan
    label = Adversary(linear.model, ()).logits(clean).argmax(axis=1)
    radius = np.array([0.1, 0.2, 0.1, 0.0, 0.3, 0.1], np.float32)
    found = universal_perturbation(linear.model, clean, label, {"audio": radius}, valid, steps=4, batch=3)
    changed = found.applied(clean, {"audio": radius}, valid)
    still = ~valid["audio"] | (radius == 0)[:, None]
    assert changed["audio"][still].tobytes() == clean["audio"][still].tobytes()
    assert (changed["audio"] != clean["audio"])[~still].any()
    assert changed["video"] is clean["video"]
    assert np.isfinite(found.direction["audio"]).all()
    assert np.abs(found.direction["audio"]).max() <= 1


def bright(values):
    """Two classes by a bright pixel anywhere on any frame, and which sign the sound has."""
    brightest = jnp.nan_to_num(values["video"]).max(axis=(1, 2, 3, 4))
    return jnp.stack([20 * (0.9 - brightest), jnp.zeros_like(brightest)], axis=1) + 0 * values["audio"][:, :1]


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, 1])
def test_a_patch_at_any_place(rng, target):
    """A patch learns to be bright on some clips and turns others wherever it is put."""

    def clips(rows):
        frames = rng.uniform(0, 0.6, (rows, 2, 10, 10, 1)).astype(np.float32)
        return {"video": frames, "audio": np.zeros((rows, 3), np.float32)}

    made_on, judged_on = clips(12), clips(9)
    label = np.zeros(12, int)
    found = universal_patch(bright, made_on, label, 0.05, {}, steps=20, batch=6, target=target)
    # 5 % of 100 pixels: a side of sqrt(5), rounded.
    assert found.pattern.shape == (2, 2, 1)
    assert found.pattern.max() == 1
    logits = Adversary(bright, (), batch=9).logits
    assert (logits(judged_on).argmax(axis=1) == 0).all()
    for seed in range(3):
        corners = found.corners(judged_on["video"], np.arange(9), seed)
        assert (logits(found.applied(judged_on, corners, {})).argmax(axis=1) == 1).all()


def test_a_patch_covers_valid_frames_at_one_place(rng):
    patch = UniversalPatch(np.full((2, 3, 1), 0.25, np.float32))
    frames = rng.uniform(0.5, 1, (40, 3, 6, 5, 1)).astype(np.float32)
    valid = {"video": np.arange(3) < np.resize([3, 2], 40)[:, None]}
    frames[~valid["video"]] = np.nan
    corners = patch.corners(frames, np.arange(40), 0)
    assert corners.min(axis=0).tolist() == [0, 0]
    assert corners.max(axis=0).tolist() == [4, 2]
    assert np.array_equal(corners[3:5], patch.corners(frames[3:5], np.array([3, 4]), 0))
    changed = patch.applied({"video": frames}, corners, valid)["video"]
    for row, (y, x) in enumerate(corners):
        for frame in range(3):
            expected = frames[row, frame].copy()
            if valid["video"][row, frame]:
                expected[y : y + 2, x : x + 3] = 0.25
            assert changed[row, frame].tobytes() == expected.tobytes()
