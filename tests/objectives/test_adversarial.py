"""Two-player losses: gradients turned round, closed forms, who is trained by what."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.objectives.adversarial import (
    discriminator_loss,
    frozen,
    generator_loss,
    modality_discrimination,
    reverse_gradient,
)
from tests.objectives.made import finite


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_is_turned_round(dtype, rng):
    x = jnp.asarray(rng.normal(size=(3, 4)), dtype)
    np.testing.assert_array_equal(reverse_gradient(x, 0.5), x)
    plain = jax.grad(lambda x: jnp.sin(x).sum())(x)
    turned = jax.grad(lambda x: jnp.sin(reverse_gradient(x, 0.5)).sum())(x)
    assert turned.dtype == x.dtype
    np.testing.assert_allclose(turned.astype(float), -0.5 * plain.astype(float), rtol=1e-6)
    # A scale that follows a schedule is an array.
    scheduled = jax.jit(jax.grad(lambda x, s: jnp.sin(reverse_gradient(x, s)).sum()))(x, jnp.asarray(0.5, "float32"))
    np.testing.assert_allclose(scheduled.astype(float), turned.astype(float), rtol=1e-2)
    assert jax.vmap(reverse_gradient)(x).shape == x.shape


def test_one_step_trains_both_sides(rng):
    """The discriminator's loss falls by its own step and rises by the encoder's."""
    w, d = jnp.asarray(rng.normal(size=(2, 3)))
    x = jnp.asarray(rng.normal(size=(8, 3)))

    def loss(w, d, turn):
        z = jnp.tanh(x * w)
        return jax.nn.softplus(-(turn(z) * d).sum(-1)).mean()

    plain = jax.grad(loss, argnums=(0, 1))(w, d, lambda z: z)
    both = jax.grad(loss, argnums=(0, 1))(w, d, reverse_gradient)
    np.testing.assert_allclose(both[0], -plain[0], rtol=1e-5)
    np.testing.assert_allclose(both[1], plain[1], rtol=1e-5)


def test_modality_discrimination_is_its_definition(rng):
    # By the alphabet, whatever the order of the mapping.
    logits = {name: rng.normal(size=(4, 2)) for name in ("video", "audio")}
    weight = {"video": np.array([1.0, 0, 2, 1]), "audio": np.array([1.0, 1, 0, 1])}
    total = count = 0.0
    for k, name in enumerate(("audio", "video")):
        for i in range(4):
            log = logits[name][i] - np.log(np.exp(logits[name][i]).sum())
            total -= weight[name][i] * log[k]
            count += weight[name][i]
        logits[name][weight[name] == 0] = np.nan
    arrays = jax.tree.map(lambda x: jnp.asarray(x, "float32"), (logits, weight))
    value, gradient = jax.value_and_grad(lambda x: modality_discrimination(x, arrays[1]).value)(arrays[0])
    assert float(value) == pytest.approx(total / count, rel=1e-5)
    assert finite(gradient)
    zeros = {name: jnp.zeros((4, 2)) for name in logits}
    assert float(modality_discrimination(zeros, arrays[1]).value) == pytest.approx(np.log(2), rel=1e-6)
    nothing = {name: jnp.zeros(4) for name in logits}
    assert float(modality_discrimination(zeros, nothing).value) == 0


def test_pairs_are_cross_entropies(rng):
    real, made = rng.normal(size=(2, 5)) * 3
    weight = np.array([1, 0.5, 0, 2, 1])
    p, q = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-made))
    tell, fool = np.average(-np.log(p) - np.log(1 - q), weights=weight), np.average(-np.log(q), weights=weight)
    real[2] = made[2] = np.nan
    arrays = [jnp.asarray(x, "float32") for x in (real, made, weight)]
    assert float(discriminator_loss(*arrays).value) == pytest.approx(tell, rel=1e-5)
    assert float(generator_loss(*arrays[1:]).value) == pytest.approx(fool, rel=1e-5)
    # Far from the boundary neither overflows, and the generator's gradient does not vanish.
    far = jnp.array([-1e4, 1e4])
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: generator_loss(x, jnp.ones(2)).value)(far)
        assert finite(discriminator_loss(far, far, jnp.ones(2)).value)
    np.testing.assert_allclose(gradient, [-0.5, 0], atol=1e-6)


def test_a_frozen_module_says_the_same_and_learns_nothing(rng):
    module = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    x = jnp.asarray(rng.normal(size=(4, 3)), "float32")

    def loss(module, x):
        return generator_loss(frozen(module)(x)[:, 0], jnp.ones(4)).value

    by_module, by_x = nnx.grad(loss, argnums=(0, 1))(module, x)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(by_module))
    assert float(jnp.abs(by_x).sum()) > 0
    np.testing.assert_array_equal(frozen(module)(x), module(x))
