"""The effect of attention: its definition, and no effect."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.objectives.counterfactual import attention_effect


def test_effect_is_the_difference(rng):
    logits, other = rng.normal(size=(2, 4, 3))
    target, weight = np.eye(3)[[0, 2, 1, 1]], np.array([1, 2, 0, 1])
    effect = logits - other
    rows = -(target * (effect - np.log(np.exp(effect).sum(1, keepdims=True)))).sum(1)
    logits[2] = np.nan
    arrays = [jnp.asarray(x, "float32") for x in (logits, other, target, weight)]
    assert float(attention_effect(*arrays).value) == pytest.approx(np.average(rows, weights=weight), rel=1e-5)
    # Attention that changes nothing says nothing of the class.
    none = attention_effect(arrays[1], *arrays[1:])
    assert float(none.value) == pytest.approx(np.log(3), rel=1e-6)
