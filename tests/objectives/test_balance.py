"""OGM-GE's factors and PMR's prototypes: answers known by hand, loops, missing rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives import balance
from tests.objectives.made import finite


@pytest.mark.parametrize(
    ("rho", "alpha", "expected"),
    [(2, 0.1, 0.8026), (2, 0.5, 0.2384), (1.5, 0.1, 0.8511), (1.5, 0.5, 0.3649), (1, 0.5, 1), (0.3, 0.5, 1)],
)
def test_factors_by_hand(rho, alpha, expected):
    found = float(balance.gradient_factor(jnp.asarray(float(rho)), alpha))
    assert found == pytest.approx(expected, abs=5e-5)
    assert found == pytest.approx(1 - np.tanh(alpha * rho) if rho > 1 else 1, rel=1e-6)


def test_ratio_of_summed_probabilities(rng):
    logits = {name: rng.normal(size=(5, 3)) for name in ("audio", "video")}
    label, weight = np.array([0, 2, 1, 1, 0]), np.array([1.0, 1, 0, 2, 1])
    sums = {}
    for name, values in logits.items():
        p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
        sums[name] = sum(weight[i] * p[i, label[i]] for i in range(5))
        values[2] = np.nan
    target = jax.nn.one_hot(label, 3)
    scores = {
        name: balance.true_class_probability(jnp.asarray(x, "float32"), target, jnp.asarray(weight)).total
        for name, x in logits.items()
    }
    rho = balance.discrepancy(scores)
    assert float(rho["video"]) == pytest.approx(sums["video"] / sums["audio"], rel=1e-5)
    assert float(rho["audio"] * rho["video"]) == pytest.approx(1, rel=1e-5)
    alike = balance.discrepancy({"audio": scores["audio"], "video": scores["audio"]})
    assert float(alike["audio"]) == 1
    assert float(balance.gradient_factor(alike["audio"], 0.5)) == 1
    three = balance.discrepancy({name: jnp.asarray(x) for name, x in zip("atv", (3.0, 1.0, 2.0), strict=True)})
    assert float(three["a"]) == 2
    nothing = balance.discrepancy({"audio": jnp.asarray(0.0), "video": jnp.asarray(0.0)})
    assert float(nothing["audio"]) == 1


def test_parts_of_a_concatenation_sum_to_the_whole(rng):
    a, v, bias = rng.normal(size=(4, 2)), rng.normal(size=(4, 3)), rng.normal(size=5)
    kernel = rng.normal(size=(5, 5))
    parts = [
        balance.part_of_concatenation(jnp.asarray(z), jnp.asarray(k), jnp.asarray(bias))
        for z, k in ((a, kernel[:2]), (v, kernel[2:]))
    ]
    np.testing.assert_allclose(sum(parts), np.concatenate([a, v], 1) @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_modulation_scales_and_adds_noise(rng):
    gradient = jnp.asarray(3 * rng.normal(size=(200, 100)), "float32")
    factor = jnp.asarray(0.25)
    np.testing.assert_allclose(balance.modulated(gradient, factor, None), 0.25 * gradient, rtol=1e-6)
    noise = balance.modulated(gradient, factor, jax.random.key(0)) - 0.25 * gradient
    # 20000 draws: the deviation is known to 0.5 %, the mean to 0.02.
    assert float(noise.std()) == pytest.approx(float(gradient.std()), rel=0.025)
    assert float(noise.mean()) == pytest.approx(0, abs=0.11)
    np.testing.assert_array_equal(balance.modulated(jnp.zeros(4), factor, jax.random.key(0)), 0)


def test_a_mixed_target_asks_for_shares(rng):
    logits, weight = rng.normal(size=(2, 3)), np.array([1.0, 3.0])
    target = np.array([[0.25, 0.75, 0], [0, 0, 1]])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = balance.true_class_probability(*(jnp.asarray(x, "float32") for x in (logits, target, weight)))
    expected = (0.25 * p[0, 0] + 0.75 * p[0, 1] + 3 * p[1, 2]) / 4
    assert float(found.value) == pytest.approx(expected, rel=1e-5)


def test_prototypes_are_moving_means(rng):
    old, z = rng.normal(size=(4, 2)), rng.normal(size=(6, 2))
    label, weight = np.array([0, 0, 1, 1, 0, 3]), np.array([1.0, 1, 0, 0, 1, 1])
    expected = old.copy()
    expected[0] = 0.2 * old[0] + 0.8 * z[[0, 1, 4]].mean(0)
    # The first of its class.
    expected[3] = z[5]
    z[2:4] = np.nan
    old, z, weight = (jnp.asarray(x, "float32") for x in (old, z, weight))
    seen = jnp.asarray([True, True, False, False])
    found, now = balance.updated_prototypes(old, seen, z, jax.nn.one_hot(label, 4), weight)
    # No row of class 1 counts, and there is none of class 2.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(now, [True, True, False, True])


def test_prototype_logits_are_distances(rng):
    z, prototypes = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    arrays = (jnp.asarray(x, "float32") for x in (z, prototypes))
    found = balance.prototype_logits(*arrays, jnp.asarray([True, False, True]))
    expected = [[-np.linalg.norm(z[i] - prototypes[k]) for k in (0, 2)] for i in range(4)]
    np.testing.assert_allclose(found[:, ::2], expected, rtol=1e-5)
    assert (jax.nn.softmax(found)[:, 1] == 0).all()
    with jax.debug_nans(True):
        every = jnp.ones(2, bool)
        at_one = jax.grad(lambda z: balance.prototype_logits(z, z, every).sum())(jnp.ones((2, 3)))
    assert finite(at_one)


def test_the_slower_modality_alone_pays(rng):
    label = jnp.asarray([0, 1, 1])
    target = dict.fromkeys(("audio", "video"), jax.nn.one_hot(label, 2))
    sure, unsure = 5 * target["audio"], jnp.asarray(rng.normal(size=(3, 2)), "float32")
    weight = {"audio": jnp.ones(3), "video": jnp.asarray([1.0, 0, 1])}

    def losses(logits, weight=weight):
        return balance.prototype_losses(logits, target, weight)[0]

    found = losses({"audio": sure, "video": unsure})
    assert float(found["audio"].value) == 0
    log = np.asarray(jax.nn.log_softmax(unsure))
    assert float(found["video"].value) == pytest.approx(-(log[0, 0] + log[2, 1]) / 2, rel=1e-5)
    alike = losses({"audio": sure, "video": sure}, {m: jnp.ones(3) for m in weight})
    assert float(alike["audio"].value) == float(alike["video"].value) == 0
    gradient = jax.grad(lambda x: sum(part.value for part in losses(x).values()))({"audio": sure, "video": unsure})
    assert (np.asarray(gradient["audio"]) == 0).all()
    assert (np.asarray(gradient["video"])[1] == 0).all()
    assert np.abs(np.asarray(gradient["video"])[0]).sum() > 0
