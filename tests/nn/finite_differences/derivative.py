"""Gradients against differences in float64, along a random direction d of length 1, and what the cases draw.

    <grad f(x), d> = (f(x + e d) - f(x - e d)) / 2e,   e = 1e-6 / sqrt(1 + |grad f(x)|)

Where f bends there, at a rectifier or a maximum, x lies on one of the straight pieces beside the bend: then it is the
slope from x - 2e d to x - e d, or from x + e d to x + 2e d. Rounding leaves about 1e-10 |f| of a quotient and curvature
1e-12: the sines of what is steep turn sooner, so e is shorter there. What holds a float32 inside shows up as an error
of a tenth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.transformer import Size
from avjax.streams import Stream
from avjax.training.step import split_model
from tests.models import tiny

EPSILON = 1e-6
TOLERANCE = 1e-6

ROWS, STEPS, WIDTH = 3, 5, 4
SIZE = Size(WIDTH, 1, 2, 2)
NAMES = ("audio", "video")
WIDTHS = dict.fromkeys(NAMES, WIDTH)

Draw = Callable[[np.random.Generator], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One block, and arguments to call it with.

    Attributes:
      build: from nnx.Rngs to the module; or a function, as it is.
      draws: what makes each argument of random numbers. Numbers are what is differentiated by, and parameters.
      call: (block, *arguments) in place of block(*arguments).
      of: functions and configurations that the case is about, beside the modules that are built.
      evaluated: as a model is evaluated: normalised by running averages, nothing drawn.
      quick: whether it is no slow test.
      long: whether it is left to `make long`: deeper of what another case shows.
    """

    build: Callable[..., Any]
    draws: tuple[Draw, ...]
    call: Callable[..., Any] | None = None
    of: tuple[Any, ...] = ()
    module: bool = True
    evaluated: bool = False
    quick: bool = False
    long: bool = False

    def covers(self) -> set[Any]:
        """Every block that takes part: what the case is about, and the modules inside with what they inherit."""
        if not self.module:
            return set(self.of)
        made = nnx.eval_shape(lambda: self.build(nnx.Rngs(0)))
        modules = (node for _, node in nnx.iter_graph(made) if isinstance(node, nnx.Module))
        return set(self.of) | {kind for node in modules for kind in type(node).__mro__}


def function(of: Callable[..., Any], *draws: Draw, call: Callable[..., Any] | None = None, **options: Any) -> Case:
    """``call`` in place of ``of`` where that takes what is not drawn."""
    return Case(call or of, draws, of=(of, *options.pop("also", ())), module=False, **options)


def module(build: Callable[[nnx.Rngs], nnx.Module], *draws: Draw, also: tuple[Any, ...] = (), **options: Any) -> Case:
    return Case(build, draws, of=also, **options)


def encoder(config: Any, *draws: Draw, width: int = 3, **options: Any) -> Case:
    """An encoder of two clips, evaluated."""
    draws = draws or (lambda rng: stream(rng, *config.shape, rows=2),)
    return Case(lambda rngs: config.build(width, rngs=rngs), draws, of=(type(config),), evaluated=True, **options)


def parameters(cases: Mapping[str, Case]) -> list[Any]:
    """For pytest: every case by its name, slow unless it is quick or long."""
    return [
        pytest.param(c, id=name, marks=pytest.mark.long if c.long else () if c.quick else pytest.mark.slow)
        for name, c in cases.items()
    ]


def assert_gradients(case: Case, rng: np.random.Generator) -> None:
    if not case.module:
        with jax.enable_x64(True):
            _assert_derivative(case.build, tuple(draw(rng) for draw in case.draws), rng)
        return
    built = case.build(nnx.Rngs(0))
    if case.evaluated:
        built = nnx.view(built, raise_if_not_found=False, deterministic=True, use_running_average=True)
    graph, params, *rest = split_model(built)
    params = nnx.as_pure(tiny.randomise(params, rng))
    with jax.enable_x64(True):
        params, rest = jax.tree.map(_as_float64, (params, rest))
        if case.evaluated:
            # Running means away from 0, variances away from 1 and above it.
            rest[0] = jax.tree.map(lambda x: x + rng.uniform(0, 1, x.shape), rest[0])

        def run(params: Any, *arguments: Any) -> Any:
            block = nnx.merge(graph, params, *rest, copy=True)
            return block(*arguments) if case.call is None else case.call(block, *arguments)

        _assert_derivative(run, (params, *(draw(rng) for draw in case.draws)), rng)


