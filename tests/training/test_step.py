"""The training step: accumulation, remat, precision, averages, randomness, buffers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.data.frontend import Frontend
from avjax.nn.dense import Dense
from avjax.nn.transformer import Size
from avjax.objectives.classification import Classification
from avjax.streams import Mean, Output
from avjax.training.step import TrainState
from tests.models import tiny

ROWS = 8
CLASSES = {"emotion": 4}
SEED = jax.random.key(7)


class Toy(nnx.Module):
    """Mean over time -> batch normalisation -> dropout twice -> linear. Small enough to be followed by hand."""

    def __init__(self, rngs: nnx.Rngs, dropout: float = 0.0):
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.first = nnx.Dropout(dropout, rngs=rngs)
        self.second = nnx.Dropout(dropout, rngs=rngs)
        self.classify = Dense(4, 3, axes=("embed", "classes"), rngs=rngs)

    def __call__(self, batch):
        stream = batch.streams["audio"]
        assert stream.start.dtype == jnp.float32
        x = self.norm(stream.values.mean(axis=1))
        dropped = self.first(jnp.ones_like(x)), self.second(jnp.ones_like(x))
        logits = self.classify(x * dropped[0] * dropped[1]).astype(jnp.float32)
        return Output({"speaker": logits}, {"audio": stream}, {"dropped": dropped})


def toy(rng, rows: int = ROWS):
    return jax.tree.map(jnp.asarray, tiny.batch(rng, (tiny.AUDIO,), rows, {"speaker": 3}))


def weighted(batch, rng):
    """Uneven weights with filler rows."""
    weight = rng.random(len(batch.weight)).astype(np.float32)
    weight[[1, -1]] = 0
    return batch.replace(weight=weight)


def mbt(rng, **changes):
    """An MBT of one layer with dropout, its steps and first state."""
    small = {"size": Size(8, 1, 2), "fusion_layer": 0, "classes": CLASSES, "dropout": 0.3, "stochastic_depth": 0.3}
    model = tiny.config(**(small | changes.pop("model", {}))).build(nnx.Rngs(0))
    made, params, buffers = tiny.steps(model, **changes)
    return made, made.create(tiny.randomise(params, rng), buffers)


def assert_close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, err_msg=jax.tree_util.keystr(path), **tolerance)


@pytest.mark.slow
def test_microbatches_equal_the_batch(rng):
    batch, results = weighted(tiny.batch(rng, rows=ROWS, classes=CLASSES), rng), []
    # One microbatch of four has no sound at all.
    audio = batch.streams["audio"]
    valid = audio.valid & (np.arange(ROWS) % 4 != 2)[:, None]
    batch = batch.replace(streams=dict(batch.streams) | {"audio": audio.replace(valid=valid)})
    still = {"dropout": 0.0, "stochastic_depth": 0.0}
    first = None
    for parts in (1, 2, 4):
        made, state = mbt(np.random.default_rng(0), model=still, accumulate=parts)
        first = state if first is None else first
        results.append(tiny.jit(made.train)(first, batch, SEED))
    for state, metrics in results[1:]:
        assert_close(state.params, results[0][0].params, rtol=1e-4, atol=1e-6)
        assert_close(metrics, results[0][1], rtol=1e-4, atol=1e-6)


def test_batches_that_microbatches_do_not_divide_are_refused(rng):
    made, state = mbt(rng, accumulate=3)
    with pytest.raises(ValueError, match="8 rows cannot be divided into 3 microbatches"):
        made.train(state, tiny.batch(rng, rows=ROWS, classes=CLASSES), SEED)


@pytest.mark.slow
def test_remat_changes_nothing(rng):
    batch, states, again = tiny.batch(rng, rows=ROWS, classes=CLASSES), [], {}
    for remat in ("none", "full", "dots"):
        made, state = mbt(np.random.default_rng(0), remat=remat)
        states.append(tiny.jit(made.train)(state, batch, SEED))
        again[remat] = str(jax.make_jaxpr(made.train)(state, batch, SEED)).count("remat")
    # gelu is always computed again.
    assert again["none"] < min(again["full"], again["dots"])
    for state, metrics in states[1:]:
        assert_close(state.params, states[0][0].params, rtol=1e-4, atol=1e-6)
        assert_close(metrics, states[0][1], rtol=1e-4, atol=1e-6)


def test_a_model_that_cannot_remat_is_told(rng):
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0)), remat="full")
    with pytest.raises(ValueError, match="remat"):
        made.train(made.create(params, buffers), toy(rng), SEED)


@pytest.mark.slow
@pytest.mark.long
def test_remat_keeps_less():
    """What autodiff keeps of six layers for the backward pass; the arithmetic grows by at most a forward pass."""
    held, work = {}, {}
    for remat in ("none", "full", "dots"):
        rng = np.random.default_rng(0)
        made, state = mbt(rng, remat=remat, model={"size": Size(8, 6, 2), "fusion_layer": 2})
        batch = jax.tree.map(jnp.asarray, tiny.batch(rng, rows=64, classes=CLASSES))

        def residuals(params, made=made, state=state, batch=batch):
            # The pullback is a pytree of what it keeps.
            return jax.vjp(lambda p: made._loss(p, state.buffers, (batch,), SEED)[0], params)[1]

        held[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(residuals, state.params)))
        work[remat] = jax.jit(made.train).lower(state, batch, SEED).cost_analysis()["flops"]
    assert held["full"] < 0.5 * held["none"]
    assert held["full"] < held["dots"] < 0.8 * held["none"]
    assert work["none"] < work["dots"] <= work["full"] < 1.6 * work["none"]


@pytest.mark.slow
def test_randomness_follows_from_seed_and_step(rng):
    batch = tiny.batch(rng, rows=ROWS, classes=CLASSES)
    made, state = mbt(rng)
    train = tiny.jit(made.train)
    first, metrics = train(state, batch, SEED)
    again, metrics_again = train(state, batch, SEED)
    assert_close(first, again, rtol=0, atol=0)
    assert_close(metrics, metrics_again, rtol=0, atol=0)
    assert int(first.step) == 1
    later = TrainState(jnp.asarray(5, jnp.int32), state.params, state.buffers, state.optimizer, None)
    losses = [float(m["loss"]) for _, m in (train(later, batch, SEED), train(state, batch, jax.random.key(8)))]
    assert len({float(metrics["loss"]), *losses}) == 3

    # The same model evaluated: no dropout, the same every time, whatever the step.
    evaluate = tiny.jit(made.evaluate)
    (seen, parts), (_, parts_later) = evaluate(state, batch), evaluate(later, batch)
    assert_close(parts, parts_later, rtol=0, atol=0)
    assert float(parts["loss"].value) not in (float(metrics["loss"]), *losses)
    np.testing.assert_allclose(np.asarray(seen["emotion"]).sum(1), 1, rtol=1e-5)
    assert seen.keys() == {f"{h}{m}" for h in CLASSES for m in ("", "/audio", "/video")}


@pytest.mark.slow
def test_every_layer_drops_its_own(rng):
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0), dropout=0.5))
    batch = toy(rng, rows=64)
    output, _ = made._forward(params, buffers, batch, SEED)
    first, second = (np.asarray(x) for x in output.aux["dropped"])
    assert set(np.unique(first)) == set(np.unique(second)) == {0.0, 2.0}
    # Two layers agree by chance, half of the time.
    assert 0.3 < (first == second).mean() < 0.7
    still, _ = made._forward(params, buffers, batch, None)
    assert all((np.asarray(x) == 1).all() for x in still.aux["dropped"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_buffers_change_in_training_alone(precision, rng):
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0)), precision=precision)
    state, train = made.create(params, buffers), tiny.jit(made.train)
    mean, variance = np.zeros(4), np.ones(4)
    for _ in range(2):
        batch = toy(rng)
        x = np.asarray(batch.streams["audio"].values, np.float64).mean(1)
        mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0)
        state, _ = train(state, batch, SEED)
    buffers = state.buffers["norm"]
    assert buffers["mean"].dtype == buffers["var"].dtype == jnp.float32
    tolerance = 1e-5 if precision == "float32" else 3e-3
    np.testing.assert_allclose(buffers["mean"][...], mean, atol=tolerance)
    np.testing.assert_allclose(buffers["var"][...], variance, atol=tolerance)

    seen, _ = tiny.jit(made.evaluate)(state, batch)
    normed = (x - mean) / np.sqrt(variance + 1e-5)
    weights = tiny.plain(state.params)
    normed = normed * weights["norm"]["scale"] + weights["norm"]["bias"]
    logits = normed @ weights["classify"]["kernel"] + weights["classify"]["bias"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(seen["speaker"], expected, atol=1e-4 if precision == "float32" else 0.03)


def test_slow_buffers_do_not_stand_still_in_bfloat16(rng):
    """A change of a thousandth is below bfloat16's resolution."""
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0)), precision="bfloat16")
    buffers["norm"]["var"] = jnp.full(4, 1.001)
    state, _ = tiny.jit(made.train)(made.create(params, buffers), toy(rng), SEED)
    batch = toy(rng)
    before = np.asarray(state.buffers["norm"]["mean"])
    assert (before != before.astype(jnp.bfloat16).astype(np.float32)).any()
    np.testing.assert_array_equal(made._forward(state.params, state.buffers, batch, None)[1]["norm"]["mean"], before)


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights(rng):
    batch, results = tiny.batch(rng, rows=ROWS, classes=CLASSES), {}
    still = {"dropout": 0.0, "stochastic_depth": 0.0}
    for precision in ("float32", "bfloat16"):
        made, state = mbt(
            np.random.default_rng(0), model=still, precision=precision, optimizer=optax.adam(1e-5), average=0.5
        )
        after, metrics = tiny.jit(made.train)(state, batch, SEED)
        results[precision] = float(metrics["loss"])
        floating = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert all(x.dtype == jnp.float32 for x in floating)
        # A step of 1e-5 would be lost in bfloat16.
        step = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), after.params, state.params)
        assert 5e-6 < step["classify"]["heads"]["emotion"]["kernel"] < 2e-5
    assert results["bfloat16"] == pytest.approx(results["float32"], rel=0.02)
    assert results["bfloat16"] != results["float32"]


