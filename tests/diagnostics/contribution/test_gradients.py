"""Attributions by gradients: closed forms, completeness, paths of all and of one modality, a model with masks."""

from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.contribution.gradients import (
    expected_gradients,
    gradient_times_input,
    integrated_by_modality,
    integrated_gradients,
    magnitude_shares,
    net,
)
from avjax.diagnostics.measured import Undefined
from avjax.nn.transformer import Size
from avjax.training.step import split_model
from tests.models import tiny

NAMES = ("audio", "video")


@pytest.fixture(autouse=True)
def double():
    """Known answers are exact ones."""
    with jax.enable_x64(True):
        yield


def of(audio, video):
    return {"audio": jnp.atleast_1d(jnp.float64(audio)), "video": jnp.atleast_1d(jnp.float64(video))}


def product(values):
    return values["audio"] * values["video"]


def test_a_product():
    """KA: f = a v at (2, 3) from 0: IG (3, 3), half each, sum 6 = f; gradient x input (6, 6), whose sum is 12."""
    found = integrated_gradients(product, of(2, 3), of(0, 0))
    np.testing.assert_allclose(net(found.attribution, NAMES), [[3, 3]], rtol=1e-14)
    np.testing.assert_allclose(magnitude_shares(found.attribution, NAMES), [[0.5, 0.5]], rtol=1e-14)
    assert found.steps == 64
    assert found.complete.all()
    np.testing.assert_allclose(net(gradient_times_input(product, of(2, 3)), NAMES), [[6, 6]], rtol=1e-14)


def test_paths_of_one_modality_are_other_numbers():
    """f = a v again: with the rest at the input each has all of it, at the baseline 0 neither has anything."""
    whole = integrated_by_modality(product, of(2, 3), of(0, 0), rest="input")
    assert [float(whole[m].attribution[m][0]) for m in NAMES] == pytest.approx([6, 6], rel=1e-14)
    nothing = integrated_by_modality(product, of(2, 3), of(0, 0), rest="baseline")
    assert [float(nothing[m].attribution[m][0]) for m in NAMES] == [0, 0]
    assert all(one.complete.all() and one.steps == 64 for one in (*whole.values(), *nothing.values()))
    # From (1, 1): a moves while v is 3, or while it is 1.
    for rest, expected in (("input", [3, 4]), ("baseline", [1, 2])):
        found = integrated_by_modality(product, of(2, 3), of(1, 1), rest=rest)
        assert [float(found[m].attribution[m][0]) for m in NAMES] == pytest.approx(expected, rel=1e-14)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 70))
