"""Group-robust training against float64, what its weights do, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.nn.encoders import Precomputed
from avjax.nn.model import AudioVisualModel
from avjax.nn.pooling import Classifier, mean_pool
from avjax.objectives.classification import Classification
from avjax.objectives.groups import WithGroups, group_losses, updated_weights
from avjax.objectives.terms import WithTerms
from avjax.streams import Output
from tests.models import tiny

KEY = jax.random.key(0)
GROUPS = 3
ENCODER = Precomputed("audio", (2, 5))


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear layer of the mean token; it says nothing of speakers."""

    modalities: tuple = (ENCODER,)
    classes: Mapping = dataclasses.field(default_factory=lambda: {"emotion": 4})

    def build(self, rngs):
        return LinearModel(self, rngs=rngs)


class LinearModel(AudioVisualModel):
    def __init__(self, config, *, rngs):
        super().__init__(config.modalities, 5, rngs=rngs)
        self.classify = Classifier(5, config.classes, rngs=rngs)

    def fuse(self, tokens, keep=None):
        return Output(self.classify(mean_pool(tokens["audio"].values, tokens["audio"].valid)), tokens)


def steps(optimizer=None, **changes):
    config = WithGroups(Linear(), head="speaker", count=GROUPS, **changes)
    objective = WithTerms(None, (("group", 1.0),))
    return tiny.steps(config.build(nnx.Rngs(0)), optimizer or optax.sgd(0.3), objective=objective)


def test_losses_and_weights_against_loops(rng):
    rows, member = rng.normal(size=8) ** 2, rng.random((8, 4)) * (rng.random((8, 4)) < 0.6)
    member[:, 2] = 0
    member[0], member[5] = (1, 1, 0, 1), 0
    expected = np.zeros(4)
    for group in (0, 1, 3):
        for row, share in zip(rows, member[:, group], strict=True):
            expected[group] += row * share / member[:, group].sum()
    rows[5] = np.nan
    found = group_losses(jnp.asarray(rows, jnp.float32), jnp.asarray(member, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    weights = rng.dirichlet(np.ones(4))
    grown = weights * np.exp(0.5 * expected)
    moved = updated_weights(jnp.asarray(weights, jnp.float32), jnp.asarray(expected, jnp.float32), rate=0.5)
    np.testing.assert_allclose(moved, grown / grown.sum(), rtol=1e-5)


def test_known_answer():
    """Losses 0 and log 2 at rate 1 and equal weights: the second group has twice the weight of the first."""
    found = updated_weights(jnp.ones(2) / 2, jnp.log(jnp.array([1.0, 2.0])), rate=1.0)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3], rtol=1e-6)


def test_steps_against_float64(rng):
    """The weights go on from step to step; a group without a clip loses share; evaluation moves nothing."""
    made, params, buffers = steps(rate=0.7)
    state, train = made.create(tiny.randomise(params, rng), buffers), tiny.jit(made.train)
    q = np.full(GROUPS, 1 / GROUPS)

    def losses_of(state, batch):
        # The encoder has nothing to project: the features are as wide as the model.
        layer = tiny.plain(state.params)["model"]["classify"]["heads"]["emotion"]
        logits = batch.streams["audio"].values.mean(1).astype(np.float64) @ layer["kernel"] + layer["bias"]
        rows = -(batch.target["emotion"] * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
        members = [[i for i in range(6) if batch.target["speaker"][i, g] and batch.weight[i]] for g in range(GROUPS)]
        return np.array([rows[own].mean() if own else 0.0 for own in members])

    for number in range(3):
        batch = tiny.batch(rng, (ENCODER,), 6)
        batch.target["speaker"][:] = np.eye(GROUPS)[[0, 1, 1, 0, 1, 2 if number else 0]]
        batch.target["speaker"][2] = 0
        batch.weight[3] = 0
        losses = losses_of(state, batch)
        q = q * np.exp(0.7 * losses)
        q /= q.sum()
        state, metrics = train(state, batch, KEY)
        np.testing.assert_allclose(state.buffers["weights"], q, rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"], (q * losses).sum(), rtol=1e-4)
        np.testing.assert_allclose(metrics["term/worst_group"], losses.max(), rtol=1e-4)
    predictions, means = tiny.jit(made.evaluate)(state, batch)
    np.testing.assert_allclose(means["term/group"].value, (q * losses_of(state, batch)).sum(), rtol=1e-4)
    assert predictions["emotion"].shape == (6, 4)


def test_the_gradient_knows_nothing_of_how_the_weights_came_about(rng):
    rows, member = jnp.asarray(rng.random(6)), jnp.eye(3)[jnp.asarray([0, 1, 2, 0, 1, 2])]

    def loss(rows, rate):
        losses = group_losses(rows, member)
        return updated_weights(jnp.ones(3) / 3, losses, rate=rate) @ losses

    q = updated_weights(jnp.ones(3) / 3, group_losses(rows, member), rate=2.0)
    np.testing.assert_allclose(jax.grad(loss)(rows, 2.0), member @ q / 2, rtol=1e-5)


def test_the_hard_group_ends_with_the_greatest_weight():
    """The labels of one group are drawn anew at every step, so that nothing can be learned of it."""
    # The first steps, in which every group is hard, count as well: it takes many until they are outweighed.
    rng = np.random.default_rng(0)
    made, params, buffers = steps(rate=0.3)
    state, train = made.create(params, buffers), tiny.jit(made.train)
    batch = tiny.batch(rng, (ENCODER,), 12)
    batch.target["speaker"][:] = np.eye(GROUPS)[np.arange(12) % GROUPS]
    for _ in range(200):
        batch.target["emotion"][:] = np.eye(4)[0]
        batch.target["emotion"][::GROUPS] = np.eye(4)[rng.integers(0, 4, 4)]
        state, _ = train(state, batch, KEY)
    weights = np.asarray(state.buffers["weights"])
    assert weights.argmax() == 0
    assert weights.sum() == pytest.approx(1)


def test_rows_of_the_loss_have_its_mean(rng):
    """``of_rows`` is what the classification loss is the mean of."""
    batch = jax.tree.map(jnp.asarray, tiny.batch(rng))
    batch = batch.replace(weight=jnp.asarray([1.0, 0, 2, 1]))
    logits = {name: jnp.asarray(rng.normal(size=(4, 4))) for name in ("emotion", "emotion/audio", "emotion/video")}
    output = Output(logits, batch.streams, fused=True)
    loss = Classification(label_smoothing=0.1)
    expected = (loss.of_rows(output, batch) * batch.weight).sum() / 4
    np.testing.assert_allclose(loss(output, batch)[0], expected, rtol=1e-6)


def test_what_it_refuses(rng):
    with pytest.raises(ValueError, match="count"):
        WithGroups(Linear(), head="background").build(nnx.Rngs(0))
    model = WithGroups(Linear(), head="background", count=2).build(nnx.Rngs(0))
    with pytest.raises(ValueError, match="classes of 'background', and the batch has targets"):
        model(jax.tree.map(jnp.asarray, tiny.batch(rng, (ENCODER,))))
    assert WithGroups(Linear()).build(nnx.Rngs(0)).weights[...].shape == (4,)
