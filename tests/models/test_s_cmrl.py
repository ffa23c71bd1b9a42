"""S-CMRL's alignment from its definition, and its energy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import s_cmrl
from avjax.nn.spiking import counting, energy
from avjax.objectives.classification import Classification
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import batch, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def lift(path, leaf):
    """Biases of normalisations lifted by one and those of maps by two, or hardly a neuron would fire."""
    path = str(path)
    return leaf + ("bias" in path) * (("norm" in path) + 2 * ("map" in path))


def firing():
    """The small model as it is evaluated, lifted."""
    model = nnx.view(small("s_cmrl")[1], deterministic=True, use_running_average=True, raise_if_not_found=False)
    graph, state = nnx.split(model)
    return graph, jax.tree.map_with_path(lift, state)


def test_alignment_is_its_definition(rng):
    config, _ = small("s_cmrl")
    made = without(batch(config, rng, 6), [4], "video")
    graph, state = firing()
    run = tiny.jit(lambda state, made: nnx.merge(graph, state, copy=True)(made))
    output = run(state, jax.tree.map(jnp.asarray, made))
    a, v = (np.asarray(output.aux["complement"][m], np.float64) for m in ("audio", "video"))
    label, rows, total = made.target["emotion"].argmax(1), [0, 1, 2, 3, 5], 0.0
    for i in rows:
        scores = np.array([a[i] @ v[j] / config.temperature for j in rows])
        log = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        total -= sum(log[k] for k, j in enumerate(rows) if label[i] == label[j])
    assert float(output.aux["losses"]["alignment"].value) == pytest.approx(total / 25, rel=1e-4)
    assert (a[4] == 0).all()
    assert (a[0] > 0).any()
    assert (v[0] > 0).any()


def test_energy_of_a_forward_pass(rng):
    """Of the layers only the first of each stem and the maps multiply; two stems, 2 x 8 projections, maps and MLPs."""
    config, (graph, state) = small("s_cmrl")[0], firing()

    @tiny.jit
    def cost(state, made):
        with counting() as layers:
            nnx.merge(graph, state, copy=True)(made)
        assert len(layers) == 2 * (2 + 8 + 1 + 2)
        assert sum(layer.rate is None for layer in layers) == 4
        return energy(layers, config.modalities[0].shape[0])

    made = jax.tree.map(jnp.asarray, batch(config, rng, 2))
    # Each stem has 32 places of 9 x C x 16 products at each of 3 steps, each map 8 x 16 x 16.
    multiplied = 3 * 4.6 * (32 * 9 * 16 * (1 + 2) + 2 * 8 * 16 * 16)
    assert multiplied < float(cost(state, made)) < 2 * multiplied + 3 * 0.9 * 2 * 8 * 16**2 * 30


def test_each_modality_may_have_a_head(rng):
    """Its loss is added to that of both; a row without the modality does not count in it."""
    config = dataclasses.replace(s_cmrl.Config.tiny(), unimodal_heads=True)
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = jax.tree.map_with_path(lift, tiny.randomise(params, rng, 0.1))
    model = nnx.merge(graph, params, *rest)
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    made = jax.tree.map(jnp.asarray, without(batch(config, rng, 4), [1], "audio"))
    output = model(made)
    for m in ("audio", "video"):
        head = model.classify_alone[m].heads["emotion"]
        places = np.asarray(output.tokens[m].values, float).reshape(4, 3, -1, 16)
        there = np.asarray(output.tokens[m].valid).reshape(4, 3, -1)
        mean = np.where(there[..., None], places, 0).sum((1, 2)) / np.maximum(there.sum((1, 2)), 1)[:, None]
        expected = mean @ np.asarray(head.kernel[...], float) + np.asarray(head.bias[...], float)
        np.testing.assert_allclose(output.logits[f"emotion/{m}"], expected, rtol=1e-4, atol=1e-4)
    loss, parts = Classification()(output, made)
    assert float(parts["loss/emotion/audio"].weight) == 3
    assert float(loss) > float(parts["loss/emotion"].value)
