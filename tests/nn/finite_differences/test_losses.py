"""Gradients of losses."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives import balance, contrastive, counterfactual, reconstruction, regression, sequence
from tests.nn.finite_differences.derivative import (
    ROWS,
    STEPS,
    WIDTH,
    X,
    assert_gradients,
    function,
    normal,
    parameters,
    positive,
    valid,
)

VECTOR = normal(5, WIDTH)
TARGET = np.cos(np.arange(ROWS * STEPS * WIDTH)).reshape(ROWS, STEPS, WIDTH)


def labels(rng):
    return jnp.asarray([0, 1, 1, 0, 2])


def distribution(rng):
    return jnp.asarray(rng.dirichlet(np.ones(3), size=5))


def ones(*shape):
    return lambda rng: jnp.ones(shape)


def loss(of, *draws, call=None, **options):
    """Of a function that returns a Mean."""
    call = functools.partial(call or of, **options)
    return function(of, *draws, call=lambda *arguments: call(*arguments).value)


CASES = {
    "relative distance": loss(contrastive.relative_distance, VECTOR, VECTOR, labels, ones(5)),
    "noise contrastive": loss(contrastive.info_nce, VECTOR, VECTOR, ones(5)),
    "alignment": loss(contrastive.supervised_alignment, VECTOR, VECTOR, labels, ones(5), temperature=0.5),
    "triplet": loss(contrastive.triplet, VECTOR, VECTOR, labels, ones(5)),
    "diversity": loss(contrastive.diversity, X, valid, ones(ROWS)),
    "concordance": function(regression.concordance, normal(5, 2), normal(5, 2), positive(5), quick=True),
    "ctc": loss(
        sequence.ctc,
        normal(2, 6, 4),
        lambda rng: jnp.asarray([[1, 1, 2], [3, 0, 0]]),
        lambda rng: jnp.ones((2, 6), bool),
        ones(2),
    ),
    "reconstruction": loss(
        reconstruction.masked_reconstruction,
        X,
        valid,
        call=lambda x, hidden: reconstruction.masked_reconstruction(x, jnp.asarray(TARGET), hidden, jnp.ones(ROWS)),
    ),
    "counterfactual": loss(counterfactual.attention_effect, normal(5, 3), normal(5, 3), distribution, ones(5)),
    "distance to prototypes": function(
        balance.prototype_logits,
        VECTOR,
        call=lambda z: balance.prototype_logits(z, 2 * jnp.eye(3, 4), jnp.ones(3, bool)),
    ),
}


@pytest.mark.parametrize("case", parameters(CASES))
def test_gradients(case, rng):
    assert_gradients(case, rng)
