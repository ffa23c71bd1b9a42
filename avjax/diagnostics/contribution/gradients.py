"""Attributions by gradients of a score at its inputs, for any function of a mapping of arrays: no attention is needed.

A score is a function that JAX can trace, ``score(values, *arguments)``, from arrays, modality -> [B, ...], to one
number a row [B]; rows must not know of each other. So it serves at the level of raw clips as well as at that of tokens.
What it is besides (parameters, classes) are best its arguments: one function object is compiled once. Attributions
have the shape of the values; what the score does not depend on is given 0, whatever it holds, NaN included.

    joint path         all modalities move from baseline to input together, and share what they do together
    modality's path    one moves while the rest stays, at the input or at the baseline

The two give different numbers, and so do the two rests: which one was taken belongs to the estimator's name.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution.shares import share

Values = Mapping[str, Float[Array, "B ..."] | Float[np.ndarray, "B ..."]]
Score = Callable[..., Float[Array, " B"]]
Attribution = dict[str, Float[np.ndarray, "B ..."]]

STEPS, MOST_STEPS = 64, 1024
TOLERANCE = 0.01
# Differences of a score below this are compared with it instead of with themselves.
SMALLEST = 1e-6


@dataclasses.dataclass(frozen=True)
class Integrated:
    """Integrated gradients, and how far they are from complete.

    Attributes:
      attribution: by modality.
      error: |sum_k IG_k - (f(x) - f(b))| / max(|f(x) - f(b)|, 1e-6), of each row.
      steps: points of the path that were taken.
    """

    attribution: Attribution
    error: Float[np.ndarray, " B"]
    steps: int

    @property
    def complete(self) -> Bool[np.ndarray, " B"]:
        """Rows whose attribution adds up to the difference of the score, within 1 %."""
        return self.error < TOLERANCE


def gradient_times_input(score: Score, values: Values, arguments: Sequence[Any] = ()) -> Attribution:
    """x_k df/dx_k (Shrikumar et al. 2016); of a linear score its terms, exactly. In units of the score.

    Pitfall: it is local, and does not add up to anything: f = a v at (2, 3) gives 6 and 6.
    """
    values = _arrays(values)
    slope = slopes(score, values, arguments)
    return {m: _product(values[m], slope[m]) for m in values}


def slopes(score: Score, values: Values, arguments: Sequence[Any] = ()) -> dict[str, Float[Array, "B ..."]]:
    """df/dx_k: times a change of the input it is what the score changes by, as far as the score is linear."""
    values = _arrays(values)
    return _program()(score, values, values, {}, 1, tuple(arguments), 1 / 2)


def integrated_gradients(
    score: Score,
    values: Values,
    baseline: Values,
    arguments: Sequence[Any] = (),
    *,
    steps: int = STEPS,
    most_steps: int = MOST_STEPS,
) -> Integrated:
    """IG_k = (x_k - b_k) int_0^1 df/dx_k (b + t (x - b)) dt   (Sundararajan, Taly, Yan 2017), the joint path.

    By the midpoint rule with ``steps`` points, which are tripled until every row adds up to f(x) - f(b) within 1 %, or
    until tripling them would go beyond ``most_steps``: then ``complete`` says which rows do not. A midpoint is one of a
    third as well, so that no point is computed twice.

    Pitfall: it means something relative to the baseline alone. Of sound that is digital silence through the same front
    end (log eps, not 0 after normalisation), of video a mean or blurred frame.
    """
    return _integrated(score, _arrays(values), _arrays(baseline), {}, tuple(arguments), steps, most_steps)


def integrated_by_modality(
    score: Score,
    values: Values,
    baseline: Values,
    arguments: Sequence[Any] = (),
    *,
    rest: Literal["input", "baseline"],
    steps: int = STEPS,
    most_steps: int = MOST_STEPS,
) -> dict[str, Integrated]:
    """Integrated gradients of each modality on its own path: it moves from b_m to x_m, the rest stays where it is.

    Each is complete for its own difference, f(x) - f(b_m, x_rest) or f(x_m, b_rest) - f(b). Their sum is f(x) - f(b)
    only where modalities do not interact: with the rest at the input what they do together counts for each of them,
    with the rest at the baseline for none.
    """
    values, baseline = _arrays(values), _arrays(baseline)
    stays = values if rest == "input" else baseline
    return {
        m: _integrated(
            score, {m: values[m]}, {m: baseline[m]}, {n: x for n, x in stays.items() if n != m}, tuple(arguments),
            steps, most_steps,
        )
        for m in values
    }  # fmt: skip


def expected_gradients(
    score: Score,
    values: Values,
    baselines: Sequence[Values],
    arguments: Sequence[Any] = (),
    *,
    steps: int = STEPS,
    most_steps: int = MOST_STEPS,
) -> Integrated:
    """EG_k = mean over baselines b of IG_k(b)   (Erion et al. 2021), with other clips for baselines ("marginal").

    Erion et al. draw one point of the path a baseline; here every path is integrated, so that the sum is that of
    f(x) - mean_b f(b) within the errors, of which the largest is reported, as ``steps`` is.

    Args:
      baselines: as many as wanted, 16 by custom; each holds another clip for every row.
    """
    if not baselines:
        raise ValueError("expected gradients need at least one baseline")
    options = {"steps": steps, "most_steps": most_steps}
    found = [integrated_gradients(score, values, baseline, arguments, **options) for baseline in baselines]
    mean = {m: np.mean([one.attribution[m] for one in found], axis=0) for m in values}
    return Integrated(mean, np.max([one.error for one in found], axis=0), max(one.steps for one in found))


def net(attribution: Attribution, names: Sequence[str]) -> Float[np.ndarray, "B M"]:
    """S_m = sum_{k in m} phi_k, signed: of integrated gradients in units of the score, adding up to f(x) - f(b)."""
    return np.stack([_flat(attribution[m]).sum(axis=1) for m in names], axis=1)


def magnitude_shares(attribution: Attribution, names: Sequence[str]) -> Float[np.ndarray, "B M"]:
    """sum_{k in m} |phi_k| / sum_k |phi_k|: in [0, 1], sums to 1, no direction.

    Undefined where a row has no attribution at all. Pitfall: noise counts by its size, and a modality of more numbers
    has more of it. ``net`` belongs beside it.
    """
    return share(np.stack([np.abs(_flat(attribution[m])).sum(axis=1) for m in names], axis=1))


def _integrated(
    score: Score, values: dict, baseline: dict, stays: dict, arguments: tuple, steps: int, most_steps: int
) -> Integrated:
    """Along the path of ``values``, while ``stays`` does."""
    ends = (np.asarray(_value()(score, {**stays, **end}, arguments), np.float64) for end in (values, baseline))
    expected = np.subtract(*ends)
    means = _program()(score, values, baseline, stays, steps, arguments, 1 / 2)
    while True:
        attribution = {m: _product(values[m] - baseline[m], means[m]) for m in values}
        error = np.abs(net(attribution, tuple(values)).sum(axis=1) - expected) / np.abs(expected).clip(SMALLEST)
        found = Integrated(attribution, error, steps)
        if found.complete.all() or 3 * steps > most_steps:
            return found
        sides = [_program()(score, values, baseline, stays, steps, arguments, place) for place in (1 / 6, 5 / 6)]
        means = jax.tree.map(lambda *thirds: sum(thirds) / 3, means, *sides)
        steps *= 3


@functools.cache
def _value() -> Callable[..., Array]:
    return compiled(lambda score, values, arguments: score(values, *arguments), static_argnums=0)


@functools.cache
def _program() -> Callable[..., dict[str, Array]]:
    return compiled(_mean_gradient, static_argnums=0)


def _mean_gradient(
    score: Score, values: dict, baseline: dict, stays: dict, steps: Any, arguments: tuple, place: Any
) -> dict[str, Array]:
    """Over one point of each of so many equal parts of the way from baseline to values, one after the other.

    Args:
      place: of the point in its part: 0 at its beginning, 1/2 in its middle.
    """
    slopes = jax.grad(lambda moving: score({**stays, **moving}, *arguments).sum())

    def add(number: Array, total: dict[str, Array]) -> dict[str, Array]:
        way = (number + place) / steps
        at = {m: (baseline[m] + way * (values[m] - baseline[m])).astype(values[m].dtype) for m in values}
        return jax.tree.map(lambda sofar, slope: sofar + slope / steps, total, slopes(at))

    return jax.lax.fori_loop(0, steps, add, jax.tree.map(jnp.zeros_like, values))


def _arrays(values: Values) -> dict[str, Array]:
    return {m: jnp.asarray(array) for m, array in values.items()}


def _product(values: Array, slopes: Array) -> Float[np.ndarray, "B ..."]:
    """Elementwise, 0 where the slope is 0: there the values may be anything."""
    slopes = np.asarray(slopes, np.float64)
    return np.multiply(np.asarray(values, np.float64), slopes, out=np.zeros(slopes.shape), where=slopes != 0)


def _flat(array: Float[np.ndarray, "B ..."]) -> Float[np.ndarray, "B K"]:
    return array.reshape(len(array), -1)
