"""Spiking neurons and attention against loops in float64, and the surrogate gradient against the chain rule by hand.

Everything runs in float64: a spike is a comparison, which float32 would round apart now and then.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.spiking import (
    MultimodalLIF,
    SpikingAttention,
    SpikingCrossAttention,
    SpikingMLP,
    SpikingPatchSplitting,
    Synapses,
    counting,
    energy,
    leaky_integrate_and_fire,
    mean_over,
    spike_rate,
)
from avjax.training.step import split_model
from tests.models import tiny


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def made(module, rng):
    """Parameters in float64, none at zero or one, and a function of them and the inputs.

    What comes out of a normalisation is lifted by one, or hardly a neuron would fire.
    """
    graph, params, buffers, constants = split_model(module)
    params, buffers = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (tiny.randomise(params, rng), buffers))
    params = jax.tree.map_with_path(lambda path, leaf: leaf + ("norm" in str(path) and "bias" in str(path)), params)
    return params, lambda p, *a: nnx.merge(graph, p, buffers, constants, copy=True)(*a)


def neurons(x, valid, threshold=1.0, tau=2.0):
    """Spikes [T, ...] of x [T, ...], step by step; valid has the shape of x."""
    membrane, spikes = np.zeros(x.shape[1:]), np.zeros(x.shape)
    for t in range(len(x)):
        for place in np.ndindex(x.shape[1:]):
            if valid[t][place]:
                membrane[place] += (x[t][place] - membrane[place]) / tau
                if membrane[place] >= threshold:
                    spikes[t][place], membrane[place] = 1, 0
    return spikes


def rows_of_neurons(x, valid, **options):
    """The same for [B, T, N, C] with valid [B, T, N]."""
    wide = np.broadcast_to(valid[..., None], x.shape)
    return np.stack([neurons(np.where(w, row, 0), w, **options) for row, w in zip(x, wide, strict=True)])


def batch_norm(x, valid, p):
    there = x[valid]
    normed = (x - there.mean(0)) / np.sqrt(there.var(0) + 1e-5) * p["scale"] + p["bias"]
    return np.where(valid[..., None], normed, 0)


def dense(x, valid, p):
    """LIF(BN(W x))."""
    return rows_of_neurons(batch_norm(x @ p["dense"]["kernel"], valid, p["norm"]), valid)


def noisy(x, valid, rng):
    return jnp.asarray(np.where(valid[..., None], x, rng.choice([np.nan, np.inf, 5.0], size=x.shape)))


@pytest.mark.parametrize(("threshold", "tau"), [(1.0, 2.0), (0.5, 3.0)])
def test_neurons_are_the_loop(threshold, tau, rng):
    x, valid = 2 * rng.normal(size=(3, 7, 5)) + 1, rng.random((3, 7, 5)) < 0.7
    valid[0], valid[1] = True, False
    hidden = jnp.asarray(np.where(valid, x, np.nan))
    got = leaky_integrate_and_fire(hidden, jnp.asarray(valid), threshold=threshold, decay_time=tau)
    want = np.stack([neurons(x[b], valid[b], threshold, tau) for b in range(3)])
    np.testing.assert_array_equal(got, want)
    assert 0 < want.sum() < valid.sum()
    everywhere = neurons(x[2], np.ones((7, 5), bool), threshold, tau)
    np.testing.assert_array_equal(
        leaky_integrate_and_fire(jnp.asarray(x[2:]), threshold=threshold, decay_time=tau)[0], everywhere
    )


def test_a_constant_current_fires_as_computed_by_hand():
    # m = 0.75, then 0.75 + 0.75 / 2 = 1.125: a spike at every second step.
    got = leaky_integrate_and_fire(jnp.full((1, 6), 1.5))
    np.testing.assert_array_equal(got[0], [0, 1, 0, 1, 0, 1])
    # A membrane at the threshold fires.
    assert leaky_integrate_and_fire(jnp.full((1, 1), 2.0))[0, 0] == 1
    # A step that is not there changes nothing.
    got = leaky_integrate_and_fire(jnp.full((1, 6), 1.5), jnp.asarray([[1, 0, 0, 1, 1, 1]], bool))
    np.testing.assert_array_equal(got[0], [0, 0, 0, 1, 0, 1])


def test_the_surrogate_gradient_is_the_chain_rule_through_time(rng):
    x, valid, weight = 2 * rng.normal(size=(9, 4)) + 1, rng.random((9, 4)) < 0.7, rng.normal(size=(9, 4))
    threshold, tau = 0.8, 2.0
    membrane, charged, fired = np.zeros(4), [], []
    for t in range(9):
        charged.append(membrane + (x[t] - membrane) / tau)
        fired.append(charged[t] >= threshold)
        membrane = np.where(valid[t], charged[t] * (1 - fired[t]), membrane)
    of_x, of_membrane = np.zeros((9, 4)), np.zeros(4)
    for t in reversed(range(9)):
        near = 1 / (1 + np.exp(-4 * (charged[t] - threshold)))
        # The reset passes no gradient through the spike.
        of_charged = weight[t] * 4 * near * (1 - near) + of_membrane * (1 - fired[t])
        of_x[t] = np.where(valid[t], of_charged / tau, 0)
        of_membrane = np.where(valid[t], of_charged * (1 - 1 / tau), of_membrane)

    def loss(x):
        spikes = leaky_integrate_and_fire(x[None], jnp.asarray(valid)[None], threshold=threshold, decay_time=tau)
        return (spikes[0] * weight).sum()

    got = jax.grad(loss)(jnp.asarray(np.where(valid, x, np.nan)))
    np.testing.assert_allclose(got, of_x, rtol=1e-12, atol=1e-13)
    assert (np.asarray(got)[valid] != 0).all()


def test_bfloat16_currents_have_a_float32_membrane():
    # 1/256 is lost beside 1 in bfloat16; the membrane gains it.
    x = jnp.asarray([[1.0, 1.0, 1.0, 1.0]], jnp.bfloat16)
    got = leaky_integrate_and_fire(x, threshold=1 - 2**-4)
    assert got.dtype == jnp.bfloat16
    # 1/2, 3/4, 7/8, 15/16.
    np.testing.assert_array_equal(got.astype(jnp.float32)[0], [0, 0, 0, 1])


def test_multimodal_neurons_share_a_membrane(rng):
    names = ("audio", "video")
    params, call = made(MultimodalLIF(names, threshold=0.7, rngs=nnx.Rngs(0)), rng)
    # Where a weight is next to nothing, or below it, nothing spikes.
    params = jax.tree.map(lambda weight: jnp.abs(weight) + 0.5, params)
    x = {m: 2 * rng.normal(size=(3, 6, 2, 4)) + 1 for m in names}
    valid = {m: rng.random((3, 6, 2)) < 0.6 for m in names}
    valid["audio"][0], valid["audio"][1], valid["video"][1] = False, False, False
    given = {m: noisy(x[m], valid[m], rng) for m in names}
    got = tiny.jit(call)(params, given, jax.tree.map(jnp.asarray, valid))
    weights = np.asarray(params["weights"])
    current = sum(weights[i] * np.where(valid[m][..., None], x[m], 0) for i, m in enumerate(names))
    want = rows_of_neurons(current, valid["audio"] | valid["video"], threshold=0.7)
    np.testing.assert_array_equal(got, want)
    assert want[0].any()
    assert not want[1].any()


@pytest.mark.parametrize("depth", [1, 2])
def test_patch_splitting_is_the_stem(depth, rng):
    params, call = made(SpikingPatchSplitting(2, 4, depth=depth, rngs=nnx.Rngs(0)), rng)
    x = rng.normal(size=(2, 3, 5, 8, 2))
    valid = np.array([[True, False, True], [True, True, True]])
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    given = noisy(x.reshape(2, 3, -1), valid, rng).reshape(x.shape)
    got = np.asarray(tiny.jit(call)(params, given, jnp.asarray(valid)))
    want = np.where(valid[..., None, None, None], x, 0)
    for stage in range(depth):
        want = stem_layer(want, valid, weights, stage)
        want = pool(want)
    want = want + stem_layer(want, valid, weights, depth)
    assert got.shape == (2, 3, {1: 3 * 4, 2: 2 * 2}[depth], 4)
    np.testing.assert_array_equal(got, want.reshape(got.shape))
    assert (got[~valid] == 0).all()
    assert set(np.unique(got)) <= {0, 1, 2}


def stem_layer(x, valid, weights, stage):
    """LIF(BN(conv(x))) of [B, T, Y, X, C]."""
    kernel = weights["convs"][stage]["kernel"]
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    out = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            for i in range(3):
                for j in range(3):
                    out[:, :, row, column] += padded[:, :, row + i, column + j] @ kernel[i, j]
    places = np.broadcast_to(valid[..., None, None], out.shape[:-1])
    normed = batch_norm(out, places, weights["norms"][stage])
    flat = normed.reshape(*out.shape[:2], -1, out.shape[-1])
    return rows_of_neurons(flat, places.reshape(flat.shape[:-1])).reshape(out.shape)


def pool(x):
    """The maximum of three by three at every second place."""
    rows, columns = (-(-extent // 2) for extent in x.shape[2:4])
    padded = np.pad(x, [(0, 0), (0, 0), (1, 2), (1, 2), (0, 0)], constant_values=-np.inf)
    out = np.zeros((*x.shape[:2], rows, columns, x.shape[-1]))
    for row in range(rows):
        for column in range(columns):
            out[:, :, row, column] = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].max((2, 3))
    return out


def attention(x, y, x_valid, y_valid, p, heads, over, threshold):
    """Score by score, without a softmax."""
    q, k, v = (
        dense(np.where(valid[..., None], z, 0), valid, p[name])
        for z, valid, name in ((x, x_valid, "query"), (y, y_valid, "key"), (y, y_valid, "value"))
    )
    batch, steps, places, width = q.shape
    size, out = width // heads, np.zeros(q.shape)
    for b, t, n, h in np.ndindex(batch, steps, places, heads):
        part = slice(h * size, (h + 1) * size)
        seen = [(t, m) for m in range(k.shape[2])] if over == "space" else [(s, n) for s in range(steps)]
        for at in seen:
            out[b, t, n, part] += (q[b, t, n, part] @ k[b][at][part]) * v[b][at][part] * 0.25
    return dense(rows_of_neurons(out, x_valid, threshold=threshold), x_valid, p["out"])


@pytest.mark.parametrize("kind", ["both", "spatial", "temporal"])
def test_cross_attention_is_its_definition(kind, rng):
    # One spike of query, key and value together is enough: 1/4 of current, half of it on the membrane.
    threshold = 0.1
    module = SpikingCrossAttention(6, 2, kind=kind, threshold=threshold, rngs=nnx.Rngs(0))
    params, call = made(module, rng)
    # A strong map, so that there are spikes to compare.
    params["map"]["kernel"] = params["map"]["kernel"] * 4
    places = 5 if kind == "spatial" else 3
    x, y = rng.integers(0, 3, (5, 4, 3, 6)).astype(float), rng.integers(0, 3, (5, 4, places, 6)).astype(float)
    x_valid, y_valid = rng.random((5, 4, 3)) < 0.8, rng.random((5, 4, places)) < 0.8
    x_valid[0], y_valid[0], x_valid[1], y_valid[2] = True, True, False, False
    tokens, complement = tiny.jit(call)(
        params, noisy(x, x_valid, rng), noisy(y, y_valid, rng), jnp.asarray(x_valid), jnp.asarray(y_valid)
    )
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    asks = x_valid & y_valid.any((1, 2))[:, None, None]
    over = {"both": ["space", "time"], "spatial": ["space"], "temporal": ["time"]}[kind]
    parts = [attention(x, y, asks, y_valid, weights["attention"][i], 2, axis, threshold) for i, axis in enumerate(over)]
    joined = np.zeros(x.shape)
    for b, t, n in np.argwhere(asks):
        if kind == "both":
            of_step = np.mean([parts[0][b, t, m] for m in range(3) if asks[b, t, m]], axis=0)
            of_place = np.mean([parts[1][b, s, n] for s in range(4) if asks[b, s, n]], axis=0)
            joined[b, t, n] = of_step * of_place
        else:
            joined[b, t, n] = parts[0][b, t, n]
    current = joined @ weights["map"]["kernel"] + weights["map"]["bias"]
    want = rows_of_neurons(current, asks, threshold=threshold)
    np.testing.assert_array_equal(complement, want)
    clean = np.where(x_valid[..., None], x, 0)
    np.testing.assert_allclose(tokens, clean + 1.5 * want)
    assert parts[0].any()
    # Without the other modality tokens pass as they are; without its own a row is 0.
    np.testing.assert_array_equal(tokens[2], clean[2])
    assert not np.asarray(tokens[1]).any()


def test_mlp_adds_its_spikes(rng):
    params, call = made(SpikingMLP(4, ratio=2, rngs=nnx.Rngs(0)), rng)
    x, valid = rng.normal(size=(3, 4, 2, 4)), rng.random((3, 4, 2)) < 0.7
    valid[0], valid[1] = True, False
    weights = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    want = dense(dense(np.where(valid[..., None], x, 0), valid, weights["up"]), valid, weights["down"])
    got = tiny.jit(call)(params, noisy(x, valid, rng), jnp.asarray(valid))
    np.testing.assert_array_equal(got, np.where(valid[..., None], x, 0) + want)
    assert want.any()


def test_gradients_are_finite_and_reach_everything(rng):
    module = SpikingCrossAttention(8, 2, threshold=0.1, rngs=nnx.Rngs(0))
    params, call = made(module, rng)
    x, y = rng.normal(size=(4, 3, 2, 8)), rng.normal(size=(4, 3, 2, 8))
    x_valid, y_valid = rng.random((4, 3, 2)) < 0.8, rng.random((4, 3, 2)) < 0.8
    x_valid[0], y_valid[0], x_valid[1], y_valid[2] = True, True, False, False
    inputs = noisy(x, x_valid, rng), noisy(y, y_valid, rng)

    def loss(p, x, y):
        return (call(p, x, y, jnp.asarray(x_valid), jnp.asarray(y_valid))[0] ** 2).sum()

    of_params, of_x, of_y = tiny.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, *inputs)
    for path, leaf in jax.tree.leaves_with_path(of_params):
        assert np.isfinite(leaf).all(), path
        assert np.asarray(leaf).any(), path
    for got, valid in ((of_x, x_valid), (of_y, y_valid)):
        assert np.isfinite(got).all()
        assert (np.asarray(got)[~valid] == 0).all()
        assert np.asarray(got)[0].any()


def test_bfloat16_tokens_stay_bfloat16(rng):
    module = SpikingCrossAttention(8, 2, threshold=0.1, rngs=nnx.Rngs(0))
    for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        assert len(leaf.get_metadata("axes")) == leaf.ndim, path
    graph, params, *rest = split_model(module)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    x, valid = jnp.asarray(rng.normal(size=(2, 3, 2, 8)), jnp.bfloat16), jnp.ones((2, 3, 2), bool)
    tokens, complement = tiny.jit(lambda p, *a: nnx.merge(graph, p, *rest, copy=True)(*a))(half, x, x, valid, valid)
    assert tokens.dtype == complement.dtype == jnp.bfloat16
    assert set(np.unique(complement.astype(jnp.float32))) <= {0, 1}


def test_means_over_nothing_are_zero():
    x = jnp.asarray([[[[1.0], [3.0]], [[jnp.nan], [5.0]]]])
    valid = jnp.asarray([[[True, True], [False, False]]])
    np.testing.assert_array_equal(mean_over(x, valid, axis=2)[0, :, 0, 0], [2, 0])
    np.testing.assert_array_equal(mean_over(x, valid, axis=1)[0, 0, :, 0], [1, 3])


def test_energy_counts_additions_and_products():
    layers = [Synapses(operations=100), Synapses(operations=50, rate=0.2)]
    assert energy(layers, steps=4) == pytest.approx(4 * (4.6 * 100 + 0.9 * 0.2 * 50))
    spikes = jnp.asarray([[[1.0, 0.0], [jnp.nan, 1.0], [1.0, 2.0]]])
    assert spike_rate(spikes, jnp.asarray([[True, False, True]])) == 1.0
    assert spike_rate(spikes, jnp.zeros((1, 3), bool)) == 0.0


@pytest.mark.slow
def test_counting_finds_every_layer(rng):
    """Stem, projections of attention, map and MLP, by hand; the first sees real numbers, the map a product of means."""
    stem = SpikingPatchSplitting(2, 4, depth=1, rngs=nnx.Rngs(0))
    across, mlp = SpikingCrossAttention(4, 2, rngs=nnx.Rngs(1)), SpikingMLP(4, rngs=nnx.Rngs(2))
    stem, across, mlp = (nnx.view(part, use_running_average=True) for part in (stem, across, mlp))
    image, valid = jnp.asarray(rng.normal(size=(2, 3, 4, 6, 2))), jnp.ones((2, 3), bool)
    spikes = stem(image, valid)
    places = jnp.ones(spikes.shape[:3], bool)
    with counting() as layers:
        stem(image, valid)
        across(spikes, spikes, places, places)
        mlp(spikes, places)
    dense = [6 * 4 * 4] * 8
    assert [layer.operations for layer in layers] == [24 * 9 * 8, 6 * 9 * 16, *dense, 6 * 16, 6 * 64, 6 * 64]
    assert [layer.rate is None for layer in layers] == [number in (0, 10) for number in range(13)]
    assert layers[2].rate == pytest.approx(float(spikes.mean()))
    assert float(energy(layers, 3)) > 3 * 4.6 * 24 * 9 * 8
    # Outside nothing is counted.
    mlp(spikes, places)
    assert len(layers) == 13


def test_heads_divide_the_width():
    with pytest.raises(ValueError, match="width 6 is not a multiple of heads 4"):
        SpikingAttention(6, 4, "space", rngs=nnx.Rngs(0))


def test_attention_over_time_pairs_places():
    module = SpikingAttention(4, 2, "time", rngs=nnx.Rngs(0))
    x, y = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2, 5, 4))
    with pytest.raises(ValueError, match="one stream has 3 and the other 5"):
        module(x, y, jnp.ones((1, 2, 3), bool), jnp.ones((1, 2, 5), bool))
