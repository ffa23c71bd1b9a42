"""What holds for every system of avjax/models; new files are found by themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.models import System, systems
from avjax.nn.statistics import capture_statistics
from avjax.streams import Batch, Output
from avjax.training.checkpoint import Checkpoints
from avjax.training.sharding import MeshShape, Rules, batch_sharding, state_sharding
from avjax.training.step import Steps, TrainState
from tests.models import tiny
from tests.models.systems import NAMES, batch, forward, small, without

each = pytest.mark.parametrize("name", NAMES)


@each
def test_describes_itself(name):
    module = systems()[name]
    assert isinstance(module.SYSTEM, System)
    assert module.__doc__.strip().splitlines()[0].endswith(".")
    for field in ("name", "source", "mechanism", "architecture", "task", "use", "avoid"):
        assert getattr(module.SYSTEM, field), field
    assert module.SYSTEM.mechanism in {"self", "cross", "co", "hierarchical", "correction", "bottleneck", "none"}
    assert dataclasses.is_dataclass(module.Config)


@each
def test_builds_at_paper_size(name):
    module = systems()[name]
    config = module.Config.paper()
    model = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count > 0
    if module.SYSTEM.parameters is not None:
        assert count == module.SYSTEM.parameters
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        assert len(leaf.get_metadata()["axes"]) == leaf.get_value().ndim, f"{path} has no logical axes"


@each
def test_one_forward(name, rng):
    config, _ = small(name)
    output = forward(name)(batch(config, rng, 4))
    assert isinstance(output, Output)
    for head, count in config.classes.items():
        assert output.logits[head].shape == (4, count)
        assert output.logits[head].dtype == jnp.float32
        assert np.isfinite(output.logits[head]).all()
    assert set(output.tokens) == {encoder.modality for encoder in config.modalities}
    # Something of every modality arrives.
    for encoder in config.modalities:
        other = forward(name)(without(batch(config, np.random.default_rng(1), 4), slice(None), encoder.modality))
        whole = forward(name)(batch(config, np.random.default_rng(1), 4))
        assert any(np.abs(other.logits[head] - whole.logits[head]).max() > 1e-6 for head in config.classes)


@each
@hypothesis.settings(max_examples=5, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_what_is_not_valid_never_leaks(name, seed):
    """Values where nothing is valid may be anything; rows know nothing of each other."""
    rng = np.random.default_rng(seed)
    config, _ = small(name)
    made = batch(config, rng, 4)
    for encoder in config.modalities:
        stream = made.streams[encoder.modality]
        valid = rng.random(stream.valid.shape) < 0.6
        valid[0], valid[1] = True, False
        made.streams[encoder.modality] = stream.replace(valid=valid)
    made = without(made, [2], config.modalities[int(rng.integers(len(config.modalities)))].modality)
    noisy = made
    for encoder in config.modalities:
        stream = made.streams[encoder.modality]
        there = stream.valid.reshape(*stream.valid.shape, *[1] * (stream.values.ndim - 2))
        junk = np.where(there, stream.values, rng.choice([np.nan, np.inf, 1e30]))
        noisy = noisy.replace(
            streams={**noisy.streams, encoder.modality: stream.replace(values=junk.astype(np.float32))}
        )
    clean, dirty = forward(name)(made), forward(name)(noisy)
    for head in clean.logits:
        assert np.isfinite(clean.logits[head]).all()
        np.testing.assert_array_equal(clean.logits[head], dirty.logits[head])
    # Another neighbour, the same answer.
    order = [2, 0, 3, 1]
    moved = forward(name)(jax.tree.map(lambda x: x[np.array(order)], made))
    for head in clean.logits:
        np.testing.assert_allclose(moved.logits[head], np.asarray(clean.logits[head])[order], rtol=1e-4, atol=1e-5)


@each
def test_hidden_tokens_are_missing_ones(name, rng):
    """``keep`` in encode that hides all of a modality is that modality missing."""
    config, _ = small(name)
    made = batch(config, rng, 4)
    first = config.modalities[0]
    keep = {first.modality: jnp.zeros((4, first.tokens), bool)}
    hidden, absent = forward(name)(made, keep), forward(name)(without(made, slice(None), first.modality))
    for head in config.classes:
        np.testing.assert_allclose(hidden.logits[head], absent.logits[head], rtol=1e-5, atol=1e-6)


@functools.cache
def program(name: str, devices: int) -> tuple[Steps, TrainState, Callable]:
    """Steps, the state they start from and the compiled training step, one of each for all tests of a system.

    The optimizer takes steps in proportion to gradients that are next to nothing: their signs are rounding.
    """
    steps, params, buffers = tiny.steps(small(name)[1], optimizer=optax.adam(1e-2, eps=1e-3))
    mesh = MeshShape().build(jax.devices()[:devices])
    state = steps.create(params, buffers)
    shardings = nnx.as_pure(state_sharding(mesh, Rules(), state))
    train = tiny.jit(steps.train, out_shardings=(shardings, None))
    place = batch_sharding(mesh, Rules())
    return (
        steps,
        jax.device_put(state, shardings),
        lambda state, made: train(state, jax.device_put(made, place), jax.random.key(0)),
    )


def trained(name: str, made: Batch, devices: int, count: int) -> tuple[Steps, TrainState, list[float]]:
    """Steps, and state and losses after ``count`` of them on the same batch."""
    steps, state, train = program(name, devices)
    losses = []
    for _ in range(count):
        state, metrics = train(state, made)
        losses.append(float(metrics["loss"]))
    return steps, state, losses


@each
@pytest.mark.slow
def test_one_step_on_one_and_on_eight_devices(name, rng):
    """Parameters, batch statistics and loss are the same, whatever the mesh."""
    made = batch(small(name)[0], rng, 8)
    _, one, loss = trained(name, made, 1, 1)
    _, eight, other = trained(name, made, 8, 1)
    np.testing.assert_allclose(loss, other, rtol=1e-4)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))


@each
@pytest.mark.slow
def test_learns_eight_clips_by_heart_and_comes_back_from_disk(name, rng, tmp_path):
    """Every clip has its own class in the end, and what was saved predicts the same."""
    config = small(name)[0]
    made = batch(config, rng, 8)
    head = next(iter(config.classes))
    steps, state, losses = trained(name, made, 1, 150)
    assert np.isfinite(losses).all()
    evaluate = tiny.jit(steps.evaluate)
    probabilities, _ = evaluate(state, made)
    right = np.asarray(probabilities[head]).argmax(1) == made.target[head].argmax(1)
    assert right.all(), f"{right.sum()} of 8, losses {losses[::30]}"

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {})
    checkpoints.close()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    loaded, _ = Checkpoints(tmp_path).load(150, abstract)
    again, _ = evaluate(loaded, made)
    np.testing.assert_array_equal(again[head], probabilities[head])


@each
@pytest.mark.slow
def test_attention_reports_of_itself(name, rng):
    """Statistics of every attention through the kernels can be asked for, or the error says that there is none."""
    config, model = small(name)
    graph, state = nnx.split(model)

    @tiny.jit
    def masses(state, made):
        sites = capture_statistics(nnx.merge(graph, state, copy=True), made, ("mass",))
        return {site: found["mass"] for site, found in sites.items()}

    made = jax.tree.map(jnp.asarray, batch(config, rng, 2))
    if not systems()[name].SYSTEM.kernels:
        with pytest.raises(ValueError, match="no attention was traced"):
            masses(state, made)
        return
    for site, mass in masses(state, made).items():
        assert mass.shape[1] == 2, site
        np.testing.assert_allclose(mass.sum(-1), 1, atol=1e-5, err_msg=site)
