"""APGD against the paper's algorithm in loops, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks.apgd import APGD, checkpoints
from avjax.diagnostics.stress.attacks.region import BOX, Region, folded


def test_checkpoints_are_the_papers():
    """p = 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of 100 steps."""
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(50) == (11, 21, 29, 35, 40, 44, 47, 50)
    assert checkpoints(3) == (1, 2, 3)


def logits_of(inner, outer, x):
    """[K] of one row, and the loss's gradient by hand in ``reference``."""
    return outer @ np.tanh(inner @ x)


def reference(inner, outer, clean, start, y, radius, steps):
    """One row, cross-entropy: the point of the lowest margin that was visited."""
    low, high = np.maximum(clean - radius, -1), np.minimum(clean + radius, 1)

    def look(x):
        z = logits_of(inner, outer, x)
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        slope = p - np.eye(len(z))[y]
        gradient = inner.T @ ((1 - np.tanh(inner @ x) ** 2) * (outer.T @ slope))
        return -np.log(p[y]), gradient, z[y] - np.delete(z, y).max()

    marks = {0: 0, **{w: i + 1 for i, w in enumerate(checkpoints(steps))}}
    x, eta = start, 2 * radius
    loss, gradient, margin = look(x)
    best, best_loss, best_gradient = x, loss, gradient
    visited = [(margin, x)]
    before = x
    rises, last_mark, eta_then, best_then = 0, 0, None, loss
    for k in range(steps):
        z = np.clip(x + eta * np.sign(gradient), low, high)
        alpha = 1 if k == 0 else 0.75
        new = np.clip(x + alpha * (z - x) + (1 - alpha) * (x - before), low, high)
        new_loss, new_gradient, margin = look(new)
        visited.append((margin, new))
        rises += new_loss > loss
        if new_loss > best_loss:
            best, best_loss, best_gradient = new, new_loss, new_gradient
        before, x, loss, gradient = x, new, new_loss, new_gradient
        if k + 1 in marks:
            used = eta
            # Condition 2 needs eta as it was at the checkpoint before; at the first, that of the start.
            same = eta_then is None or eta_then == eta
            if rises < 0.75 * (k + 1 - last_mark) or (same and best_then == best_loss):
                eta, x, loss, gradient = eta / 2, best, best_loss, best_gradient
            eta_then, best_then, last_mark, rises = used, best_loss, k + 1, 0
    return min(visited, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("steps", [14])
def test_follows_the_algorithm(rng, steps):
    """Smooth model, steps small enough to halve now and then; every row has its own step size."""
    inner, outer = rng.normal(size=(6, 5)), 3 * rng.normal(size=(3, 6))
    clean = rng.uniform(-0.6, 0.6, (6, 5)).astype(np.float32)
    radius = rng.uniform(0.2, 0.6, 6).astype(np.float32)
    label = np.array([logits_of(inner, outer, x).argmax() for x in clean])
    region = Region.of({"audio": jnp.asarray(clean)}, {"audio": jnp.asarray(radius)}, {}, BOX)
    keys = jax.random.split(jax.random.key(int(rng.integers(1000))), 6)

    def model(values):
        return jnp.tanh(values["audio"] @ jnp.float32(inner.T)) @ jnp.float32(outer.T)

    attack = jax.jit(lambda region, label, keys: APGD("ce", steps)(model, region, label, keys, jnp.array(0)))
    found = np.asarray(attack(region, jnp.asarray(label), keys)["audio"])
    start = np.asarray(region.random(folded(keys, 0))["audio"], np.float64)
    for row in range(6):
        args = clean[row].astype(float), start[row], label[row], float(radius[row]), steps
        expected = reference(np.float32(inner).astype(float), np.float32(outer).astype(float), *args)
        # The margins: at a corner that two visits share, either may be the lower by rounding.
        margins = [
            z[label[row]] - np.delete(z, label[row]).max()
            for z in (logits_of(inner, outer, x) for x in (found[row].astype(float), expected))
        ]
        assert margins[0] == pytest.approx(margins[1], abs=1e-4)
