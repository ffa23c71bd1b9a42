"""Who hears whom under each attention, and the loss of matching sound and picture."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import hendricks
from avjax.training.step import split_model
from tests.models import tiny
from tests.models.systems import batch, forward, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

# attention -> what of (audio, video) changes with the other.
HEARS = {
    "merged": (True, True),
    "co": (True, True),
    "asymmetric": (True, False),
    "single": (False, False),
    "single_stream": (True, True),
    "mixed": (True, True),
}


@pytest.mark.parametrize("attention", HEARS)
def test_who_hears_whom(attention, rng):
    config = dataclasses.replace(hendricks.Config.tiny(), attention=attention, matching=False)
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = tiny.randomise(params, rng, 0.2)
    run = tiny.jit(lambda made: nnx.merge(graph, params, *rest)(made).tokens)
    made = jax.tree.map(jnp.asarray, batch(config, rng, 2))
    whole = run(made)
    for own, other, hears in (("audio", "video", 0), ("video", "audio", 1)):
        stream = made.streams[other]
        changed = run(made.replace(streams={**made.streams, other: stream.replace(values=stream.values + 1)}))
        moved = float(jnp.abs(changed[own].values - whole[own].values).max())
        assert (moved > 1e-4) == HEARS[attention][hears], f"{own} in {attention}"


def test_matching_is_of_neighbours(rng):
    """-log sigmoid(s) - log sigmoid(-s') over the rows that are whole, s' with the neighbour's picture."""
    config = hendricks.Config.tiny()
    made = without(batch(config, rng, 5), [3], "audio").replace(weight=np.array([1, 2, 1, 1, 0], np.float32))
    output = forward("hendricks")(made)
    picture = made.streams["video"]
    exchanged = made.replace(
        streams={**made.streams, "video": picture.replace(values=np.roll(picture.values, 1, axis=0))}
    )
    own, other = (np.float64(forward("hendricks")(x).aux["matching"]) for x in (made, exchanged))
    rows = np.log1p(np.exp(-own)) + np.log1p(np.exp(other))
    # Row 0's neighbour is a filler row, row 3 has no sound, row 4 does not count.
    weight = np.array([0, 2, 1, 0, 0])
    assert float(output.aux["losses"]["matching"].value) == pytest.approx(np.average(rows, weights=weight), rel=1e-4)


def test_attention_is_between_two():
    with pytest.raises(ValueError, match="one of which is touch"):
        dataclasses.replace(hendricks.Config.tiny(), attending="touch")
