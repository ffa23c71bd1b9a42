"""Fixed positions against their formulas, element by element in float64."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.positions import counted_sinusoidal, sinusoidal, sinusoidal_2d


def test_sines_and_cosines_alternate():
    got = sinusoidal(7, 6)
    want = np.zeros((7, 6))
    for p in range(7):
        for i in range(3):
            angle = p / 10000 ** (2 * i / 6)
            want[p, 2 * i], want[p, 2 * i + 1] = math.sin(angle), math.cos(angle)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_two_axes():
    got = np.asarray(sinusoidal_2d(3, 4, 8)).reshape(3, 4, 8)
    for r in range(3):
        for c in range(4):
            want = []
            for place in (r, c):
                angles = [place / 10000 ** (4 * i / 8) for i in range(2)]
                want += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            np.testing.assert_allclose(got[r, c], want, atol=1e-5)


def test_mult_counts_what_is_valid(rng):
    valid = rng.random((3, 9)) < 0.6
    valid[0] = False
    got = counted_sinusoidal(jnp.asarray(valid), 6)
    for row in range(3):
        count = 0
        for n in range(9):
            want = np.zeros(6)
            if valid[row, n]:
                count += 1
                for i in range(3):
                    angle = count * math.exp(-math.log(10000) / 2 * i)
                    want[i], want[3 + i] = math.sin(angle), math.cos(angle)
            np.testing.assert_allclose(got[row, n], want, atol=1e-5)


@pytest.mark.parametrize("call", [lambda: sinusoidal(2, 5), lambda: sinusoidal_2d(2, 2, 6)])
def test_widths_that_do_not_divide(call):
    with pytest.raises(ValueError, match="is not a multiple of"):
        call()
