"""Gradient rules against their formulas, alone and inside a step."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.streams import Batch, Output, Stream
from avjax.training.optimizer import path_names
from avjax.training.rules import GradientModulation, RandomModalityUpdate
from tests.models import tiny

GRADIENTS = {
    "encoders": {
        "audio": {"kernel": np.full((3, 4), 2.0), "bias": np.full(4, 2.0)},
        "video": {"kernel": np.full((3, 4), 4.0)},
    },
    "fusion": [{"blocks": {"audio": {"kernel": np.full((2, 2), 8.0)}}, "shared": {"kernel": np.full((2, 2), 16.0)}}],
}
GRADIENTS = jax.tree.map(jnp.asarray, GRADIENTS)
KEY = jax.random.key(3)


def test_modulation_is_the_formula():
    """s = 0.8 and 0.4: rho of the leading modality is 2, of the other 0.5."""
    rule = GradientModulation(alpha=0.3, enhancement=False)
    signals = {"confidence/audio": jnp.float32(0.8), "confidence/video": jnp.float32(0.4)}
    found = rule(GRADIENTS, signals, jnp.int32(0), KEY)
    factor = 1 - np.tanh(0.3 * 2)
    np.testing.assert_allclose(found["encoders"]["audio"]["kernel"], 2 * factor, rtol=1e-6)
    np.testing.assert_allclose(found["fusion"][0]["blocks"]["audio"]["kernel"], 8 * factor, rtol=1e-6)
    # A vector, the modality that is behind, and what is shared stay.
    np.testing.assert_array_equal(found["encoders"]["audio"]["bias"], 2)
    np.testing.assert_array_equal(found["encoders"]["video"]["kernel"], 4)
    np.testing.assert_array_equal(found["fusion"][0]["shared"]["kernel"], 16)


def test_modulation_ends(rng):
    rule = GradientModulation(until=5)
    signals = {"confidence/audio": jnp.float32(0.8), "confidence/video": jnp.float32(0.4)}
    gradients = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), GRADIENTS)
    before, after = (rule(gradients, signals, jnp.int32(step), KEY) for step in (4, 5))
    np.testing.assert_array_equal(after["encoders"]["audio"]["kernel"], gradients["encoders"]["audio"]["kernel"])
    assert np.abs(before["encoders"]["audio"]["kernel"] - gradients["encoders"]["audio"]["kernel"]).max() > 1e-3


def test_noise_has_the_gradient_s_deviation(rng):
    gradients = {"audio": {"kernel": rng.normal(3, 2, size=(200, 200))}, "video": {"kernel": rng.normal(size=(2, 2))}}
    gradients = jax.tree.map(jnp.asarray, gradients)
    signals = {"confidence/audio": jnp.float32(0.1), "confidence/video": jnp.float32(0.9)}
    found = GradientModulation()(gradients, signals, jnp.int32(0), KEY)
    noise = found["audio"]["kernel"] - gradients["audio"]["kernel"]
    # Of 40,000 draws: five standard errors of mean and deviation.
    assert abs(noise.mean()) < 5 * 2 / 200
    assert abs(noise.std() / gradients["audio"]["kernel"].std() - 1) < 5 / np.sqrt(2 * 40_000)


def test_signals_are_over_rows_with_everything():
    logits = {m: np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]) ** p) for m, p in (("audio", 1), ("video", 2))}
    tokens = {m: Stream(np.zeros((3, 2, 1)), np.ones((3, 2), bool), np.zeros(3), 1.0) for m in logits}
    tokens["video"].valid[2] = False
    logits = {m: jnp.asarray(x) for m, x in logits.items()}
    output = Output({"label": logits["audio"], **{f"label/{m}": x for m, x in logits.items()}}, tokens)
    batch = Batch({}, {"label": np.array([[1.0, 0], [0, 1], [1, 0]])}, np.array([1.0, 3.0, 1.0]), np.arange(3))
    found = GradientModulation().signals(output, batch)
    np.testing.assert_allclose(found["confidence/audio"].value, (0.9 + 3 * 0.8) / 4, rtol=1e-6)
    squared = lambda a, b: a**2 / (a**2 + b**2)  # noqa: E731
    np.testing.assert_allclose(
        found["confidence/video"].value, (squared(0.9, 0.1) + 3 * squared(0.8, 0.2)) / 4, rtol=1e-6
    )


def test_one_modality_at_a_time():
    rule = RandomModalityUpdate(all=0.5, share=(1.0, 3.0))
    counts = {"all": 0, "audio": 0, "video": 0}
    update = jax.jit(lambda key: rule(GRADIENTS, {}, jnp.int32(0), key))
    for number in range(400):
        found = update(jax.random.key(number))
        moved = {m: bool(np.abs(found["encoders"][m]["kernel"]).max() > 0) for m in ("audio", "video")}
        assert any(moved.values())
        assert (np.asarray(found["fusion"][0]["shared"]["kernel"]) == 16).all()
        assert moved["audio"] == bool(np.asarray(found["fusion"][0]["blocks"]["audio"]["kernel"]).any())
        counts["all" if all(moved.values()) else max(moved, key=moved.get)] += 1
    # Expected 200, 50, 150; five standard deviations of a binomial.
    for name, share in (("all", 0.5), ("audio", 0.125), ("video", 0.375)):
        assert abs(counts[name] - 400 * share) < 5 * np.sqrt(400 * share * (1 - share)), counts


def test_a_modality_without_parameters_is_an_error():
    with pytest.raises(ValueError, match="belongs to modality 'touch' alone"):
        RandomModalityUpdate(("audio", "touch"))(GRADIENTS, {}, jnp.int32(0), KEY)


def test_a_model_without_own_logits_is_an_error(rng):
    model = tiny.config(pool="gap").build(tiny.nnx.Rngs(0))
    made, params, buffers = tiny.steps(model, rule=GradientModulation())
    with pytest.raises(ValueError, match="has none for head"):
        jax.eval_shape(made.train, made.create(params, buffers), tiny.batch(rng), KEY)


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.slow
def test_in_a_step(rng, accumulate):
    """A step of SGD with modulation moves what the formula says, also over microbatches."""
    model = tiny.config(classes={"emotion": 4}).build(tiny.nnx.Rngs(0))
    rule = GradientModulation(alpha=0.5, enhancement=False)
    after, metrics = {}, {}
    batch = tiny.batch(rng, classes={"emotion": 4})
    for name, chosen in (("plain", None), ("rule", rule)):
        made, params, buffers = tiny.steps(model, optax.sgd(1.0), rule=chosen, accumulate=accumulate)
        params = tiny.randomise(params, np.random.default_rng(1))
        after[name], metrics[name] = tiny.jit(made.train)(made.create(params, buffers), batch, KEY)
    audio, video = (float(metrics["rule"][f"rule/confidence/{m}"]) for m in ("audio", "video"))
    factor = {
        "audio": 1 - np.tanh(0.5 * audio / video) if audio > video else 1,
        "video": 1 - np.tanh(0.5 * video / audio) if video > audio else 1,
    }
    assert min(factor.values()) < 1
    moves = [jax.tree.map(lambda a, b: a - b, after[name].params, params) for name in ("plain", "rule")]
    for (path, plain), ruled in zip(
        jax.tree_util.tree_leaves_with_path(moves[0]), jax.tree.leaves(moves[1]), strict=True
    ):
        owner = next((name for name in path_names(path) if name in factor), None)
        expected = plain * factor[owner] if owner and plain.ndim > 1 else plain
        np.testing.assert_allclose(ruled, expected, rtol=1e-4, atol=1e-5, err_msg=str(path_names(path)))
