"""Regions: radii by modality and row, the box, positions that must not be touched, SNR."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks.region import BOX, Region, folded, snr_radius


def region(rng, *, radius=(0.1, 0.0)) -> Region:
    clean = {"audio": rng.uniform(-1, 1, (2, 5)), "video": rng.uniform(0, 1, (2, 3, 2, 2, 1))}
    clean = {name: jnp.asarray(x, jnp.float32) for name, x in clean.items()}
    valid = {"audio": jnp.array([[True] * 5, [True] * 2 + [False] * 3])}
    clean["audio"] = jnp.where(valid["audio"], clean["audio"], jnp.nan)
    return Region.of(clean, {"audio": radius[0], "video": jnp.array([radius[1], 0.2])}, valid, BOX)


def same_bits(one, other) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("method", ["project", "into_box"])
def test_what_does_not_move_keeps_its_bits(rng, method):
    """No radius, no validity: the same bits, of whatever is proposed, NaN included."""
    given = region(rng)
    proposed = {name: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for name, x in given.clean.items()}
    found = getattr(given, method)(proposed)
    assert same_bits(found["video"][0], given.clean["video"][0])
    assert same_bits(found["audio"][1, 2:], given.clean["audio"][1, 2:])
    assert (found["audio"][0] != given.clean["audio"][0]).any()


def test_projection_is_the_nearest_within_radius_and_box(rng):
    given = region(rng, radius=(0.1, 0.3))
    proposed = {name: np.asarray(rng.normal(size=x.shape), np.float32) for name, x in given.clean.items()}
    found = given.project(jax.tree.map(jnp.asarray, proposed))
    for name, (low, high) in BOX.items():
        for row, radius in enumerate({"audio": (0.1, 0.1), "video": (0.3, 0.2)}[name]):
            for x, y, z in zip(*(np.ravel(v[name][row]) for v in (given.clean, proposed, found)), strict=True):
                if not np.isnan(x):
                    assert z == pytest.approx(min(max(y, x - radius, low), x + radius, high), abs=1e-7)


def test_a_clean_value_outside_the_box_may_stay(rng):
    clean = {"audio": jnp.array([[1.5, 0.0]])}
    found = Region.of(clean, {"audio": 0.1}, {}, BOX)
    assert same_bits(found.project(clean)["audio"], clean["audio"])
    assert found.project({"audio": jnp.array([[9.0, 9.0]])})["audio"][0].tolist() == pytest.approx([1.5, 0.1])


def test_random_values_follow_from_the_key_of_the_row(rng):
    given, keys = region(rng, radius=(0.1, 0.3)), jax.random.split(jax.random.key(0), 2)
    found = given.random(keys)
    assert (jnp.abs(found["audio"][0] - given.clean["audio"][0]) <= 0.1 + 1e-6).all()
    inside = found["video"][(found["video"] > 0) & (found["video"] < 1)]
    assert len(np.unique(inside)) == inside.size > 0
    turned = jax.tree.map(lambda x: x[::-1], (given.clean, given.radius, given.moves))
    other = Region(*turned, given.box).random(keys[::-1])
    for name in found:
        assert same_bits(found[name], other[name][::-1])
    assert not same_bits(found["audio"], given.random(folded(keys, 1))["audio"])


def test_radius_of_a_ratio():
    """A sine of amplitude A has mean square A^2 / 2; at 20 dB the radius is a tenth of its root. Signs reach it."""
    time = np.arange(1600) / 100
    wave = np.stack([0.5 * np.sin(2 * np.pi * time), np.zeros(1600), np.full(1600, np.nan)]).astype(np.float32)
    over = np.ones(wave.shape, bool)
    over[2] = False
    radius = snr_radius(wave, over, 20.0)
    assert radius == pytest.approx([0.05 / np.sqrt(2), 0, 0], rel=1e-5)
    noise = radius[0] * np.sign(np.random.default_rng(0).normal(size=1600))
    assert 10 * np.log10((wave[0] ** 2).mean() / (noise**2).mean()) == pytest.approx(20, abs=1e-4)


def test_padding_does_not_count_in_the_ratio():
    wave = np.zeros((1, 10), np.float32)
    wave[0, :5] = 0.3
    assert snr_radius(wave, np.arange(10)[None] < 5, 40.0) == pytest.approx([0.003])
