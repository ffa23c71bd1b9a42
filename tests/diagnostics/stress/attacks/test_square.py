"""Square: its stripes and windows, and that it needs no gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress.attacks import square
from avjax.diagnostics.stress.attacks.adversary import Adversary
from avjax.diagnostics.stress.attacks.apgd import APGD
from avjax.diagnostics.stress.attacks.frontier import masking_guard
from avjax.diagnostics.stress.attacks.region import BOX, Region
from avjax.diagnostics.stress.attacks.square import Square
from tests.diagnostics.stress.attacks.linear import Linear

KEYS = jax.random.split(jax.random.key(0), 3)


def grey(radius: dict) -> Region:
    clean = {"audio": jnp.zeros((3, 12)), "video": jnp.full((3, 2, 8, 8, 3), 0.5)}
    return Region.of(clean, radius, {}, BOX)


@pytest.mark.slow
def test_stripes_are_constant_along_the_height():
    found = square._stripes(grey({"audio": 0.1, "video": 0.25}), KEYS)
    video = np.asarray(found["video"]) - 0.5
    assert np.array_equal(video, np.broadcast_to(video[:, :, :1], video.shape))
    assert set(np.unique(video)) == {-0.25, 0.25}
    assert len({row.tobytes() for row in video[:, 0, 0]}) == 3
    assert np.allclose(np.abs(found["audio"]), 0.1)
    assert len(np.unique(found["audio"])) == 2


@pytest.mark.parametrize("share", [0.125, *(pytest.param(share, marks=pytest.mark.slow) for share in (1.0, 0.001))])
def test_a_window_has_its_share(share):
    """Of one modality of each row: sides p^(1/3) of time, height, width; p of sound; at least one element."""
    region = grey({"audio": 0.1, "video": 0.25})
    window = jax.jit(lambda keys: square._window(region, region.clean, keys, jnp.array(share)))
    chosen = set()
    for number in range(6):
        keys = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(KEYS)
        found = window(keys)
        for row in range(3):
            inside = np.asarray(found["video"][row]) != 0.5
            samples = np.flatnonzero(found["audio"][row])
            assert inside.any() != (len(samples) > 0)
            chosen.add(bool(inside.any()))
            if inside.any():
                spans = [np.unique(axis) for axis in np.nonzero(inside)[:3]]
                sides = [max(1, round(length * share ** (1 / 3))) for length in (2, 8, 8)]
                assert [len(span) for span in spans] == sides
                assert inside.sum() == 3 * np.prod(sides)
                # One sign for each channel.
                assert all(len(np.unique(np.asarray(found["video"][row])[inside[..., c], c])) == 1 for c in range(3))
            else:
                assert len(samples) == samples[-1] - samples[0] + 1 == max(1, round(12 * share))
    assert chosen == {True, False}


@pytest.mark.slow
def test_windows_go_where_there_is_a_budget():
    region = grey({"audio": jnp.array([0.0, 0.1, 0.1]), "video": jnp.array([0.2, 0.0, 0.2])})
    for number in range(4):
        keys = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(KEYS)
        found = square._window(region, region.clean, keys, jnp.array(0.2))
        assert (np.asarray(found["video"][0]) != 0.5).any()
        assert np.asarray(found["audio"][1]).any()


@pytest.mark.slow
def test_sees_through_a_model_that_hides_its_gradient(rng):
    """Rounding makes the gradient 0: attacks that follow it stay where they begin, and the guard says so."""
    linear = Linear.draw(rng, rows=10, classes=2)

    def rounded(values):
        return linear.model({name: jnp.round(50 * values[name]) / 50 for name in values})

    label = Adversary(rounded, ()).logits(linear.clean).argmax(axis=1)
    budget = linear.budget(4 * linear.distance())
    right = {
        attack.name: Adversary(rounded, (attack,), batch=10)(linear.clean, label, budget, np.arange(10), {}).right
        for attack in (APGD("ce", steps=10), Square(queries=300))
    }
    assert right["Square"].sum() <= 1 < 5 <= right["APGD-CE"].sum()
    alarm = masking_guard(right["APGD-CE"], right["Square"])
    assert not alarm.holds
    assert alarm.excess >= 0.4
    assert "masking" in alarm.meaning
    # Without the rounding there is nothing to hide.
    open_model = [
        Adversary(linear.model, (attack,), batch=10)(linear.clean, linear.label, budget, np.arange(10), {}).right
        for attack in (APGD("ce", steps=10), Square(queries=300))
    ]
    assert masking_guard(*open_model).holds
