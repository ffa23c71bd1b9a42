"""Densities fitted to weights of positions: moments, Gaussian mixtures, and how many components are worth having."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Added to every covariance, as in the release of Martins et al.
JITTER = 1e-6
# Below this share a component is lost: its moments would be a quotient of two numbers near nothing.
LOST = 1e-8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """sum_k share_k N(mean_k, covariance_k), one for every query.

    Attributes:
      share: [..., K], sums to 1; a component of share 0 is none.
      mean: [..., K, n].
      covariance: [..., K, n, n].
      likelihood: [...] sum_l w_l log density(t_l), of the weights w that it was fitted to.
    """

    share: jax.Array
    mean: jax.Array
    covariance: jax.Array
    likelihood: jax.Array


def moments(
    weights: Float[Array, "*rows N"], positions: Float[Array, "N n"]
) -> tuple[Float[Array, "*rows n"], Float[Array, "*rows n n"]]:
    """mean = sum_l w_l t_l and covariance = sum_l w_l (t_l - mean)(t_l - mean)^T + 1e-6 I, of weights made to sum to 1.

    A row of zeros has mean 0 and covariance 1e-6 I.
    """
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    mean = jnp.einsum("...l,ln->...n", weights, positions, precision="highest")
    apart = positions - mean[..., None, :]
    covariance = jnp.einsum("...l,...ln,...lm->...nm", weights, apart, apart, precision="highest")
    return mean, covariance + JITTER * jnp.eye(positions.shape[-1], dtype=weights.dtype)


def fit(
    weights: Float[Array, "*rows N"],
    positions: Float[Array, "N n"],
    start: Float[Array, "K n"],
    share: Float[Array, " K"] | None = None,
    *,
    iterations: int = 5,
    variance: float = 0.001,
) -> Mixture:
    """A Gaussian mixture by weighted expectation maximisation (Farinhas et al. 2021), differentiable throughout.

    Expectation: g_lk is share_k N(t_l; mean_k, covariance_k), made to sum to 1 over k. Maximisation: share_k is the sum
    of w_l g_lk over l, mean_k and covariance_k are its moments. A component that lost all weight keeps share 0.

    Args:
      start: first means; the release draws them at random.
      share: first shares, 1 / K unless given; K may vary under jit through zeros.
      variance: first covariance of every component, times I.
    """
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    rows, (count, size) = weights.shape[:-1], start.shape
    share = jnp.full(count, 1 / count, weights.dtype) if share is None else share
    covariance = variance * jnp.eye(size, dtype=weights.dtype)
    state = (
        jnp.broadcast_to(share, (*rows, count)),
        jnp.broadcast_to(start, (*rows, count, size)),
        jnp.broadcast_to(covariance, (*rows, count, size, size)),
    )

    def maximise(state: tuple, _: None) -> tuple[tuple, None]:
        logs = _joint(positions, *state)
        member = weights[..., None, :] * jax.nn.softmax(logs, axis=-2)
        member = jnp.where(member.sum(-1, keepdims=True) > LOST, member, 0)
        return (member.sum(-1), *moments(member, positions)), None

    (share, mean, covariance), _ = jax.lax.scan(maximise, state, length=iterations)
    density = jax.scipy.special.logsumexp(_joint(positions, share, mean, covariance), axis=-2)
    return Mixture(share, mean, covariance, (weights * density).sum(-1))


def single(weights: Float[Array, "*rows N"], positions: Float[Array, "N n"]) -> Mixture:
    """The mixture of one component, whose maximum has a closed form: the moments."""
    mean, covariance = moments(weights, positions)
    total = weights.sum(-1, keepdims=True)
    density = log_normal(positions - mean[..., None, :], covariance[..., None, :, :])
    likelihood = (weights / jnp.where(total > 0, total, 1) * density).sum(-1)
    return Mixture(jnp.ones_like(total), mean[..., None, :], covariance[..., None, :, :], likelihood)


def shortest(mixtures: Mixture, components: Float[Array, " fits"], penalty: float = 5.0) -> Mixture:
    """For each query the mixture of least description length K penalty - 2 likelihood (Farinhas et al. 2021).

    Args:
      mixtures: fits, along a first axis of everything.
      components: K of each fit, whose further components have share 0.
    """
    components = components.reshape(-1, *[1] * (mixtures.likelihood.ndim - 1))
    best = jnp.argmin(penalty * components - 2 * mixtures.likelihood, axis=0)

    def choose(fits: jax.Array) -> jax.Array:
        index = best.reshape(1, *best.shape, *[1] * (fits.ndim - best.ndim - 1))
        return jnp.take_along_axis(fits, index, axis=0)[0]

    return jax.tree.map(choose, mixtures)


def log_normal(apart: Float[Array, "*rows n"], covariance: Float[Array, "*rows2 n n"]) -> Float[Array, "..."]:
    """log N(apart; 0, covariance) for n of 1 or 2, determinant and inverse in closed form."""
    size = apart.shape[-1]
    if size == 1:
        determinant = covariance[..., 0, 0]
        square = apart[..., 0] ** 2 / determinant
    elif size == 2:
        a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        determinant = a * c - b**2
        x, y = apart[..., 0], apart[..., 1]
        square = (c * x**2 - 2 * b * x * y + a * y**2) / determinant
    else:
        raise ValueError(f"positions have 1 (time) or 2 (image) coordinates, not {size}")
    return -0.5 * (square + jnp.log(determinant) + size * math.log(2 * math.pi))


def _joint(positions: jax.Array, share: jax.Array, mean: jax.Array, covariance: jax.Array) -> jax.Array:
    """log(share_k N(t_l; mean_k, covariance_k)) [..., K, N]; the least number where a share is 0."""
    logs = log_normal(positions - mean[..., None, :], covariance[..., None, :, :])
    there = share > 0
    return jnp.where(there, jnp.log(jnp.where(there, share, 1)), -1e30)[..., None] + jnp.where(
        there[..., None], logs, 0
    )
