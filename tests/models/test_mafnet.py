"""Modality and temporal attention, and the rule that trains modalities in turn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.training.rules import RandomModalityUpdate
from avjax.training.step import split_model
from tests.models.systems import batch, forward, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def test_one_softmax_over_both(rng):
    config, _ = small("mafnet")
    made = without(without(batch(config, rng, 3), [1, 2], "video"), [2], "audio")
    weights = forward("mafnet")(made).aux["attention_over_time"]
    total = {m: np.asarray(weights[m]).sum(1) for m in weights}
    np.testing.assert_allclose(total["audio"] + total["video"], [1, 1, 0], rtol=1e-5)
    assert total["video"][0] > 0
    np.testing.assert_array_equal(total["video"][1:], 0)


def test_a_step_trains_what_its_rule_says():
    """A step trains everything, or what belongs to one modality."""
    _, model = small("mafnet")
    ones = jax.tree.map(jnp.ones_like, nnx.to_pure_dict(split_model(model)[1]))
    rule = RandomModalityUpdate(all=0.0, share=(1.0, 0.0))
    kept = rule(ones, {}, jnp.int32(0), jax.random.key(0))
    assert float(kept["modulated"]["audio"]["first"]["kernel"].min()) == 1
    assert float(kept["project"]["video"]["kernel"].max()) == 0
    assert float(kept["pool"]["pool"]["hidden"]["kernel"].min()) == 1
