"""Continuous attention against numerical integration, moments and mixtures against NumPy, what is hidden."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.scoring import Basis, ContinuousAttention, Mixture, context, fit, moments, shortest, single, softmax
from tests.models import tiny

TIME, IMAGE = Basis((9,), count=6, variance=0.004), Basis((4, 3), count=3, variance=0.02)
JITTER = 1e-6


def normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Density of x [..., n]."""
    apart = x - mean
    square = np.einsum("...n,nm,...m->...", apart, np.linalg.inv(covariance), apart)
    return np.exp(-square / 2) / np.sqrt(np.linalg.det(2 * np.pi * covariance))


def weighted_moments(w: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = sum(a * x for a, x in zip(w, t, strict=True))
    second = sum(a * np.outer(x, x) for a, x in zip(w, t, strict=True))
    return mean, second - np.outer(mean, mean) + JITTER * np.eye(len(mean))


def expectation_maximisation(w, t, start, share, iterations, variance=0.001):
    """Shares, means, covariances and weighted log likelihood, component by component."""
    count, size = start.shape
    share, mean, covariance = share.copy(), start.copy(), [variance * np.eye(size)] * count
    for _ in range(iterations):
        density = np.stack([share[k] * normal(t, mean[k], covariance[k]) for k in range(count)])
        member = w * density / density.sum(0)
        share = member.sum(1)
        found = [weighted_moments(m / m.sum(), t) for m in member]
        mean, covariance = np.stack([f[0] for f in found]), [f[1] for f in found]
    density = sum(share[k] * normal(t, mean[k], covariance[k]) for k in range(count))
    return share, mean, np.stack(covariance), (w * np.log(density)).sum()


def line(count: int = 40001, low: float = -3, high: float = 4) -> tuple[np.ndarray, float]:
    return np.linspace(low, high, count), (high - low) / (count - 1)


@pytest.mark.parametrize("basis", [TIME, IMAGE])
def test_the_regression_is_ridge(basis, rng):
    t = np.array([(i + 0.5) / 9 for i in range(9)])[:, None]
    if basis is IMAGE:
        t = np.array([((i + 0.5) / 4, (j + 0.5) / 3) for i in range(4) for j in range(3)])
    np.testing.assert_allclose(basis.positions, t)
    psi = np.stack([normal(t, m, basis.variance * np.eye(t.shape[1])) for m in basis.centres])
    # The coefficients minimise |V - F^T B|^2 + ridge |B|^2: the gradient there is zero.
    values = rng.normal(size=(2, len(t), 1, 3))
    with jax.enable_x64(True):
        found = np.asarray(basis.coefficients(jnp.asarray(values)))
    for row in range(2):
        b = found[row, :, 0]
        np.testing.assert_allclose(psi @ (psi.T @ b - values[row, :, 0]) + basis.ridge * b, 0, atol=1e-9)


def test_moments_are_those_of_the_weights(rng):
    w = rng.dirichlet(np.ones(12), size=3)
    mean, covariance = moments(jnp.asarray(7 * w, jnp.float32), jnp.asarray(IMAGE.positions, jnp.float32))
    for row in range(3):
        want = weighted_moments(w[row], IMAGE.positions)
        np.testing.assert_allclose(mean[row], want[0], atol=1e-6)
        np.testing.assert_allclose(covariance[row], want[1], atol=1e-6)


def test_expectations_are_integrals_over_time():
    t, width = line()
    mean, variance = 0.37, 0.02
    densities = {
        "gaussian": normal(t[:, None], np.array([mean]), np.array([[variance]])),
        "paraboloid": np.maximum(5 * variance - (t - mean) ** 2, 0) * 3 / (4 * (5 * variance) ** 1.5),
    }
    with jax.enable_x64(True):
        for name, density in densities.items():
            np.testing.assert_allclose((density * width).sum(), 1, atol=1e-6)
            np.testing.assert_allclose((density * (t - mean) ** 2 * width).sum(), variance, atol=1e-6)
            got = tiny.jit(getattr(TIME, name))(jnp.array([mean]), jnp.array([[variance]]))
            want = [(normal(t[:, None], m, TIME.variance * np.eye(1)) * density * width).sum() for m in TIME.centres]
            np.testing.assert_allclose(got, want, atol=1e-6)


def test_continuous_sparsemax_is_the_projection():
    """max(-(t - mean)^2 / (2 s) - threshold, 0) with mass 1, the form of Martins et al., is the same parabola."""
    t, width = line()
    variance = 0.02
    s = 2 / 3 * (5 * variance) ** 1.5
    threshold = -((1.5 / s**0.5) ** (2 / 3)) / 2
    density = np.maximum(-((t - 0.5) ** 2) / (2 * s) - threshold, 0)
    np.testing.assert_allclose((density * width).sum(), 1, atol=1e-6)
    np.testing.assert_allclose((density * (t - 0.5) ** 2 * width).sum(), variance, atol=1e-6)


def test_expectations_are_integrals_over_an_image():
    axis = np.linspace(-1.5, 2.5, 401)
    t = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    mean, covariance = np.array([0.4, 0.7]), np.array([[0.03, 0.01], [0.01, 0.02]])
    density = normal(t, mean, covariance)
    want = [(normal(t, m, IMAGE.variance * np.eye(2)) * density).sum() * 0.01**2 for m in IMAGE.centres]
    got = IMAGE.gaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(covariance, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("basis", [TIME, IMAGE])
def test_mixtures_are_those_of_numpy(basis, rng):
    t, size = basis.positions, len(basis.shape)
    w = rng.dirichlet(np.ones(len(t)), size=2)
    start, share = rng.random((3, size)), np.array([0.5, 0.3, 0.2])
    with jax.enable_x64(True):
        got = jax.jit(lambda w, s, p: fit(w, jnp.asarray(t), s, p, iterations=4, variance=0.05))(
            jnp.asarray(w), jnp.asarray(start), jnp.asarray(share)
        )
    for row in range(2):
        want = expectation_maximisation(w[row], t, start, share, 4, 0.05)
        for part, expected in zip((got.share, got.mean, got.covariance, got.likelihood), want, strict=True):
            np.testing.assert_allclose(part[row], expected, rtol=1e-7, atol=1e-9)


def test_one_component_is_the_moments(rng):
    w = jnp.asarray(rng.dirichlet(np.ones(9), size=2), jnp.float32)
    t = jnp.asarray(TIME.positions, jnp.float32)
    one = single(w, t)
    fitted = tiny.jit(lambda *a: fit(*a, iterations=1))(w, t, jnp.array([[0.2]]))
    # A component that has no share takes nothing.
    padded = tiny.jit(lambda *a: fit(*a, iterations=3))(w, t, jnp.array([[0.2], [0.9]]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(one.mean[..., 0, :], moments(w, t)[0], rtol=1e-6)
    for a, b, c in zip(*map(jax.tree.leaves, (one, fitted, padded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        if a.ndim > 1:
            np.testing.assert_allclose(a[:, 0], c[:, 0], rtol=1e-4, atol=1e-6)
    assert (np.asarray(padded.share[:, 1]) == 0).all()


def test_the_shortest_description_wins():
    share = jnp.array([[[1.0, 0.0]] * 2, [[0.5, 0.5]] * 2])
    mean = jnp.broadcast_to(jnp.array([0.1, 0.2])[:, None, None, None], (2, 2, 2, 1))
    # Lengths with a penalty of 5: 5 - 0, 10 - 2 l.
    fits = Mixture(share, mean, mean[..., None], jnp.array([[0.0, 0.0], [2.4, 2.6]]))
    best = shortest(fits, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(best.share, [[1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(best.mean[:, 0, 0], [0.1, 0.2])


def test_two_peaks_need_two_components():
    basis = Basis((40,), count=20)
    t = basis.positions[:, 0]
    peaks = np.exp(-((t - 0.2) ** 2) / 2e-4) + np.exp(-((t - 0.8) ** 2) / 2e-4)
    flat = np.exp(-((t - 0.5) ** 2) / 0.02)
    weights = np.stack([peaks / peaks.sum(), flat / flat.sum()]).astype(np.float32)[None, None]
    attention = nnx.view(ContinuousAttention(basis, components=3, penalty=0.5, rngs=nnx.Rngs(0)), deterministic=True)
    found = tiny.jit(attention.density)(jnp.asarray(weights))
    share, mean = np.asarray(found.share[0, 0]), np.asarray(found.mean[0, 0, ..., 0])
    for peak in (0.2, 0.8):
        np.testing.assert_allclose(share[0] @ (np.abs(mean[0] - peak) < 0.05), 0.5, atol=0.02)
    assert (share[1] > 0).sum() == 1


@pytest.mark.slow
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_module_is_differentiable_and_hides_what_is_hidden(components, deterministic, rng):
    attention = ContinuousAttention(IMAGE, components=components, rngs=nnx.Rngs(3))
    attention = nnx.view(attention, deterministic=deterministic)
    graph, state = nnx.split(attention)
    valid = rng.random((2, 12)) < 0.6
    valid[0, 0], valid[1] = True, False
    z = jnp.asarray(rng.normal(size=(2, 2, 3, 12)), jnp.float32)
    values = np.where(valid[..., None, None], rng.normal(size=(2, 12, 2, 4)), np.nan).astype(np.float32)

    def loss(z, values):
        weights = softmax(z, jnp.asarray(valid)[:, None, None])
        out = nnx.merge(graph, state, copy=True)(weights, values, jnp.asarray(valid))
        return (out**2).sum(), out

    (_, out), gradients = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(z, jnp.asarray(values))
    assert out.shape == (2, 3, 2, 4)
    assert np.asarray(out[0]).any()
    assert (np.asarray(out[1]) == 0).all()
    for gradient in gradients:
        assert np.isfinite(np.asarray(gradient)).all()
    assert (np.asarray(gradients[1])[~valid] == 0).all()


@pytest.mark.slow
def test_gradients_of_a_mixture_are_those_of_finite_differences(rng):
    with jax.enable_x64(True):
        t, start = jnp.asarray(TIME.positions), jnp.array([[0.2], [0.7]])
        b, onto = jnp.asarray(rng.normal(size=(1, 6, 1, 2))), jnp.asarray(rng.normal(size=(1, 1, 1, 2)))

        @jax.jit
        def loss(z):
            w = softmax(z)
            return (onto * context(b, TIME.mixture(fit(w, t, start, variance=0.05)), w)).sum()

        z, along, step = jnp.asarray(rng.normal(size=(1, 1, 1, 9))), rng.normal(size=(1, 1, 1, 9)), 1e-6
        want = (loss(z + step * along) - loss(z - step * along)) / (2 * step)
        np.testing.assert_allclose((jax.grad(loss)(z) * along).sum(), want, rtol=1e-5, atol=1e-8)


def test_the_number_of_components_is_drawn_in_training(rng):
    w = jnp.asarray(rng.dirichlet(np.ones(9), size=(1, 1, 1)), jnp.float32)
    modules = [ContinuousAttention(Basis((9,)), components=3, rngs=nnx.Rngs(seed)) for seed in range(12)]
    graph, _ = nnx.split(modules[0])
    call = tiny.jit(lambda state: (nnx.merge(graph, state, copy=True).density(w).share > 0).sum())
    assert len({int(call(nnx.state(module))) for module in modules}) > 1


@pytest.mark.slow
def test_narrow_weights_and_values_are_summed_wide(rng):
    attention = ContinuousAttention(TIME, rngs=nnx.Rngs(0))
    w = jnp.asarray(rng.dirichlet(np.ones(9), size=(1, 1, 2)), jnp.bfloat16)
    values = jnp.asarray(rng.normal(size=(1, 9, 1, 4)), jnp.bfloat16)
    narrow = attention(w, values)
    assert narrow.dtype == jnp.bfloat16
    wide = attention(w.astype(jnp.float32), values.astype(jnp.float32))
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
