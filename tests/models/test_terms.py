"""The terms that systems report of themselves: numbers whatever is missing, and blind to filler rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.streams import Mean
from avjax.training.step import split_model
from tests.levels import in_part
from tests.models import tiny
from tests.models.systems import batch, small, without
from tests.models.test_s_cmrl import lift

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

TERMS = {
    "aicanet": {"distance", "modality", "coefficient"},
    "com": {"contrastive", "reconstruction"},
    "niat": {"noisy", "imitation", "discrimination"},
    "s_cmrl": {"alignment"},
}


def measured(name):
    """params, and a function of (params, batch) to the terms and the gradient of their sum, as in training."""
    graph, params, buffers, constants = split_model(small(name)[1])
    params = jax.tree.map_with_path(lift, params)

    def total(params, made):
        model = nnx.merge(graph, params, buffers, constants, copy=True)
        model = nnx.view(model, deterministic=True, use_running_average=False, raise_if_not_found=False)
        terms = model(made).aux["losses"]
        return sum(term.value for term in terms.values()), terms

    return params, tiny.jit(jax.grad(total, has_aux=True))


@pytest.mark.parametrize("name", TERMS)
def test_terms_are_numbers_whatever_is_missing(name, rng):
    config, _ = small(name)
    made = batch(config, rng, 7)
    # Row 0 lacks the first modality, row 1 the last, row 2 everything; what is not valid is no number.
    made = without(made, [0, 2], config.modalities[0].modality)
    for encoder in config.modalities[1:]:
        made = without(made, [1, 2] if encoder is config.modalities[-1] else [2], encoder.modality)
    for encoder in config.modalities:
        stream = made.streams[encoder.modality]
        values = np.array(stream.values)
        values[~np.asarray(stream.valid)] = np.nan
        made.streams[encoder.modality] = stream.replace(values=values)
    made = made.replace(weight=np.array([1] * 6 + [0], np.float32))
    params, run = measured(name)
    gradient, terms = run(params, jax.tree.map(jnp.asarray, made))
    assert set(terms) == TERMS[name]
    for term in terms.values():
        assert isinstance(term, Mean)
        assert np.isfinite(term.total)
        assert term.weight > 0
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any(np.abs(leaf).max() > 0 for leaf in leaves)


@pytest.mark.parametrize("name", in_part(tuple(TERMS), one_of=4))
def test_terms_of_nothing_are_nothing(name, rng):
    """A batch of filler rows alone."""
    config, _ = small(name)
    params, run = measured(name)
    made = batch(config, rng, 5).replace(weight=np.zeros(5, np.float32))
    gradient, terms = run(params, jax.tree.map(jnp.asarray, made))
    for term in terms.values():
        assert term.total == 0
        assert term.weight == 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))
