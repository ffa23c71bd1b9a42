"""Programs of a diagnosis give what any compilation gives."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from avjax.diagnostics.compiled import compiled


def test_it_is_the_same_function(rng):
    values = rng.normal(size=(5, 3)).astype(np.float32)
    program = compiled(lambda x, power: jnp.tanh(x) ** power, static_argnames="power")
    np.testing.assert_allclose(program(values, power=2), np.tanh(values) ** 2, rtol=1e-5, atol=1e-7)
