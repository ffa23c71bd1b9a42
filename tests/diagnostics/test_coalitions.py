"""Coalitions of models whose tokens are sets, against one call of the whole model for each of them."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics import coalitions
from avjax.diagnostics.coalitions import SetCoalitions, are_sets
from avjax.diagnostics.players import filled, raw_players, token_players
from avjax.models import late_fusion
from avjax.nn.missing import WithMissingTokens
from avjax.nn.transformer import Size
from avjax.objectives.prototypes import WithPrototypes
from avjax.streams import Batch
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import SETS, batch, small, without

ROWS = 3
# Of the small MBT's layers no more than one fuses; of these three, what the first makes goes through another.
DEEP = "mbt, three fusion layers"
CASES = (*SETS, DEEP)
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def made(model):
    """(steps, state) of a model over features as they are."""
    steps, params, buffers = tiny.steps(model)
    return steps, steps.create(params, buffers)


def features(streams) -> Batch:
    return Batch(dict(streams), {}, np.ones(ROWS, np.float32), np.zeros(ROWS, np.int32))


def model_of(name):
    """(configuration, model), every parameter drawn anew."""
    if name != DEEP:
        return small(name)
    config = tiny.config(size=Size(16, 4, 2))
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    return config, nnx.merge(graph, tiny.randomise(params, np.random.default_rng(5), 0.1), *rest)


@functools.cache
def program(name):
    """(configuration, programs of coalitions, state, logits of the whole model)."""
    config, model = model_of(name)
    steps, state = made(model)
    whole = SetCoalitions(steps, next(iter(config.classes)), features, HERE)

    @tiny.jit
    def logits(state, streams, keep):
        return steps.output(state, features(streams), keep).logits[whole.head]

    return config, whole, state, logits


def sets_of(rng, number, players):
    """Walks of some players in random order, all and none among them."""
    order = rng.permuted(np.tile(np.arange(players), (number, 1)), axis=1)
    walks = np.argsort(order, axis=1)[:, None] < np.arange(players + 1)[:, None]
    return walks.reshape(-1, players)


@pytest.mark.slow
@pytest.mark.parametrize("many", [0, 10**9], ids=["cut", "hidden"])
@pytest.mark.parametrize("name", CASES)
def test_tokens(name, many, rng, monkeypatch):
    """With hidden tokens cut out, and where they stay; rows that lack a modality, and gaps, among them."""
    monkeypatch.setattr(coalitions, "MANY", many)
    config, whole, state, logits = program(name)
    given = batch(config, rng, ROWS)
    for encoder in config.modalities:
        stream = given.streams[encoder.modality]
        given.streams[encoder.modality] = stream.replace(valid=rng.random(stream.valid.shape) < 0.8)
    given = without(given, [1], config.modalities[0].modality)
    players = token_players({encoder.modality: (encoder.tokens,) for encoder in config.modalities}, 4)
    kept = sets_of(rng, 4, len(players))
    found = whole.logits(state, given.streams, kept, players, {})
    assert found.shape == (len(kept), ROWS, config.classes[whole.head])
    for own, row in zip(found, kept, strict=True):
        keep = {m: np.tile(row[where], (ROWS, 1)) for m, where in players.where.items()}
        np.testing.assert_allclose(own, logits(state, given.streams, keep), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_raw(name, rng):
    config, whole, state, logits = program(name)
    given = without(batch(config, rng, ROWS), [1], config.modalities[0].modality)
    players = raw_players(given.streams, 4)
    baseline = {encoder.modality: np.full((), 0.25, np.float32) for encoder in config.modalities}
    kept = sets_of(rng, 2, len(players))
    every = {e.modality: np.ones((ROWS, e.tokens), bool) for e in config.modalities}
    found = whole.logits(state, given.streams, kept, players, baseline)
    for own, row in zip(found, kept, strict=True):
        expected = logits(state, filled(given.streams, row, players, baseline), every)
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_encoded_twice(rng, monkeypatch):
    """A walk of n players sees each modality in one state more than it has players."""
    config, whole, state, _ = program(SETS[0])
    given = batch(config, rng, ROWS)
    players = token_players({encoder.modality: (encoder.tokens,) for encoder in config.modalities}, 4)
    kept, calls = sets_of(rng, 1, len(players)), []
    alone = whole._alone
    monkeypatch.setitem(whole.__dict__, "_alone", lambda *a: calls.append(a[-1]) or alone(*a))
    whole.logits(state, given.streams, kept, players, {})
    assert sorted(calls) == sorted(m for m in players.names for _ in range(players.of(m).sum() + 1))


@pytest.mark.slow
def test_which_models_these_are():
    """Not one that calls itself otherwise; terms of a loss around a model change nothing."""
    assert {"mbt", "late_fusion"} <= set(SETS)
    config = late_fusion.Config.tiny()

    class Otherwise(late_fusion.LateFusion):
        def __call__(self, batch, keep=None):
            return super().__call__(batch, keep)

    assert are_sets(*made(config.build(nnx.Rngs(0))))
    assert are_sets(*made(WithPrototypes(config).build(nnx.Rngs(0))))
    assert not are_sets(*made(Otherwise(config, rngs=nnx.Rngs(0))))
    assert not are_sets(*made(small("mult")[1]))
    # What is missing has tokens of its own there, which cutting tokens out would pass by.
    assert not are_sets(*made(WithMissingTokens(config).build(nnx.Rngs(0))))
