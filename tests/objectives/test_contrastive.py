"""Losses between vectors against loops in float64, closed forms, and what is absent."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives import contrastive
from tests.models import tiny
from tests.objectives.made import finite

ROWS, WIDTH = 6, 5
WEIGHT = np.array([1, 0.5, 0, 2, 1, 1])
LABEL = np.array([0, 1, 1, 0, 2, 1], np.int32)
APART = np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0]], np.float32)


def norm(x):
    return x / np.linalg.norm(x)


def cosine(x, y):
    return norm(x) @ norm(y)


def mean(rows, weight=WEIGHT):
    return np.average(rows, weights=weight)


THERE = [i for i in range(ROWS) if WEIGHT[i] > 0]


def info_nce(a, b, directions="both", temperature=0.07):
    def one(a, b):
        rows = np.zeros(ROWS)
        for i in THERE:
            scores = {j: cosine(a[i], b[j]) / temperature for j in THERE}
            rows[i] = -np.log(np.exp(scores[i]) / sum(np.exp(s) for s in scores.values()))
        return mean(rows)

    return one(a, b) if directions == "one" else (one(a, b) + one(b, a)) / 2


def supervised_alignment(a, b):
    rows = np.zeros(ROWS)
    for i in THERE:
        scores = {j: a[i] @ b[j] / 0.5 for j in THERE}
        total = sum(np.exp(s) for s in scores.values())
        rows[i] = -sum(np.log(np.exp(scores[j]) / total) for j in THERE if LABEL[i] == LABEL[j]) / len(THERE)
    return mean(rows)


def triplet(a, b, hardest):
    rows = np.zeros(ROWS)
    for i in THERE:
        own = np.linalg.norm(a[i] - b[i])
        each = [max(0, 0.2 + own - np.linalg.norm(a[i] - b[j])) for j in THERE if LABEL[j] != LABEL[i]]
        rows[i] = max(each) if hardest else np.mean(each)
    return mean(rows)


def relative_distance(a, b):
    rows = np.zeros(ROWS)
    for i in THERE:
        d_ap = np.linalg.norm(a[i] - b[i])
        others = [j for j in THERE if LABEL[j] != LABEL[i]]
        d_an, d_pn = ([np.linalg.norm(x[i] - b[j]) for j in others] for x in (a, b))
        first, second = (max(np.exp(1.2 - d) * np.exp(d_ap - d) for d in each) for each in (d_an, d_pn))
        rows[i] = 0.5 * max(0, d_ap + 10 * np.log(1 + 10 * (first + second)))
    return mean(rows)


def metric_constraint(a):
    total = count = 0.0
    for i in THERE:
        for j in THERE:
            if i != j:
                gap, pair = np.linalg.norm(norm(a[i]) - norm(a[j])), WEIGHT[i] * WEIGHT[j]
                total += pair * (gap - 0.5 * APART[LABEL[i], LABEL[j]]) ** 2
                count += pair
    return total / count


CASES = {
    "info_nce": (lambda a, b, w: contrastive.info_nce(a, b, w), lambda a, b: info_nce(a, b)),
    "info_nce one way": (
        lambda a, b, w: contrastive.info_nce(a, b, w, directions="one", temperature=0.2),
        lambda a, b: info_nce(a, b, "one", 0.2),
    ),
    "supervised_alignment": (
        lambda a, b, w: contrastive.supervised_alignment(a, b, jnp.asarray(LABEL), w, temperature=0.5),
        supervised_alignment,
    ),
    "triplet hardest": (
        lambda a, b, w: contrastive.triplet(a, b, jnp.asarray(LABEL), w),
        lambda a, b: triplet(a, b, True),
    ),
    "triplet all": (
        lambda a, b, w: contrastive.triplet(a, b, jnp.asarray(LABEL), w, negatives="all"),
        lambda a, b: triplet(a, b, False),
    ),
    "relative_distance": (
        lambda a, b, w: contrastive.relative_distance(a, b, jnp.asarray(LABEL), w),
        relative_distance,
    ),
    "metric_constraint": (
        lambda a, b, w: contrastive.metric_constraint(a, jnp.asarray(LABEL), jnp.asarray(APART), w),
        lambda a, b: metric_constraint(a),
    ),
    "orthogonality": (
        contrastive.orthogonality,
        lambda a, b: mean([max(0, cosine(a[i], b[i])) if WEIGHT[i] else 0 for i in range(ROWS)]),
    ),
}


@functools.cache
def compiled(name):
    """Value and gradients, as one program for all batches."""
    ours, _ = CASES[name]
    return tiny.jit(jax.value_and_grad(lambda a, b, w: ours(a, b, w).value, argnums=(0, 1)))


@pytest.mark.parametrize("name", CASES)
def test_term_is_its_equation(name, rng):
    _, equation = CASES[name]
    a, b = rng.normal(size=(2, ROWS, WIDTH))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (a, b, WEIGHT)]
        found, _ = compiled(name)(*arrays)
        assert float(found) == pytest.approx(equation(a, b), rel=1e-9)
        # What is absent is not read.
        for bad in (np.nan, np.inf):
            spoilt = [jnp.asarray(np.where(WEIGHT[:, None] > 0, x, bad)) for x in (a, b)]
            again, gradients = compiled(name)(*spoilt, arrays[2])
            assert float(again) == float(found)
            assert finite(gradients)
            assert all((np.asarray(g)[WEIGHT == 0] == 0).all() for g in gradients)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_finite_differences(name, rng):
    a, b, along = rng.normal(size=(3, ROWS, WIDTH))
    with jax.enable_x64(True):

        def at(step):
            return compiled(name)(jnp.asarray(a + step * along), jnp.asarray(b - step * along), jnp.asarray(WEIGHT))

        _, (by_a, by_b) = at(0.0)
        step = 1e-6
        slope = float(at(step)[0] - at(-step)[0]) / (2 * step)
        assert float(((by_a - by_b) * along).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("case", ["zeros", "alike", "one row", "nothing", "one class", "large"])
def test_degenerate_batches_have_gradients(name, case, rng):
    a, b = (jnp.asarray(x, "bfloat16") for x in rng.normal(size=(2, ROWS, WIDTH)))
    w = jnp.asarray(WEIGHT, "float32")
    if case == "zeros":
        a = b = 0 * a
    if case == "alike":
        a = b = jnp.ones_like(a)
    if case == "one row":
        w = jnp.zeros(ROWS).at[1].set(1)
    if case == "nothing":
        w = jnp.zeros(ROWS)
    if case == "one class":
        w = w * (LABEL == 1)
    if case == "large":
        a, b = 1e3 * a, -1e3 * b
    with jax.debug_nans(True):
        found, gradients = compiled(name)(a, b, w)
    assert finite((found, gradients))
    if case == "nothing":
        assert float(found) == 0


def test_info_nce_closed_forms():
    w = jnp.ones(4)
    pairs = jnp.eye(4)
    found = float(contrastive.info_nce(3 * pairs, pairs, w, temperature=0.5).value)
    assert found == pytest.approx(np.log(1 + 3 * np.exp(-2)), rel=1e-6)
    alike = jnp.ones((4, 2))
    assert float(contrastive.info_nce(alike, alike, w).value) == pytest.approx(np.log(4), rel=1e-6)
    # A row alone has no rival.
    assert float(contrastive.info_nce(pairs, pairs, w.at[1:].set(0)).value) == 0


def test_supervised_alignment_of_zeros():
    """log softmax is -log n everywhere: the loss is log n times the share of pairs of one class."""
    zeros, label = jnp.zeros((4, 3)), jnp.array([0, 0, 0, 1])
    found = contrastive.supervised_alignment(zeros, zeros, label, jnp.ones(4)).value
    assert float(found) == pytest.approx(np.log(4) * 10 / 16, rel=1e-6)


def test_metric_constraint_is_met():
    """Unit vectors whose distances are as the table says."""
    z, label = jnp.array([[1.0, 0], [1, 0], [0, 1]]), jnp.array([0, 0, 1])
    apart = jnp.array([[0, 2.0], [2, 0]])
    found = contrastive.metric_constraint(z, label, apart, jnp.ones(3), margin=float(np.sqrt(2) / 2)).value
    assert float(found) == pytest.approx(0, abs=1e-6)


def test_pair_similarity(rng):
    a, b = rng.normal(size=(2, 4, 5, 3))
    event = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]], bool)
    weight = np.array([1.0, 1, 2, 0])
    rows = np.zeros(4)
    for i in (0, 2):
        s = np.array([max(0, cosine(a[i, t], b[i, t])) for t in range(5)])
        rows[i] = np.mean((s / s.sum() - event[i] / event[i].sum()) ** 2) if s.sum() else np.mean(event[i] / 25)
    a[3] = np.nan
    arrays = (jnp.asarray(x, "float32") for x in (a, b))
    found = contrastive.pair_similarity(*arrays, jnp.asarray(event), jnp.asarray(weight))
    assert float(found.value) == pytest.approx(np.average(rows, weights=weight * [1, 0, 1, 0]), rel=1e-4)
    # Alike where the event is, opposed elsewhere: nothing to pay.
    one = np.ones((1, 5, 2))
    other = np.where(event[:1, :, None], one, -one)
    perfect = contrastive.pair_similarity(jnp.asarray(one), jnp.asarray(other), jnp.asarray(event[:1]), jnp.ones(1))
    assert float(perfect.value) == pytest.approx(0, abs=1e-7)


def test_diversity(rng):
    x = rng.normal(size=(4, 5, 3))
    valid = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]], bool)
    x[~valid] = np.nan
    weight = np.array([1.0, 2, 1, 0])
    rows = np.zeros(4)
    for i in range(4):
        u = [norm(x[i, n]) for n in range(5) if valid[i, n]]
        if len(u) > 1:
            rows[i] = np.mean([u[p] @ u[q] for p in range(len(u)) for q in range(len(u)) if p != q])
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(
            lambda x: contrastive.diversity(x, jnp.asarray(valid), jnp.asarray(weight)).value
        )(jnp.asarray(np.nan_to_num(x, nan=7.0), "float32"))
    assert float(value) == pytest.approx(np.average(rows, weights=weight), rel=1e-4, abs=1e-6)
    assert finite(gradient)
    spoilt = contrastive.diversity(jnp.asarray(x, "float32"), jnp.asarray(valid), jnp.asarray(weight))
    assert float(spoilt.value) == float(value)
    alike = contrastive.diversity(jnp.ones((1, 4, 3)), jnp.ones((1, 4), bool), jnp.ones(1))
    assert float(alike.value) == pytest.approx(1, rel=1e-6)


def test_orthogonality():
    x, y = jnp.array([[1.0, 0], [1, 0], [1, 0]]), jnp.array([[0.0, 3], [-2, 0], [5, 0]])
    np.testing.assert_allclose(contrastive.orthogonality(x, y, jnp.ones(3)).value, 1 / 3, rtol=1e-6)