def test_moving_average(rng):
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0)), average=0.3)
    state, train = made.create(params, buffers), tiny.jit(made.train)
    average = tiny.plain(params)
    for step in range(4):
        state, _ = train(state, toy(rng), SEED)
        decay = min(0.3, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, tiny.plain(state.params))
    assert_close(tiny.plain(state.average), average, rtol=1e-4, atol=1e-6)

    # What is evaluated is the average.
    batch = toy(rng)
    as_weights = TrainState(state.step, state.average, state.buffers, state.optimizer, None)
    evaluate = tiny.jit(made.evaluate)
    assert_close(evaluate(state, batch), evaluate(as_weights, batch), rtol=1e-6)


def test_one_step_by_hand(rng):
    """Softmax regression on normalised means: gradient, its norm, and one step of SGD."""
    made, params, buffers = tiny.steps(Toy(nnx.Rngs(0)), optimizer=optax.sgd(0.2))
    batch = weighted(toy(rng), rng)
    state, metrics = tiny.jit(made.train)(made.create(params, buffers), batch, SEED)
    x = np.asarray(batch.streams["audio"].values, np.float64).mean(1)
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    weights = tiny.plain(params)["classify"]
    logits = x @ weights["kernel"] + weights["bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    share = batch.weight[:, None] / batch.weight.sum()
    np.testing.assert_allclose(metrics["loss"], -(share * batch.target["speaker"] * np.log(p)).sum(), rtol=1e-4)
    slope = share * (p - batch.target["speaker"])
    expected = {"kernel": weights["kernel"] - 0.2 * x.T @ slope, "bias": weights["bias"] - 0.2 * slope.sum(0)}
    assert_close(tiny.plain(state.params)["classify"], expected, rtol=1e-4, atol=1e-5)
    moved = jax.tree.map(lambda a, b: (a - b) / 0.2, tiny.plain(params), tiny.plain(state.params))
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(moved)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)


