"""Learned tokens for what is missing, around every system."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import systems
from avjax.nn.missing import WithMissingTokens
from avjax.nn.model import Embedded
from avjax.objectives.groups import WithGroups
from avjax.objectives.prototypes import WithPrototypes
from avjax.training.step import split_model
from tests.levels import in_short
from tests.models import tiny
from tests.models.systems import NAMES, batch, without

ROWS = 4
# Rows that lack the first modality, and all.
FIRST, NOTHING = 1, 2


@functools.cache
def made(name):
    """(configuration, parameters, and of (parameters, batch) the logits with learned tokens and without)."""
    inner = systems()[name].Config.tiny()
    graph, state = nnx.split(tiny.jit(lambda: WithMissingTokens(inner).build(nnx.Rngs(0)))())
    view = {"deterministic": True, "use_running_average": True, "raise_if_not_found": False}
    params, rest = nnx.split_state(state, nnx.Param, ...)
    params = tiny.randomise(params, np.random.default_rng(5), 0.1)

    @tiny.jit
    def filled(params, given):
        return nnx.view(nnx.merge(graph, params, rest, copy=True), **view)(given).logits

    @tiny.jit
    def by_hand(params, given):
        """The learned tokens in the place of what the encoders make, row by row."""
        model = nnx.view(nnx.merge(graph, params, rest, copy=True), **view)
        streams = {}
        for m in given.streams:
            tokens, rows = model.model.embedded(given, m), []
            for row in range(ROWS):
                gone = not np.asarray(lacking(name)[m])[row]
                one = model.missing[m][...].reshape(tokens.values.shape[1:]) if gone else tokens.values[row]
                rows.append((one, jnp.ones(len(one), bool) if gone else tokens.valid[row]))
            values, valid = (jnp.stack(part) for part in zip(*rows, strict=True))
            streams[m] = Embedded(values, valid, tokens.start, tokens.rate)
        return model.model(given.replace(streams=streams)).logits

    return inner, params, filled, by_hand


def lacking(name):
    """Modality -> which rows have it."""
    names = [encoder.modality for encoder in systems()[name].Config.tiny().modalities]
    return {m: [row not in ((FIRST, NOTHING) if not k else (NOTHING,)) for row in range(ROWS)]
            for k, m in enumerate(names)}  # fmt: skip


def incomplete(name, rng):
    config = made(name)[0]
    given = batch(config, rng, ROWS)
    for m, has in lacking(name).items():
        given = without(given, np.flatnonzero(~np.array(has)), m)
    return given


# Of pictures that are encoded further, of one encoder for two modalities, of segments.
@pytest.mark.slow
@pytest.mark.parametrize("name", in_short(NAMES, ("mbt", "kim_won", "aicanet", "psp")))
def test_every_system(name, rng):
    """Rows that lack something are given the learned tokens, all others their own; what is not there says nothing."""
    config, params, filled, by_hand = made(name)
    given = incomplete(name, rng)
    found, expected = filled(params, given), by_hand(params, given)
    assert found.keys() == expected.keys()
    for head in found:
        np.testing.assert_allclose(found[head], expected[head], rtol=1e-4, atol=1e-5, err_msg=head)
    first = config.modalities[0].modality
    stream = given.streams[first]
    other = given.replace(streams={**given.streams, first: stream.replace(
        values=np.where(stream.valid.reshape(stream.valid.shape + (1,) * (stream.values.ndim - 2)),
                        stream.values, np.nan))})  # fmt: skip
    again = filled(params, other)
    for head in found:
        np.testing.assert_array_equal(again[head], found[head])


@pytest.mark.slow
def test_tokens_learn_from_what_is_missing(rng):
    """Their gradient comes from rows that lack the modality, and where none does it is 0."""
    _, params, filled, _ = made("mbt")
    given = incomplete("mbt", rng)

    @tiny.jit
    def slopes(params, given, row):
        return jax.grad(lambda p: filled.__wrapped__(p, given)["emotion"][row].sum())(params)["missing"]

    names = list(given.streams)
    for row in range(ROWS):
        found = {m: np.abs(np.asarray(slopes(params, given, row)[m][...])).max() for m in names}
        assert {m for m in names if found[m] > 0} == {m for m in names if not lacking("mbt")[m][row]}


def test_nothing_changes_where_all_is_there(rng):
    _, params, filled, _ = made("mbt")
    config = made("mbt")[0]
    graph, _, *rest = split_model(config.build(nnx.Rngs(0)))
    given = batch(config, rng, ROWS)
    inner = tiny.jit(lambda p, b: nnx.merge(graph, p, *rest)(b).logits)(params["model"], given)
    for head, logits in filled(params, given).items():
        np.testing.assert_allclose(logits, inner[head], rtol=1e-4, atol=1e-5)


def test_goes_around_a_system_and_inside_what_has_terms():
    config = systems()["mbt"].Config.tiny()
    assert WithGroups(WithMissingTokens(config)).build(nnx.Rngs(0)).model.model.modalities == ("audio", "video")
    with pytest.raises(TypeError, match="put WithMissingTokens inside"):
        WithMissingTokens(WithPrototypes(config)).build(nnx.Rngs(0))
