"""Noise stays within its budget, and is weaker than what follows the gradient."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.stress.attacks.adversary import Adversary
from avjax.diagnostics.stress.attacks.gradient import fgsm
from avjax.diagnostics.stress.attacks.noise import Noise
from tests.diagnostics.stress.attacks.linear import Linear


def test_noise_is_within_reach_and_weaker_than_fgsm(rng):
    """Of two classes FGSM is exact, so that no noise in the same region breaks a row that it does not."""
    linear = Linear.draw(rng, rows=20, classes=2)
    budget, index = linear.budget(1.05 * linear.distance()), np.arange(20)
    noise = Adversary(linear.model, (Noise(3),), batch=20)(linear.clean, linear.label, budget, index, {})
    follows = Adversary(linear.model, (fgsm(),), batch=20)(linear.clean, linear.label, budget, index, {})
    assert not follows.right.any()
    assert noise.right.mean() > 0.5
    for name, radius in budget.items():
        away = np.abs(noise.values[name] - linear.clean[name]).reshape(20, -1).max(axis=1)
        assert (away <= radius + 1e-6).all()
        assert (away > 0).any()
    assert (Noise().name, Noise(3).name) == ("noise", "noise, 3 draws")