@hypothesis.settings(max_examples=5)
def test_linear_scores_are_exact(seed, steps):
    """KA: linear f: integrated gradients are the terms, with any number of points; from 0 gradient x input."""
    rng = np.random.default_rng(seed)
    weights = {"audio": rng.normal(size=(4, 2)), "video": rng.normal(size=3)}
    values, baseline = ({m: rng.normal(size=(5, *w.shape)) for m, w in weights.items()} for _ in range(2))

    def score(values):
        return jnp.einsum("bij,ij->b", values["audio"], weights["audio"]) + values["video"] @ weights["video"]

    found = integrated_gradients(score, values, baseline, steps=steps)
    plain = gradient_times_input(score, values)
    for m, weight in weights.items():
        np.testing.assert_allclose(found.attribution[m], weight * (values[m] - baseline[m]), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(plain[m], weight * values[m], rtol=1e-12)
    assert found.steps == steps


def bent(values, sharp):
    return jnp.tanh(sharp * (values["audio"].sum(1) + values["video"].sum(1) - 1)) + values["audio"][:, 0] ** 3


def by_hand(values, baseline, sharp, steps):
    """Midpoint rule and slopes written down."""
    result = {m: np.zeros(values[m].shape) for m in values}
    for k in range(steps):
        at = {m: baseline[m] + (k + 0.5) / steps * (values[m] - baseline[m]) for m in values}
        inner = sharp * (at["audio"].sum(1) + at["video"].sum(1) - 1)
        for m in values:
            slope = np.repeat((sharp / np.cosh(inner.clip(-300, 300)) ** 2)[:, None], values[m].shape[1], axis=1)
            if m == "audio":
                slope[:, 0] += 3 * at["audio"][:, 0] ** 2
            result[m] += slope * (values[m] - baseline[m]) / steps
    return result


def test_points_are_tripled_until_the_sum_is_complete(rng):
    values = {m: rng.uniform(0.5, 1, (6, n)) for m, n in (("audio", 3), ("video", 2))}
    baseline = {m: np.zeros(x.shape) for m, x in values.items()}
    found = integrated_gradients(bent, values, baseline, (150.0,), steps=2, most_steps=2000)
    assert found.complete.all()
    assert found.steps > 2
    expected = by_hand(values, baseline, 150.0, found.steps)
    for m in NAMES:
        np.testing.assert_allclose(found.attribution[m], expected[m], rtol=1e-9, atol=1e-12)
    ends = [np.asarray(bent({m: jnp.asarray(x) for m, x in end.items()}, 150.0)) for end in (values, baseline)]
    difference = ends[0] - ends[1]
    total = net(found.attribution, NAMES).sum(1)
    np.testing.assert_allclose(found.error, np.abs(total - difference) / np.abs(difference), rtol=1e-6, atol=1e-12)
    # A sharper step than so many points can see is reported, not hidden.
    coarse = integrated_gradients(bent, values, baseline, (1e5,), steps=2, most_steps=9)
    assert coarse.steps == 6
    assert not coarse.complete.any()


def test_expected_gradients_are_a_mean_over_other_clips(rng):
    values = {m: rng.normal(size=(4, n)) for m, n in (("audio", 3), ("video", 2))}
    baselines = [{m: np.roll(x, k, axis=0) for m, x in values.items()} for k in (1, 2, 3)]
    found = expected_gradients(bent, values, baselines, (0.7,))
    each = [integrated_gradients(bent, values, baseline, (0.7,)) for baseline in baselines]
    for m in NAMES:
        mean = np.mean([one.attribution[m] for one in each], 0)
        np.testing.assert_allclose(found.attribution[m], mean, rtol=1e-12, atol=1e-14)
    score = np.asarray(bent({m: jnp.asarray(x) for m, x in values.items()}, 0.7))
    gap = score - np.mean([np.roll(score, k) for k in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(net(found.attribution, NAMES).sum(1), gap, rtol=0.01, atol=1e-3)
    assert (found.error == np.max([one.error for one in each], 0)).all()
    with pytest.raises(ValueError, match="at least one baseline"):
        expected_gradients(bent, values, [], (0.7,))


def test_nothing_to_share():
    with pytest.raises(Undefined, match="1 of 1 rows have nothing to share"):
        magnitude_shares(gradient_times_input(product, of(0, 0)), NAMES)


@functools.partial(jax.jit, static_argnums=2)
def logit(values, batch, graph, state):
    model = nnx.merge(graph, state, copy=True)
    streams = {m: stream.replace(values=values[m]) for m, stream in batch.streams.items()}
    return model(batch.replace(streams=streams)).logits["emotion"][:, 2]


@pytest.mark.slow
def test_values_that_are_not_valid_may_be_anything(rng):
    """Of a model: NaN in invalid steps is given 0, and the sum is complete all the same."""
    graph, params, *rest = split_model(tiny.config(size=Size(8, 1, 2), fusion_layer=0).build(nnx.Rngs(0)))
    params = nnx.as_pure(tiny.randomise(params, rng, 0.2))
    model = nnx.view(nnx.merge(graph, params, *rest), deterministic=True, raise_if_not_found=False)
    graph, state = nnx.split(model)
    batch = tiny.batch(rng, rows=2)
    streams = {}
    for m, stream in batch.streams.items():
        valid, values = np.array(stream.valid), np.array(stream.values)
        valid[:, -2:] = False
        values[:, -2:] = np.nan
        streams[m] = stream.replace(valid=jnp.asarray(valid), values=jnp.asarray(values))
    batch = jax.tree.map(jnp.asarray, batch.replace(streams=streams))

    def score(values, batch, state):
        return logit(values, batch, graph, state)

    values = {m: np.asarray(stream.values) for m, stream in streams.items()}
    zero = {m: np.zeros_like(x) for m, x in values.items()}
    found = integrated_gradients(score, values, zero, (batch, state), steps=16, most_steps=256)
    assert found.complete.all()
    for m in NAMES:
        assert np.isfinite(found.attribution[m]).all()
        assert not found.attribution[m][:, -2:].any()
        assert np.abs(found.attribution[m][:, :-2]).max() > 0
