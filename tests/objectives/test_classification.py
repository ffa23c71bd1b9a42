"""The classification loss against optax and loops in float64."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import optax
import pytest

from avjax.objectives.classification import Classification
from avjax.objectives.rows import rows_mean
from avjax.streams import Batch, Output, Stream

CLASSES = 5


def made(rng, rows=7, modalities=("audio", "video"), heads=("emotion",)):
    """Random logits, targets that sum to one, weights with filler rows, and presence with gaps."""
    logits, target = {}, {}
    for head in heads:
        target[head] = rng.dirichlet(np.ones(CLASSES), rows).astype(np.float32)
        for name in (head, *(f"{head}/{m}" for m in modalities)):
            logits[name] = jax.numpy.asarray(3 * rng.normal(size=(rows, CLASSES)), "float32")
    tokens = {}
    for m in modalities:
        valid = np.repeat(rng.random((rows, 1)) < 0.7, 3, axis=1)
        tokens[m] = Stream(np.zeros((rows, 3, 2), np.float32), valid, np.zeros(rows, np.float32), 1.0)
    weight = rng.random(rows).astype(np.float32)
    weight[-2:] = 0
    return Output(logits, tokens, fused=False), Batch(
        {}, jax.tree.map(jax.numpy.asarray, target), jax.numpy.asarray(weight), np.arange(rows)
    )


def softmax_rows(logits, target, smooth=0.0):
    logits, target = np.asarray(logits, np.float64), np.asarray(target, np.float64)
    target = (1 - smooth) * target + smooth / target.shape[1]
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(target * log).sum(1)


def sigmoid_rows(logits, target, smooth=0.0):
    logits, target = np.asarray(logits, np.float64), np.asarray(target, np.float64)
    target = (1 - smooth) * target + smooth / 2
    p = 1 / (1 + np.exp(-logits))
    return -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1)


ROWS = {"softmax": softmax_rows, "sigmoid": sigmoid_rows}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("smooth", [0.0, 0.3])
def test_mean_of_the_modalities_that_a_row_has(kind, smooth, rng):
    output, batch = made(rng)
    loss, parts = Classification(kind, label_smoothing=smooth)(output, batch)
    weight = np.asarray(batch.weight, np.float64)
    rows = {name: ROWS[kind](logits, batch.target["emotion"], smooth) for name, logits in output.logits.items()}
    expected = 0.0
    for row in range(len(weight)):
        own = [rows[f"emotion/{m}"][row] for m in ("audio", "video") if output.tokens[m].valid[row].any()]
        expected += weight[row] * (np.mean(own) if own else 0.0)
    np.testing.assert_allclose(loss, expected / weight.sum(), rtol=1e-5)
    for name, numbers in rows.items():
        there = output.tokens[name.split("/")[1]].valid.any(1) if "/" in name else 1
        mean = (numbers * weight * there).sum() / max((weight * there).sum(), 1e-8)
        np.testing.assert_allclose(parts[f"loss/{name}"].value, mean, rtol=1e-5)


@pytest.mark.parametrize("kind", ROWS)
def test_loss_of_the_fused_logits(kind, rng):
    output, batch = made(rng)
    expected = np.average(ROWS[kind](output.logits["emotion"], batch.target["emotion"]), weights=batch.weight)
    loss, _ = Classification(kind, per_modality=False)(output, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # A model without per-modality logits has no other.
    alone = Output({"emotion": output.logits["emotion"]}, {})
    np.testing.assert_allclose(Classification(kind)(alone, batch)[0], expected, rtol=1e-5)


def test_labels_as_optax_has_them(rng):
    output, batch = made(rng)
    labels = rng.integers(0, CLASSES, len(batch.weight))
    batch = batch.replace(target={"emotion": jax.nn.one_hot(labels, CLASSES)})
    rows = optax.losses.softmax_cross_entropy_with_integer_labels(output.logits["emotion"], labels)
    loss, _ = Classification(per_modality=False)(output, batch)
    np.testing.assert_allclose(loss, np.average(rows, weights=batch.weight), rtol=1e-5)


def test_heads_are_averaged(rng):
    output, batch = made(rng, heads=("emotion", "speaker"))
    loss, parts = Classification(per_modality=False)(output, batch)
    np.testing.assert_allclose(loss, (parts["loss/emotion"].value + parts["loss/speaker"].value) / 2, rtol=1e-6)


def test_targets_of_each_modality(rng):
    """Mixup may give each modality a label of its own."""
    output, batch = made(rng)
    own = jax.numpy.asarray(rng.dirichlet(np.ones(CLASSES), len(batch.weight)), "float32")
    _, before = Classification()(output, batch)
    _, after = Classification()(output, batch.replace(target={**batch.target, "emotion/audio": own}))
    weight = batch.weight * output.tokens["audio"].valid.any(axis=1)
    expected = (softmax_rows(output.logits["emotion/audio"], own) * weight).sum() / max(weight.sum(), 1e-8)
    np.testing.assert_allclose(after["loss/emotion/audio"].value, expected, rtol=1e-5)
    for same in ("loss/emotion", "loss/emotion/video"):
        assert after[same].value == before[same].value


def test_filler_rows_and_missing_modalities_have_no_gradient(rng):
    output, batch = made(rng)
    gradient = jax.grad(lambda logits: Classification()(dataclasses.replace(output, logits=logits), batch)[0])(
        output.logits
    )
    filler = np.asarray(batch.weight) == 0
    for m in ("audio", "video"):
        there = output.tokens[m].valid.any(axis=1)
        size = np.abs(gradient[f"emotion/{m}"]).max(axis=1)
        assert (size[filler | ~there] == 0).all()
        assert (size[~filler & there] > 0).all()
    assert (np.asarray(gradient["emotion"]) == 0).all()


@pytest.mark.slow
def test_microbatches_add_up(rng):
    """The loss of a batch is the mean of its parts by their weight: gradient accumulation stands on this."""
    output, batch = made(rng, rows=9)
    whole, _ = Classification(label_smoothing=0.1)(output, batch)
    total = weight = 0.0
    for part in np.split(rng.permutation(9), [2, 5]):
        micro = jax.tree.map(lambda x, part=part: x[part], (output, batch))
        share = float(micro[1].weight.sum())
        total, weight = total + share * float(Classification(label_smoothing=0.1)(*micro)[0]), weight + share
    np.testing.assert_allclose(whole, total / weight, rtol=1e-5)


def test_nothing_but_filler_is_zero(rng):
    output, batch = made(rng)
    empty = batch.replace(weight=jax.numpy.zeros_like(batch.weight))
    assert Classification()(output, empty)[0] == 0
    assert rows_mean(jax.numpy.ones(3), jax.numpy.zeros(3)).value == 0


def test_predictions(rng):
    logits = jax.numpy.asarray(rng.normal(size=(4, CLASSES)), "float32")
    output = Output({"emotion": logits, "emotion/audio": -logits}, {})
    exact = np.exp(np.asarray(logits, np.float64))
    softmax, sigmoid = Classification().predictions(output), Classification("sigmoid").predictions(output)
    np.testing.assert_allclose(softmax["emotion"], exact / exact.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(sigmoid["emotion"], exact / (1 + exact), rtol=1e-5)
    np.testing.assert_allclose(sigmoid["emotion/audio"], 1 / (1 + exact), rtol=1e-5)
    assert (Classification().task, Classification("sigmoid").task) == ("classes", "labels")


def test_own_losses_stand_beside_that_of_fused_logits(rng):
    output, batch = made(rng)
    mean, parts = Classification()(output, batch)
    for auxiliary in (0.0, 0.5):
        loss, _ = Classification(auxiliary=auxiliary)(dataclasses.replace(output, fused=True), batch)
        np.testing.assert_allclose(loss, parts["loss/emotion"].value + auxiliary * mean, rtol=1e-5)
