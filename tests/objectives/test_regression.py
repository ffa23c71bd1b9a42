"""Losses on values against NumPy in float64; rows and steps that do not count; degenerate batches."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.regression import Regression, concordance
from avjax.training import metrics
from tests.objectives.made import finite, output_and_batch


def weighted_concordance(p, y, w):
    total = sum(w)
    mean_p, mean_y = sum(w * p) / total, sum(w * y) / total
    covariance = sum(w * (p - mean_p) * (y - mean_y)) / total
    spread = sum(w * (p - mean_p) ** 2) / total + sum(w * (y - mean_y) ** 2) / total + (mean_p - mean_y) ** 2
    return 2 * covariance / spread


def test_concordance_is_its_definition(rng):
    p, y = rng.normal(size=(2, 9, 3))
    w = rng.random(9) * (np.arange(9) != 4)
    p[4] = np.nan
    with jax.enable_x64(True):
        found = concordance(*map(jnp.asarray, (p, y, w)))
        keep = w > 0
        for k in range(3):
            expected = weighted_concordance(p[keep, k], y[keep, k], w[keep])
            assert float(found[k]) == pytest.approx(expected, rel=1e-12)
        equal = concordance(*map(jnp.asarray, (p[:4], y[:4], np.ones(4))))
    assert float(equal[1]) == pytest.approx(metrics.concordance(p[:4, 1], y[:4, 1]), rel=1e-12)


def test_concordance_of_small_variances_about_a_large_mean(rng):
    y = (rng.normal(size=(50, 1)) + 300).astype(np.float32)
    p = (y + 0.5 * rng.normal(size=y.shape)).astype(np.float32)
    found = float(concordance(jnp.asarray(p), jnp.asarray(y), jnp.ones(50))[0])
    assert found == pytest.approx(metrics.concordance(p[:, 0], y[:, 0]), abs=1e-4)


def test_concordance_has_the_gradient_of_the_definition(rng):
    p, y = rng.normal(size=(2, 6, 2))
    w = rng.random(6)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda p: concordance(p, jnp.asarray(y), jnp.asarray(w)).sum())(jnp.asarray(p))
    step = 1e-6
    for i, k in np.ndindex(p.shape):
        ends = []
        for sign in (1, -1):
            moved = p.copy()
            moved[i, k] += sign * step
            ends.append(weighted_concordance(moved[:, k], y[:, k], w))
        assert float(gradient[i, k]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-8)


PRESENT = {"audio": np.array([1, 1, 0, 1, 1, 1], bool), "video": np.array([0, 1, 1, 1, 1, 0], bool)}
WEIGHT = np.array([1, 0.5, 1, 1, 0, 2], np.float32)


def made(rng, shape=(6, 2), **aux):
    names = ["affect", "affect/audio", "affect/video"]
    logits = {name: rng.normal(size=shape).astype(np.float32) for name in names}
    target = {"affect": rng.normal(size=shape).astype(np.float32)}
    return output_and_batch(logits, target, WEIGHT, PRESENT, **aux)


def expected_part(kind, p, y, w, valid):
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    if kind == "ccc":
        each = np.where(valid, w[:, None], 0).ravel()
        p, y = p.reshape(len(each), -1), y.reshape(len(each), -1)
        return 1 - np.mean([weighted_concordance(p[:, k], y[:, k], each) for k in range(p.shape[1])])
    error = np.abs(p - y) if kind == "l1" else (p - y) ** 2
    rows = [error[i][valid[i]].mean() if valid[i].any() else 0.0 for i in range(len(w))]
    return np.average(rows, weights=w * valid.any(1))


@pytest.mark.parametrize("kind", ["ccc", "l1", "l2"])
@pytest.mark.parametrize("sequence", [False, True])
def test_head_and_modalities(kind, sequence, rng):
    valid = rng.random((6, 4)) < 0.7 if sequence else np.ones((6, 1), bool)
    valid[1] = not sequence
    valid[3] = True
    output, batch = made(rng, (6, 4, 2), valid={"affect": jnp.asarray(valid)}) if sequence else made(rng)
    loss, parts = Regression(kind, "series" if sequence else "values", per_modality=0.25)(output, batch)
    expected = {}
    for name, p in output.logits.items():
        there = PRESENT.get(name.partition("/")[2], np.ones(6, bool))
        y = batch.target["affect"]
        p, y = (np.asarray(x).reshape(6, valid.shape[1], 2) for x in (p, y))
        expected[name] = expected_part(kind, p, y, WEIGHT.astype(float) * there, valid)
        assert float(parts[f"loss/{name}"].value) == pytest.approx(expected[name], rel=1e-5), name
    whole = expected["affect"] + 0.25 * (expected["affect/audio"] + expected["affect/video"])
    assert float(loss) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("kind", ["ccc", "l1", "l2"])
def test_what_does_not_count_is_not_read(kind, rng):
    valid = rng.random((6, 4)) < 0.7
    output, batch = made(rng, (6, 4, 2), valid={"affect": jnp.asarray(valid)})
    counted = valid & (WEIGHT > 0)[:, None]

    def spoilt(x):
        return jnp.where(counted[..., None], x, jnp.nan)

    bad_output = output.__class__(jax.tree.map(spoilt, output.logits), output.tokens, output.aux)
    bad_batch = batch.replace(target=jax.tree.map(spoilt, batch.target))
    objective = Regression(kind, "series")

    def loss(logits, output, batch):
        return objective(output.__class__(logits, output.tokens, output.aux), batch)[0]

    clean, gradient = jax.value_and_grad(loss)(output.logits, output, batch)
    value, bad_gradient = jax.value_and_grad(loss)(bad_output.logits, bad_output, bad_batch)
    assert float(value) == float(clean)
    jax.tree.map(np.testing.assert_array_equal, gradient, bad_gradient)


@pytest.mark.parametrize("kind", ["ccc", "l1", "l2"])
@pytest.mark.parametrize("case", ["constant", "both constant", "equal", "one row", "nothing"])
def test_degenerate_batches_have_gradients(kind, case, rng):
    p, y = rng.normal(size=(2, 4, 2)).astype(np.float32)
    w = np.ones(4, np.float32)
    if "constant" in case:
        p = np.full_like(p, 0.3)
    if case == "both constant":
        y = np.full_like(y, 0.3)
    if case == "equal":
        p = y
    if case == "one row":
        p, y, w = p[:1], y[:1], w[:1]
    if case == "nothing":
        w = 0 * w
    output, batch = output_and_batch({"affect": p}, {"affect": y}, w)
    objective = Regression(kind)
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(lambda x: objective(output.__class__({"affect": x}, {}), batch)[0])(
            output.logits["affect"]
        )
    assert finite((value, gradient))
    if case == "equal":
        assert float(value) == pytest.approx(0, abs=1e-6)
    if kind == "ccc" and case in ("constant", "both constant", "one row"):
        assert float(value) == 1


def test_predictions_are_the_values_themselves(rng):
    output, _ = made(rng)
    assert Regression().predictions(output) == output.logits


def test_a_series_is_what_the_segments_say(rng):
    """A model of whole clips reports its segments beside them; the target says too which steps count."""
    valid, labelled = rng.random((2, 6, 4)) < 0.8
    output, batch = made(rng, (6, 4, 2), valid={"affect": jnp.asarray(valid & labelled)})
    expected = Regression(task="series", per_modality=0.0)(output, batch)[0]
    segments = {"affect": output.logits["affect"], "valid": jnp.asarray(valid)}
    clips = {name: x.mean(axis=1) for name, x in output.logits.items()}
    moved = dataclasses.replace(output, logits=clips, aux={"segments": segments})
    counted = batch.replace(target={**batch.target, "affect/valid": jnp.asarray(labelled, jnp.float32)})
    assert float(Regression(task="series")(moved, counted)[0]) == pytest.approx(float(expected), rel=1e-6)
    found = Regression(task="series").predictions(moved)
    assert found.keys() == {"affect", "affect/valid"}
    np.testing.assert_array_equal(found["affect/valid"], valid)
    alone = batch.replace(target={"affect": batch.target["affect"][..., 0]})
    one = dataclasses.replace(output, logits={"affect": output.logits["affect"][..., :1]})
    assert np.isfinite(Regression(task="series")(one, alone)[0])


def test_steps_that_do_not_fit_are_told(rng):
    output, batch = made(rng, (6, 4, 2))
    longer = batch.replace(target={"affect": jnp.zeros((6, 9, 2))})
    with pytest.raises(ValueError, match="gives 4 steps of 'affect', and its target has 9"):
        Regression(task="series")(output, longer)
    with pytest.raises(ValueError, match=r"set --objective\.task series"):
        Regression()(made(rng)[0], batch)
    with pytest.raises(ValueError, match="gives no values of steps"):
        Regression(task="series")(made(rng)[0], batch)