def _assert_derivative(function: Callable[..., Any], arguments: tuple[Any, ...], rng: np.random.Generator) -> None:
    """Of a sum of sines of the numbers that the function returns."""
    leaves, structure = jax.tree.flatten(arguments)
    own = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def total(given: list[jax.Array]) -> jax.Array:
        filled = list(leaves)
        for place, leaf in zip(own, given, strict=True):
            filled[place] = leaf
        return _total(function(*structure.unflatten(filled)))

    at = [leaves[place] for place in own]
    direction = [rng.normal(size=leaf.shape) for leaf in at]
    length = np.sqrt(sum((d**2).sum() for d in direction))
    direction = [jnp.asarray(d / length) for d in direction]
    run = tiny.jit(jax.value_and_grad(total))

    value, gradient = run(at)
    assert value.dtype == jnp.float64
    found = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    steepest = float(jnp.sqrt(sum((g**2).sum() for g in gradient)))
    assert steepest > 0
    step = EPSILON / np.sqrt(1 + steepest)

    def slope(begin: int, end: int) -> float:
        first, second = (run([x + n * step * d for x, d in zip(at, direction, strict=True)])[0] for n in (begin, end))
        return float(second - first) / ((end - begin) * step)

    room = TOLERANCE * (1 + steepest + abs(float(value)))
    slopes = []
    for ends in ((-1, 1), (-2, -1), (1, 2)):
        slopes.append(slope(*ends))
        if abs(found - slopes[-1]) < room:
            return
    raise AssertionError(f"the gradient has {found}, the function {slopes}")


def _as_float64(x: jax.Array) -> jax.Array:
    return jnp.asarray(np.asarray(x), jnp.float64) if x.dtype == jnp.float32 else x


def _total(result: Any) -> jax.Array:
    parts = []
    for leaf in jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, Stream)):
        if isinstance(leaf, Stream):
            there = leaf.valid.reshape(*leaf.valid.shape, *[1] * (leaf.values.ndim - leaf.valid.ndim))
            leaf = jnp.where(there, leaf.values, 0)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            parts.append(jnp.sin(leaf + 0.3).sum())
    return sum(parts)


def normal(*shape: int) -> Draw:
    return lambda rng: jnp.asarray(rng.normal(size=shape))


def positive(*shape: int) -> Draw:
    return lambda rng: jnp.asarray(rng.uniform(0.5, 2, size=shape))


def valid(rng: np.random.Generator, *shape: int) -> jax.Array:
    there = rng.random(shape or (ROWS, STEPS)) < 0.7
    there[:, 0] = True
    return jnp.asarray(there)


def there(*shape: int) -> Draw:
    """``valid`` of a shape."""
    return lambda rng: valid(rng, *shape)


def stream(rng: np.random.Generator, steps: int = STEPS, *rest: int, rows: int = ROWS) -> Stream:
    """Tokens, or with further extents frames and whatever else."""
    values = jnp.asarray(rng.normal(size=(rows, steps, *(rest or (WIDTH,)))))
    return Stream(values, valid(rng, rows, steps), jnp.zeros(rows), 1.0)


def tokens(rng: np.random.Generator) -> dict[str, Stream]:
    return {m: stream(rng) for m in NAMES}


def pair(rng: np.random.Generator) -> dict[str, jax.Array]:
    """Vectors of two widths."""
    return {m: jnp.asarray(rng.normal(size=(ROWS, width))) for m, width in zip(NAMES, (3, 5), strict=True)}


def present(rng: np.random.Generator) -> dict[str, jax.Array]:
    """Everything there but in one row of each."""
    return {m: jnp.arange(ROWS) != place for place, m in enumerate(NAMES)}


X = normal(ROWS, STEPS, WIDTH)
HEADS = normal(ROWS, STEPS, 2, 2)
SCORES = normal(ROWS, STEPS)
