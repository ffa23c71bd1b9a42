"""FAB's projection onto a plane within the box, against linear programming; and curved boundaries."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from avjax.diagnostics.stress.attacks.fab import FAB, distance, onto_plane
from avjax.diagnostics.stress.attacks.region import BOX, Region


def smallest(x, normal, offset, radius, low, high) -> float:
    """lambda of: least lambda so that normal d = -offset, |d| <= lambda radius, low <= x + d <= high; inf if none."""
    count = len(x)
    cost = np.append(np.zeros(count), 1)
    within = np.concatenate([
        np.column_stack([np.eye(count), -radius]),
        np.column_stack([-np.eye(count), -radius]),
    ])  # fmt: skip
    found = linprog(
        cost, within, np.zeros(2 * count), np.append(normal, 0)[None], [-offset],
        bounds=[*zip(low - x, high - x, strict=True), (0, None)],
    )  # fmt: skip
    return found.x[-1] if found.success else np.inf


@pytest.mark.parametrize("scale", [3.0, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (0.3, 1000.0))])
def test_projection_is_the_linear_programmes(rng, scale):
    """Where the plane is near, where the box cuts off some directions, and where it is out of reach."""
    rows = 6
    clean = {"audio": rng.uniform(-1, 1, (rows, 4)), "video": rng.uniform(0, 1, (rows, 1, 2, 2, 1))}
    clean = {name: jnp.asarray(x, jnp.float32) for name, x in clean.items()}
    radius = {name: jnp.asarray(rng.uniform(0.1, 0.5, rows), jnp.float32) for name in clean}
    region = Region.of(clean, radius, {"audio": jnp.arange(4) < jnp.array([4, 4, 4, 3, 2, 0])[:, None]}, BOX)
    normal = {name: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for name, x in clean.items()}
    normal = {name: jnp.where(region.moves[name], w, 0) for name, w in normal.items()}
    offset = jnp.asarray(scale * rng.normal(size=rows), jnp.float32)
    step, norm = jax.jit(lambda *of: onto_plane(region, *of))(clean, normal, offset)

    def flat(parts, row):
        whole = [np.broadcast_to(parts[name], clean[name].shape)[row] for name in sorted(parts)]
        return np.concatenate([np.ravel(x) for x in whole]).astype(float)

    low, high = (np.repeat(ends, 4) for ends in zip(BOX["audio"], BOX["video"], strict=True))
    for row in range(rows):
        moves = flat(region.moves, row) > 0
        x, w, d, r = (flat(parts, row)[moves] for parts in (clean, normal, step, region.reach))
        expected = smallest(x, w, float(offset[row]), r, low[moves], high[moves])
        assert not flat(step, row)[~moves].any()
        assert ((x + d >= low[moves] - 1e-6) & (x + d <= high[moves] + 1e-6)).all()
        if np.isfinite(expected):
            assert float(norm[row]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert w @ d == pytest.approx(-float(offset[row]), abs=1e-5)
        else:
            # As far as the box goes.
            room = np.where(np.sign(-offset[row] * w) > 0, high[moves] - x, x - low[moves])
            assert np.abs(d) == pytest.approx(room, abs=1e-6)


@pytest.mark.slow
def test_a_curved_boundary(rng):
    """Outside a ball of samples the other class begins: nearest in Linf is (R - ||x||) along the sign of x."""
    size, reach = 9, 1.5
    signs = np.sign(rng.normal(size=(4, size)))
    start = rng.uniform(0.05, 0.3, (4, 1))
    region = Region.of({"audio": jnp.asarray(start * signs, jnp.float32)}, {"audio": 1.0}, {}, BOX)

    def model(values):
        square = (values["audio"] ** 2).sum(axis=1)
        return jnp.stack([reach**2 - square, square - reach**2], axis=1)

    nearest = jax.jit(functools.partial(FAB(steps=40).nearest, model))
    values, norm = nearest(region, jnp.zeros(4, int), jnp.array(0))
    # Along the diagonal ||x||_2 = |x|_inf sqrt(size).
    expected = reach / np.sqrt(size) - start[:, 0]
    assert np.asarray(norm) == pytest.approx(expected, rel=5e-3)
    assert np.asarray(distance(region, values)) == pytest.approx(np.asarray(norm))


@pytest.mark.slow
def test_no_mistake_within_the_box(rng):
    """A constant model has none: the clean values, at no distance."""
    clean = {"audio": jnp.asarray(rng.uniform(-1, 1, (3, 4)), jnp.float32)}
    region = Region.of(clean, {"audio": 0.1}, {}, BOX)

    def model(values):
        return jnp.array([1.0, 0.0]) + 0 * values["audio"][:, :1]

    values, norm = jax.jit(functools.partial(FAB(steps=3).nearest, model))(region, jnp.zeros(3, int), jnp.array(0))
    assert np.array_equal(values["audio"], clean["audio"])
    assert np.isinf(norm).all()
