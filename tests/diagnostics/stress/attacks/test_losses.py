"""Losses of attacks, against their formulas in loops."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks.losses import (
    cross_entropy,
    difference_of_logits_ratio,
    likely_target,
    margin,
    targeted_difference_of_logits_ratio,
)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_losses_are_their_formulas(rng, classes):
    z, label = rng.normal(size=(6, classes)), rng.integers(0, classes, 6)
    target = (label + rng.integers(1, classes, 6)) % classes
    given = jnp.asarray(z, jnp.float32), jnp.asarray(label)
    found = [f(*given) for f in (cross_entropy, margin, difference_of_logits_ratio)]
    found.append(targeted_difference_of_logits_ratio(*given, jnp.asarray(target)))
    for row, (y, t) in enumerate(zip(label, target, strict=True)):
        s, others = sorted(z[row], reverse=True), [z[row, j] for j in range(classes) if j != y]
        gap = z[row, y] - max(others)
        below = {2: 1.0, 3: s[0] - s[-1]}.get(classes)
        expected = (
            -np.log(np.exp(z[row, y]) / np.exp(z[row]).sum()),
            gap,
            # Two classes have no third logit: the margin.
            -gap / (s[0] - s[2]) if classes > 2 else -gap,
            -(z[row, y] - z[row, t]) / (below or s[0] - (s[2] + s[3]) / 2),
        )
        assert [float(loss[row]) for loss in found] == pytest.approx(expected, rel=2e-4, abs=1e-5)


def test_the_ratio_is_free_of_shift_and_scale(rng):
    """What cross-entropy is not: a model whose logits are a hundred times larger hides nothing from it."""
    z, label = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32), jnp.arange(5)
    first = difference_of_logits_ratio(z, label)
    assert np.allclose(first, difference_of_logits_ratio(100 * z + 3, label), rtol=1e-4)
    assert (first[np.asarray(z.argmax(1)) == np.arange(5)] <= 0).all()


def test_targets_by_their_logits():
    z, label = jnp.array([[5.0, 1.0, 3.0, 2.0], [0.0, 1.0, 3.0, 2.0]]), jnp.array([0, 0])
    found = [likely_target(z, label, rank).tolist() for rank in range(3)]
    assert found == [[2, 2], [3, 3], [1, 1]]
