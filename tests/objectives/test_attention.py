"""Losses on attention statistics against their formulas, in NumPy; what has no say; gradients."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.statistics import Site
from avjax.objectives.attention import AttentionTerms, balance, decorrelation, entropy_floor, instability
from avjax.streams import Batch, Output, Stream
from kernels.attention import Layout

LAYERS, ROWS, HEADS, LAYOUT = 2, 5, 3, Layout.of(audio=3, video=4)
TOKENS = LAYOUT.length


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def made(rng, layout=LAYOUT) -> Site:
    """Masses that sum to 1, but for queries that see nothing."""
    shape = (LAYERS, ROWS, HEADS, layout.length)
    alive = rng.random((1, ROWS, 1, layout.length)) < 0.8
    mass = softmax(rng.normal(size=(*shape, len(layout.names)))) * alive[..., None]
    entropy = rng.uniform(0, np.log(layout.length), shape) * alive
    return with_mass(Site({"entropy": jnp.asarray(entropy, jnp.float32)}, layout, layout, (7, 4)), mass)


def with_mass(site, mass) -> Site:
    return dataclasses.replace(site, statistics={**site.statistics, "mass": jnp.asarray(mass, jnp.float32)})


def loops(site, weight, term):
    """Mean by weight of ``term(layer, row, head, query)`` over all queries that attend to anything."""
    total = count = 0.0
    weight, masses = np.asarray(weight), np.asarray(site["mass"])
    for layer in range(LAYERS):
        for row in range(ROWS):
            for head in range(HEADS):
                for query in range(TOKENS):
                    if masses[layer, row, head, query].sum() > 0.5:
                        total += weight[row] * term(layer, row, head, query)
                        count += weight[row]
    return total / count


WEIGHT = jnp.array([1, 1, 0.5, 0, 1], jnp.float32)


def test_balance_is_the_divergence_of_the_mean_mass(rng):
    site, prior = made(rng), np.array([0.3, 0.7], np.float32)
    expected = 0.0
    for layer in range(LAYERS):
        mean = np.zeros(2)
        for row in range(ROWS):
            mean += np.asarray(WEIGHT)[row] * np.asarray(site["mass"])[layer, row].sum((0, 1))
        mean /= mean.sum()
        expected += sum(prior * (np.log(prior) - np.log(mean)))
    assert float(balance(site, prior, WEIGHT).value) == pytest.approx(expected, rel=1e-4)
    # As the prior has it: nothing to pay.
    even = with_mass(site, np.broadcast_to(prior, site["mass"].shape))
    assert float(balance(even, prior, WEIGHT).value) == pytest.approx(0, abs=1e-6)


def test_balance_has_the_gradient_of_the_definition(rng):
    """-(prior_g / mean_g) / count for every query that counts (diagnostics, section 7.3)."""
    site, prior = made(rng), np.array([0.3, 0.7], np.float32)
    ones = jnp.ones(ROWS)
    mass = jnp.asarray(softmax(rng.normal(size=site["mass"].shape)), jnp.float32)

    def loss(mass):
        return balance(with_mass(site, mass), prior, ones).value

    count = ROWS * HEADS * TOKENS
    mean = np.asarray(mass).mean((1, 2, 3), keepdims=True)
    expected = np.broadcast_to(-prior / mean / count, mass.shape)
    np.testing.assert_allclose(jax.grad(loss)(mass), expected, rtol=1e-4)


def test_entropy_floor_is_its_definition(rng):
    site = made(rng)
    highest = np.log([7] * 3 + [4] * 4)

    def lacking(layer, row, head, query):
        return max(0.6 - float(site["entropy"][layer, row, head, query]) / highest[query], 0) ** 2

    expected = loops(site, WEIGHT, lacking)
    assert expected > 0.01
    assert float(entropy_floor(site, 0.6, WEIGHT).value) == pytest.approx(expected, rel=1e-4)
    assert float(entropy_floor(site, 0.0, WEIGHT).value) == 0


def test_decorrelation_is_the_mean_over_pairs_of_heads(rng):
    site = made(rng)

    def pairs(layer, row, head, query):
        masses = np.asarray(site["mass"])[layer, row, :, query]
        return np.mean([masses[a] @ masses[b] for a in range(HEADS) for b in range(HEADS) if a != b])

    assert float(decorrelation(site, WEIGHT).value) == pytest.approx(loops(site, WEIGHT, pairs), rel=1e-4)
    alike = np.broadcast_to([1, 0], site["mass"].shape)
    assert float(decorrelation(with_mass(site, alike), WEIGHT).value) == 1


def test_instability_is_the_divergence_of_two_views(rng):
    one = made(rng)
    alive = one["mass"].sum(-1, keepdims=True) > 0.5
    two = with_mass(one, softmax(rng.normal(size=one["mass"].shape)) * alive)

    def divergence(layer, row, head, query):
        p, q = (np.asarray(site["mass"])[layer, row, head, query] for site in (one, two))
        m = (p + q) / 2
        return (np.sum(p * np.log2(p / m)) + np.sum(q * np.log2(q / m))) / 2

    found = float(instability(one, two, WEIGHT).value)
    assert found == pytest.approx(loops(one, WEIGHT, divergence), rel=1e-4)
    assert 0 < found < 1
    assert float(instability(one, one, WEIGHT).value) == pytest.approx(0, abs=1e-6)
    apart = [with_mass(one, np.broadcast_to(np.eye(2)[k], one["mass"].shape)) for k in (0, 1)]
    assert float(instability(*apart, WEIGHT).value) == pytest.approx(1, rel=1e-5)


def test_gradients_are_numbers_where_mass_is_all_on_one_side(rng):
    site = made(rng)
    hard = jnp.broadcast_to(jnp.eye(2)[0], site["mass"].shape) * (site["mass"].sum(-1, keepdims=True) > 0.5)
    prior = np.array([0.5, 0.5], np.float32)

    def loss(mass):
        one, other = with_mass(site, mass), with_mass(site, mass[..., ::-1])
        terms = (balance(one, prior, WEIGHT), decorrelation(one, WEIGHT), instability(one, other, WEIGHT))
        return sum(term.value for term in terms)

    with jax.debug_nans(True):
        assert np.isfinite(jax.grad(loss)(hard)).all()


def output_and_batch(rng, **aux):
    streams = {
        "audio": Stream(rng.normal(size=(ROWS, 3, 2)), np.ones((ROWS, 3), bool), np.zeros(ROWS), 1.0),
        "video": Stream(rng.normal(size=(ROWS, 4, 2)), np.ones((ROWS, 4), bool), np.zeros(ROWS), 1.0),
    }
    streams["video"].valid[1] = False
    streams = jax.tree.map(jnp.asarray, streams)
    logits = {"emotion": jnp.asarray(rng.normal(size=(ROWS, 4)), jnp.float32)}
    target = {"emotion": jnp.eye(4)[rng.integers(0, 4, ROWS)]}
    return Output(logits, streams, aux), Batch(streams, target, jnp.ones(ROWS), np.arange(ROWS))


def test_terms_are_added_by_weight_and_told_whatever_it_is(rng):
    site = made(rng)
    output, batch = output_and_batch(rng, attention={"here": site})
    second = dataclasses.replace(output, aux={"attention": {"here": made(rng)}})
    output = dataclasses.replace(output, aux={**output.aux, "second_view": second})
    plain, parts = AttentionTerms(site="here")(output, batch)
    names = {"attention/balance", "attention/entropy", "attention/decorrelation", "attention/stability"}
    assert names <= set(parts)
    weights = {"balance": 0.5, "entropy": 2.0, "decorrelation": 3.0, "stability": 4.0}
    loss, again = AttentionTerms(site="here", **weights)(output, batch)
    expected = float(plain) + sum(weight * float(parts[f"attention/{name}"].value) for name, weight in weights.items())
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, parts, again)
    # A clip without pictures had no choice: its masses do not count.
    mass = np.array(site["mass"])
    mass[:, 1] = mass[:, 1, :, :, ::-1]
    other = with_mass(site, mass)
    changed = dataclasses.replace(output, aux={**output.aux, "attention": {"here": other}})
    jax.tree.map(np.testing.assert_array_equal, parts, AttentionTerms(site="here")(changed, batch)[1])


def test_wrong_settings_are_told(rng):
    output, batch = output_and_batch(rng, attention={"here": made(rng)})
    with pytest.raises(ValueError, match=r"no attention at 'there'; set --objective.site to one of here"):
        AttentionTerms(site="there")(output, batch)
    with pytest.raises(ValueError, match="a share above 0 for each of audio, video, got"):
        AttentionTerms(site="here", prior=(1.0,))(output, batch)
    assert AttentionTerms(stability=1.0).needs_second_view
    assert not AttentionTerms(balance=1.0).needs_second_view
