"""Coalitions of models whose tokens are sets, against one call of the whole model for each of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics import coalitions
from avjax.diagnostics.coalitions import SetCoalitions, are_sets
from avjax.diagnostics.players import filled, raw_players, token_players
from avjax.models import late_fusion
from avjax.objectives.prototypes import WithPrototypes
from avjax.streams import Batch
from tests.models import tiny
from tests.models.systems import SETS, batch, forward, small, without

ROWS = 3
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def made(model):
    """(steps, state) of a model over features as they are."""
    steps, params, buffers = tiny.steps(model)
    return steps, steps.create(params, buffers)


def features(streams) -> Batch:
    return Batch(dict(streams), {}, np.ones(ROWS, np.float32), np.zeros(ROWS, np.int32))


def program(name):
    config, model = small(name)
    steps, state = made(model)
    return SetCoalitions(steps, next(iter(config.classes)), features, HERE), state


def sets_of(rng, number, players):
    """Walks of some players in random order, all and none among them."""
    order = rng.permuted(np.tile(np.arange(players), (number, 1)), axis=1)
    walks = np.argsort(order, axis=1)[:, None] < np.arange(players + 1)[:, None]
    return walks.reshape(-1, players)


@pytest.mark.slow
@pytest.mark.parametrize("many", [0, 10**9], ids=["cut", "hidden"])
@pytest.mark.parametrize("name", SETS)
def test_tokens(name, many, rng, monkeypatch):
    """With hidden tokens cut out, and where they stay; rows that lack a modality, and gaps, among them."""
    monkeypatch.setattr(coalitions, "MANY", many)
    config, _ = small(name)
    given = batch(config, rng, ROWS)
    for encoder in config.modalities:
        stream = given.streams[encoder.modality]
        given.streams[encoder.modality] = stream.replace(valid=rng.random(stream.valid.shape) < 0.8)
    given = without(given, [1], config.modalities[0].modality)
    players = token_players({encoder.modality: (encoder.tokens,) for encoder in config.modalities}, 4)
    kept = sets_of(rng, 4, len(players))
    whole, state = program(name)
    found = whole.logits(state, given.streams, kept, players, {})
    assert found.shape == (len(kept), ROWS, config.classes[whole.head])
    for own, row in zip(found, kept, strict=True):
        keep = {m: np.tile(row[where], (ROWS, 1)) for m, where in players.where.items()}
        expected = forward(name)(given, keep).logits[whole.head]
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_raw(name, rng):
    config, _ = small(name)
    given = without(batch(config, rng, ROWS), [1], config.modalities[0].modality)
    players = raw_players(given.streams, 4)
    baseline = {encoder.modality: np.full((), 0.25, np.float32) for encoder in config.modalities}
    kept = sets_of(rng, 2, len(players))
    whole, state = program(name)
    found = whole.logits(state, given.streams, kept, players, baseline)
    for own, row in zip(found, kept, strict=True):
        expected = forward(name)(given.replace(streams=filled(given.streams, row, players, baseline)))
        np.testing.assert_allclose(own, expected.logits[whole.head], rtol=1e-4, atol=1e-5)


def test_nothing_is_encoded_twice(rng, monkeypatch):
    """A walk of n players sees each modality in one state more than it has players."""
    name = SETS[0]
    config, _ = small(name)
    whole, state = program(name)
    given = batch(config, rng, ROWS)
    players = token_players({encoder.modality: (encoder.tokens,) for encoder in config.modalities}, 4)
    kept, calls = sets_of(rng, 1, len(players)), []
    encode = whole._encode
    monkeypatch.setitem(whole.__dict__, "_encode", lambda *a: calls.append(a[-1]) or encode(*a))
    whole.logits(state, given.streams, kept, players, {})
    assert sorted(calls) == sorted(m for m in players.names for _ in range(players.of(m).sum() + 1))


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
