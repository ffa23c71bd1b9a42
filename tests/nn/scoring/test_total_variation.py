"""The proximal operator of total variation against all candidates for the minimiser; regions, gradients, errors."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.nn.scoring import denoise, sparsemax, tvmax
from tests.models import tiny


def edges_of(shape: tuple[int, ...], valid: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbours, both valid."""
    cells = np.arange(valid.size).reshape(shape)
    pairs = []
    for axis in range(len(shape)):
        first = np.take(cells, range(shape[axis] - 1), axis=axis).reshape(-1)
        second = np.take(cells, range(1, shape[axis]), axis=axis).reshape(-1)
        pairs += [(int(i), int(j)) for i, j in zip(first, second, strict=True) if valid[i] and valid[j]]
    return pairs


def minimiser(z: np.ndarray, weight: float, edges: list[tuple[int, int]]) -> np.ndarray:
    """The best of all x that a choice of equal, rising or falling for every edge leads to."""

    def objective(x: np.ndarray) -> float:
        return 0.5 * ((x - z) ** 2).sum() + weight * sum(abs(x[i] - x[j]) for i, j in edges)

    best = z
    for signs in itertools.product((-1, 0, 1), repeat=len(edges)):
        region = np.arange(len(z))
        for (i, j), sign in zip(edges, signs, strict=True):
            if sign == 0:
                region[region == region[j]] = region[i]
        pull = z.copy()
        for (i, j), sign in zip(edges, signs, strict=True):
            pull[i] -= weight * sign
            pull[j] += weight * sign
        x = np.array([pull[region == region[i]].mean() for i in range(len(z))])
        if objective(x) < objective(best):
            best = x
    return best


@pytest.mark.parametrize("shape", [(7,), (2, 3)])
@pytest.mark.parametrize("weight", [0.1, 0.8])
def test_it_is_the_minimiser_and_its_gradient(shape, weight, rng):
    size = int(np.prod(shape))
    z, valid = rng.normal(size=(2, size)), np.ones((2, size), bool)
    valid[1, rng.integers(size)] = False
    found = [minimiser(np.where(v, row, 0), weight, edges_of(shape, v)) for row, v in zip(z, valid, strict=True)]
    with jax.enable_x64(True):
        given = jnp.asarray(np.where(valid, z, np.nan))

        def call(z, w):
            return denoise(z, jnp.asarray(valid), weight=w, shape=shape)

        got = tiny.jit(call)(given, weight)
        np.testing.assert_allclose(np.where(valid, got, 0), found, atol=1e-9)
        # Between two borders the minimiser is linear in z and in the weight; with a hidden cell there are fewer to try.
        onto, along, step = rng.normal(size=size) * valid[1], rng.normal(size=size), 1e-6
        gradient = jax.grad(lambda z, w: (onto * call(z, w)[1]).sum(), argnums=(0, 1))
        of_z, of_weight = tiny.jit(gradient)(given, weight)
    edges = edges_of(shape, valid[1])

    def slope(of_z: np.ndarray, of_weight: float) -> float:
        ends = [minimiser(np.where(valid[1], z[1], 0) + s * of_z, weight + s * of_weight, edges) for s in (step, -step)]
        return (onto * (ends[0] - ends[1])).sum() / (2 * step)

    np.testing.assert_allclose((np.asarray(of_z)[1] * along).sum(), slope(along, 0), atol=1e-7)
    np.testing.assert_allclose(of_weight, slope(np.zeros(size), 1), atol=1e-7)


def test_regions_share_their_gradient():
    z = jnp.array([1.0, 1.1, 0.9, -2.0, -2.05])
    jacobian = tiny.jit(jax.jacobian(lambda z: denoise(z, weight=0.3)))(z)
    want = np.zeros((5, 5))
    want[:3, :3], want[3:, 3:] = 1 / 3, 1 / 2
    np.testing.assert_allclose(jacobian, want, atol=1e-6)


def test_tvmax_is_flat_where_the_scores_nearly_are(rng):
    image = np.full((6, 6), -3.0)
    image[1:4, 2:5] = 2.0
    noisy = jnp.asarray(image + 0.05 * rng.normal(size=image.shape), jnp.float32).reshape(1, 36)
    weights = np.asarray(tiny.jit(lambda z: tvmax(z, weight=0.3, shape=(6, 6)))(noisy)).reshape(6, 6)
    np.testing.assert_allclose(weights, np.where(image > 0, 1 / 9, 0), atol=1e-6)
    assert len(np.unique(np.asarray(sparsemax(noisy)))) > 3


def test_no_variation_costs_nothing(rng):
    z = jnp.asarray(rng.normal(size=(3, 12)), jnp.float32)
    call = tiny.jit(lambda z, weight: denoise(z, weight=weight, shape=(3, 4)))
    # Neighbours as near as the regions' tolerance, 1e-4 of the greatest score, are one region.
    np.testing.assert_allclose(call(z, 0.0), z, atol=2e-4 * float(jnp.abs(z).max()))
    np.testing.assert_allclose(call(z, 50.0), np.tile(z.mean(-1, keepdims=True), 12), atol=1e-5)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"a grid of \(2, 3\) has 6 cells, but there are 7 keys"):
        tvmax(jnp.zeros((1, 7)), shape=(2, 3))
