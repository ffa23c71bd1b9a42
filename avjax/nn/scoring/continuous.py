"""Continuous attention: a density over time or an image in place of weights for single positions (Martins et al. 2020).

Weights of positions give the moments of a density, values become a smooth function of position (ridge regression on
Gaussian bumps, once), and the context is the function's expectation under the density, in closed form:

    t in [0, 1]^n, n = 1 (time) or 2 (image)    psi_j(t) = N(t; m_j, v I)
    value(t) = B psi(t)                         B = V^T G, G = F^T (F F^T + ridge I)^-1, F_jl = psi_j(t_l)
    c = E[value(t)] = B r                       r_j = E[psi_j(t)]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import masked
from avjax.nn.dense import widened
from avjax.nn.scoring.densities import Mixture, fit, log_normal, shortest, single


@dataclasses.dataclass(frozen=True)
class Basis:
    """Gaussian bumps on a regular grid from 0 to 1; positions are the centres of the cells of another grid.

    Attributes:
      shape: of the positions: (T,) or (rows, columns), in the order of the keys.
      count: bumps along each axis; the release has 10 x 10 for images.
      variance: v of a bump.
      ridge: of the regression.
    """

    shape: tuple[int, ...]
    count: int = 10
    variance: float = 0.001
    ridge: float = 0.01

    @property
    def positions(self) -> np.ndarray:
        """[N, n] float64."""
        return _grid([(np.arange(length) + 0.5) / length for length in self.shape])

    @property
    def centres(self) -> np.ndarray:
        """m [J, n] float64."""
        return _grid([np.linspace(0, 1, self.count)] * len(self.shape))

    @property
    def regression(self) -> np.ndarray:
        """G [N, J], a constant, in float64."""
        square = np.square(self.positions[None] - self.centres[:, None]).sum(-1)
        design = np.exp(-square / (2 * self.variance)) / (2 * math.pi * self.variance) ** (len(self.shape) / 2)
        return np.linalg.solve(design @ design.T + self.ridge * np.eye(len(design)), design).T

    def coefficients(
        self, values: Float[Array, "B N H Dv"], valid: Bool[Array, "B N"] | None = None
    ) -> Float[Array, "B J H Dv"]:
        """B. What is hidden counts as 0 (ours: G is of all positions, and the release has none hidden)."""
        values = widened(values if valid is None else masked(values, valid))
        return jnp.einsum("nj,bnhv->bjhv", jnp.asarray(self.regression, values.dtype), values, precision="highest")

    def gaussian(self, mean: Float[Array, "*rows n"], covariance: Float[Array, "*rows n n"]) -> Float[Array, "*rows J"]:
        """r_j = N(mean; m_j, covariance + v I): the expectation under a Gaussian."""
        apart = mean[..., None, :] - jnp.asarray(self.centres, mean.dtype)
        wide = covariance + self.variance * jnp.eye(mean.shape[-1], dtype=mean.dtype)
        return jnp.exp(log_normal(apart, wide[..., None, :, :]))

    def mixture(self, mixture: Mixture) -> Float[Array, "*rows J"]:
        """r_j = sum_k share_k N(m_j; mean_k, covariance_k + v I)."""
        return (mixture.share[..., None] * self.gaussian(mixture.mean, mixture.covariance)).sum(-2)

    def paraboloid(
        self, mean: Float[Array, "*rows 1"], covariance: Float[Array, "*rows 1 1"]
    ) -> Float[Array, "*rows J"]:
        """r_j under continuous sparsemax in one dimension: the truncated parabola of that mean and variance.

        p(t) = 3 max(a^2 - (t - mean)^2, 0) / (4 a^3) with a = sqrt(5 variance). With d = m_j - mean, the integral is
        3 / (4 a^3) [(a^2 - d^2 - v) Phi + v (u + d) N(u; d, v)] between u = -a and u = a.
        """
        a = jnp.sqrt(5 * covariance[..., 0])
        d = jnp.asarray(self.centres[:, 0], mean.dtype) - mean
        v = self.variance

        def primitive(u: jax.Array) -> jax.Array:
            bump = jnp.exp(log_normal((u - d)[..., None], jnp.full((1, 1), v, mean.dtype)))
            return (a**2 - d**2 - v) * jax.scipy.stats.norm.cdf((u - d) / math.sqrt(v)) + v * (u + d) * bump

        return 3 / (4 * a**3) * (primitive(a) - primitive(-a))


class ContinuousAttention(nnx.Module):
    """Context under a Gaussian, or a mixture of as many as describe the weights best (Farinhas et al. 2021).

    In training K is drawn from 1 to ``components`` at every call, and the first means from the unit square. Under
    ``deterministic`` every query has the mixture of least description length among one component and ``starts`` fits of
    each greater number; their first means are the same at every call (ours: the release draws them).

    Args:
      basis: of the values, and the positions of the keys.
      components: the greatest K; 1 is unimodal continuous attention.
      penalty: description length of a component.
      starts: fits of each K.
    """

    def __init__(self, basis: Basis, *, components: int = 1, penalty: float = 5.0, starts: int = 3, rngs: nnx.Rngs):
        self.basis, self.components, self.penalty, self.starts = basis, components, penalty, starts
        self.deterministic = False
        self.rngs = rngs["dropout"].fork()

    def __call__(
        self,
        weights: Float[Array, "B H Nq N"],
        values: Float[Array, "B N H Dv"],
        valid: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Nq H Dv"]:
        """``weights`` of any normaliser whose weights are not negative; 0 where hidden."""
        weights = widened(weights)
        expectation = self.basis.mixture(self.density(weights))
        return context(self.basis.coefficients(values, valid), expectation, weights).astype(values.dtype)

    def density(self, weights: Float[Array, "B H Nq N"]) -> Mixture:
        positions = jnp.asarray(self.basis.positions, weights.dtype)
        if self.components == 1:
            return single(weights, positions)
        numbers, size = np.arange(self.components), positions.shape[-1]
        if not self.deterministic:
            key = self.rngs()
            count = jax.random.randint(jax.random.fold_in(key, 0), (), 1, self.components + 1)
            start = jax.random.uniform(jax.random.fold_in(key, 1), (self.components, size))
            share = (numbers < count) / count
            return fit(weights, positions, start.astype(weights.dtype), share.astype(weights.dtype))
        counts = np.array([1, *np.repeat(numbers[1:] + 1, self.starts)])
        starts = np.random.default_rng(0).random((len(counts), self.components, size))
        shares = (numbers < counts[:, None]) / counts[:, None]
        counts, starts, shares = (jnp.asarray(x, weights.dtype) for x in (counts, starts, shares))
        fits = jax.vmap(fit, in_axes=(None, None, 0, 0))(weights, positions, starts, shares)
        return shortest(fits, counts, self.penalty)

    def set_view(self, deterministic: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          deterministic: if True, nothing is drawn.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def context(
    coefficients: Float[Array, "B J H Dv"], expectation: Float[Array, "B H Nq J"], weights: Float[Array, "B H Nq N"]
) -> Float[Array, "B Nq H Dv"]:
    """c = B r, and 0 for queries whose weights are all zero."""
    expectation = jnp.where((weights > 0).any(-1, keepdims=True), expectation, 0)
    return jnp.einsum("bhqj,bjhv->bqhv", expectation, coefficients, precision="highest")


def _grid(axes: Sequence[np.ndarray]) -> np.ndarray:
    """All points of a grid, the last axis fastest: [points, n]."""
    return np.stack([axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