@pytest.mark.slow
def test_an_objective_is_given_attention_and_a_second_view(rng):
    """What the objective sees in ``aux`` is what the model reports for each view, in training and in evaluation."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Looking(Classification):
        statistics = ("mass",)

        def __call__(self, output, batch):
            seen.append(output.aux)
            loss, parts = super().__call__(output, batch)
            one, two = (aux["attention"]["fusion"]["mass"] for aux in (output.aux, output.aux["second_view"].aux))
            weight = batch.weight.sum()
            return loss + jnp.mean(one * two), {**parts, "apart": Mean(jnp.abs(one - two).max() * weight, weight)}

    @dataclasses.dataclass(frozen=True)
    class Louder(Frontend):
        def __call__(self, batch, key=None):
            return batch.replace(streams={n: s.replace(values=3 * s.values) for n, s in batch.streams.items()})

    second = Louder(audio=None, video=None)
    made, state = mbt(np.random.default_rng(0), objective=Looking(), second_view=second)
    batch = tiny.batch(rng, rows=ROWS, classes=CLASSES)
    _, metrics = tiny.jit(made.train)(state, batch, SEED)
    assert float(metrics["apart"]) > 1e-3
    _, means = tiny.jit(made.evaluate)(state, batch)
    assert float(means["apart"].value) > 1e-3
    assert all(set(aux) == {"attention", "second_view"} for aux in seen)
    one_view, state = mbt(np.random.default_rng(0), objective=Classification())
    assert one_view.statistics == ()
