"""Adversarial training against a linear model, whose worst inputs are known, and inside a step."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.data.augment import Mixup
from avjax.data.frontend import Augment, Frontend
from avjax.diagnostics.stress.attacks.gradient import PGD, fgsm
from avjax.diagnostics.stress.attacks.training import AdversarialTraining
from avjax.streams import Batch, Stream
from avjax.training.sharding import MeshShape, Rules, batch_sharding, state_sharding
from tests.models import tiny

KEY = jax.random.key(3)
CLASSES = {"emotion": 4}
# Of frames on [0, 1], which no radius below brings to an end of the box.
PIXELS = 0.02


def raw(rng, rows=8) -> Batch:
    """Sound as int16 with padding at its end, frames as uint8, features that no attack has units for."""
    valid = np.arange(50) < np.arange(rows)[:, None] + 30
    streams = {
        "audio": Stream(rng.integers(-9000, 9000, (rows, 50)).astype(np.int16), valid, np.zeros(rows), 16000.0),
        "video": Stream(
            rng.integers(64, 192, (rows, 2, 3, 3, 1), np.uint8), np.ones((rows, 2), bool), np.zeros(rows), 25.0
        ),
        "touch": Stream(
            rng.normal(size=(rows, 3, 5)).astype(np.float32), np.ones((rows, 3), bool), np.zeros(rows), 1.0
        ),
    }
    target = {"emotion": np.eye(4, dtype=np.float32)[np.arange(rows) % 4]}
    return jax.tree.map(jnp.asarray, Batch(streams, target, np.ones(rows, np.float32), np.arange(rows)))


@functools.partial(tiny.jit, static_argnums=0)
def attack(rule, weight, batch) -> Batch:
    """By the rule, of a linear model, compiled once: eagerly each operation would be."""
    return rule(linear(weight), batch, KEY)


def linear(weight):
    def logits(batch: Batch) -> dict[str, jax.Array]:
        flat = {name: batch.streams[name].values.reshape(len(batch.weight), -1) for name in weight}
        return {"emotion": sum(flat[name] @ weight[name] for name in weight)}

    return logits


@pytest.fixture
def weight(rng):
    return {"audio": jnp.asarray(rng.normal(size=(50, 4))), "video": jnp.asarray(rng.normal(size=(18, 4)))}


@tiny.jit
def signs(weight, batch):
    """Of d CE / dx = W (p - y), by hand, over float values on their natural scales."""
    clean = {"audio": batch.streams["audio"].values / 32768, "video": batch.streams["video"].values / 255}
    logits = sum(clean[name].reshape(len(clean[name]), -1) @ weight[name] for name in clean)
    slope = jax.nn.softmax(logits) - batch.target["emotion"]
    return clean, {name: jnp.sign(slope @ weight[name].T).reshape(clean[name].shape) for name in clean}


def test_one_gradient_is_the_formula(rng, weight):
    """x + r sign(dCE/dx): r of the pixels, and of sound rms 10^(-SNR/20); only where something is valid."""
    batch = raw(rng)
    clean, towards = signs(weight, batch)
    valid = batch.streams["audio"].valid
    rms = jnp.sqrt(jnp.where(valid, clean["audio"] ** 2, 0).sum(1) / valid.sum(1))
    found = attack(AdversarialTraining(fgsm(), pixels=PIXELS, snr=20.0), weight, batch)
    moved = jnp.where(valid, clean["audio"] + 0.1 * rms[:, None] * towards["audio"], clean["audio"])
    np.testing.assert_allclose(found.streams["audio"].values, moved, atol=1e-6)
    np.testing.assert_allclose(found.streams["video"].values, clean["video"] + PIXELS * towards["video"], atol=1e-6)
    for name, stream in batch.streams.items():
        np.testing.assert_array_equal(found.streams[name].valid, stream.valid)
    np.testing.assert_array_equal(found.streams["touch"].values, batch.streams["touch"].values)
    np.testing.assert_array_equal(found.target["emotion"], batch.target["emotion"])


def test_one_modality_alone(rng, weight):
    batch = raw(rng)
    rules = AdversarialTraining(fgsm(), pixels=0.0), AdversarialTraining(fgsm(), snr=None)
    heard, seen = (jax.eval_shape(lambda rule=rule: rule(linear(weight), batch, KEY)) for rule in rules)
    # What is left alone keeps its integers.
    kinds = [{name: str(stream.values.dtype) for name, stream in found.streams.items()} for found in (heard, seen)]
    assert kinds[0] == {"audio": "float32", "video": "uint8", "touch": "float32"}
    assert kinds[1] == {"audio": "int16", "video": "float32", "touch": "float32"}


def test_a_share_of_the_rows(rng, weight):
    """Each row moves wholly or not at all, drawn by its index: in another order the same rows move."""
    batch = raw(rng, rows=64)
    rule = AdversarialTraining(fgsm(), pixels=PIXELS, share=0.5)
    moved = [np.asarray(attack(rule, weight, some).streams["video"].values) for some in (batch, flipped(batch))]
    np.testing.assert_allclose(moved[0], moved[1][::-1], atol=1e-6)
    far = np.abs(moved[0] - batch.streams["video"].values / 255).reshape(64, -1) > PIXELS / 2
    assert (far.all(1) | ~far.any(1)).all()
    # Of 64 halves: five standard deviations.
    assert abs(far.all(1).sum() - 32) < 5 * 4


def flipped(batch: Batch) -> Batch:
    return jax.tree.map(lambda x: x[::-1], batch)


def test_what_cannot_be_attacked_is_told(rng, weight):
    batch = raw(rng)
    with pytest.raises(ValueError, match="as video"):
        AdversarialTraining(pixels=0.0, snr=None)(linear(weight), batch, KEY)
    with pytest.raises(ValueError, match="say one of"):
        AdversarialTraining(head="speaker")(linear(weight), batch, KEY)
    with pytest.raises(ValueError, match="makes 16 rows of 8"):
        jax.eval_shape(lambda: AdversarialTraining()(lambda some: {"emotion": jnp.zeros((16, 4))}, batch, KEY))
    with pytest.raises(ValueError, match="of 0 to 1"):
        AdversarialTraining(share=1.5)


def made(accumulate=1, **changes):
    model = tiny.config(classes=CLASSES).build(tiny.nnx.Rngs(0))
    steps, params, buffers = tiny.steps(model, optax.sgd(0.1), accumulate=accumulate, **changes)
    return steps, steps.create(tiny.randomise(params, np.random.default_rng(1)), buffers)


def frames(rows=8) -> Batch:
    """A batch of features whose video has the shape of raw frames, on [0, 1]."""
    rng = np.random.default_rng(4)
    batch = tiny.batch(rng, rows=rows, classes=CLASSES)
    video = batch.streams["video"]
    video = video.replace(values=rng.uniform(0.2, 0.8, video.values.shape).astype(np.float32))
    return batch.replace(streams={**batch.streams, "video": video})


RULE = AdversarialTraining(fgsm(), pixels=0.1)


@pytest.mark.slow
def test_a_step_trains_on_attacked_clips():
    """The same weights as from a plain step on clips that were attacked before, by what evaluation says of them."""
    batch = frames()
    steps, state = made(inputs=RULE)
    plain, _ = made()
    attacked = tiny.jit(lambda state, batch: RULE(lambda b: plain.output(state, b).logits, batch, KEY))(state, batch)
    assert np.abs(attacked.streams["video"].values - batch.streams["video"].values).max() > 0.09
    expected, lost = tiny.jit(plain.train)(state, attacked, KEY)
    found, losses = tiny.jit(steps.train)(state, batch, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)
    np.testing.assert_allclose(losses["loss"], lost["loss"], rtol=1e-5)
    # In evaluation nothing is attacked.
    one, other = (tiny.jit(s.evaluate)(state, batch)[0]["emotion"] for s in (steps, plain))
    np.testing.assert_array_equal(one, other)
    # No row may see another.
    blended = dataclasses.replace(steps, frontend=Frontend(None, None, Augment(mixup=Mixup())))
    with pytest.raises(ValueError, match="mixup blends rows"):
        jax.eval_shape(blended.train, state, batch, KEY)


@pytest.mark.slow
@pytest.mark.long
def test_devices_and_microbatches_change_nothing():
    batch, rule = frames(16), AdversarialTraining(PGD(steps=1), pixels=0.05, share=0.5)
    (alone, state), (steps, _) = made(inputs=rule), made(accumulate=2, inputs=rule)
    expected, lost = tiny.jit(alone.train)(state, batch, KEY)
    mesh = MeshShape().build(jax.devices()[:8])
    whole = state_sharding(mesh, Rules(), jax.eval_shape(lambda: state))
    placed = jax.device_put(batch, batch_sharding(mesh, Rules()))
    found, losses = tiny.jit(steps.train)(jax.device_put(state, whole), placed, KEY)
    np.testing.assert_allclose(losses["loss"], lost["loss"], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)
