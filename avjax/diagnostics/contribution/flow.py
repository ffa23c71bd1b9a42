"""Which tokens every call of attention reads and updates, found out of a model from outside.

Relevance is carried from the tokens that a score is read from, backwards through the calls of attention, to the tokens
before the first. For that the tokens of a call must be known as those of an earlier one. Groups of a mask have names,
but a name does not say which state is meant: in co-attention both modalities ask what the other was before the layer,
in a sequential update what it has become. So it is looked at what depends on what: with the output of every call held
fixed, as a variable of its own, the derivative of what a call is given says which earlier outputs went into it, and
token by token whether they are the same tokens still.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.measured import Undefined
from avjax.nn.statistics import Call, tapped, tapping
from kernels.attention import Layout

Score = Callable[..., Float[Array, " B"]]
Tokens = tuple[str, int]
"""A state of a set of tokens: its name, and the number of the call that has updated it last, -1 before any."""

BOTTLENECK = "bottleneck"
CLASS_TOKEN = "class"
"""``class_<modality>``: a class token as a group of its own, as statistics count it (``ModelProbe.token_groups``)."""


def set_of(group: str) -> str:
    """The set of tokens that a group of a mask is. Each modality's ``bottleneck_<modality>`` is one set for all."""
    return BOTTLENECK if group.startswith(f"{BOTTLENECK}_") else group


@dataclasses.dataclass(frozen=True)
class Step:
    """What one call does.

    Attributes:
      queries: for each group of queries, the tokens that it updates; afterwards they are (their name, the call).
      keys: for each group of keys, the tokens that are asked.
    """

    queries: tuple[Tokens, ...]
    keys: tuple[Tokens, ...]


@dataclasses.dataclass(frozen=True)
class Flow:
    """What every call of a model does, in order; the same for all inputs, and static.

    Defined for models in which attention is the only thing that mixes tokens between the first call and the last, and
    in which tokens keep their names (groups of the masks): transformers over one set of tokens or several, layers of
    self-, cross- and co-attention, and bottlenecks (the mean of the modalities' updates, or one after the other). What
    mixes tokens before the first call (convolutions) or after the last (pooling, recurrence) is outside of it. That
    queries are made of the tokens that the call updates, and that these go on as themselves plus what they attend to,
    as residual connections have it, is taken for granted; and that sets of one name that nothing has updated are one.

    Attributes:
      steps: by call.
      lengths: number of tokens of each set.
    """

    steps: tuple[Step, ...]
    lengths: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, score: Score, *arguments: Any) -> Flow:
        """Of a model whose ``score(*arguments)`` is one number a row; a row with every modality is enough.

        Takes two backward passes without attention a call.

        Raises:
          Undefined: where relevance cannot be carried, with the reason.
        """
        value, calls = compiled(functools.partial(_called, score))(*arguments)
        if not calls:
            raise Undefined("the model has no call of attention")
        if any(len(call.query) != len(value) for call in calls):
            raise Undefined("attention is over parts of a clip as if they were clips: their tokens have no names")
        lengths = _lengths([layout for call in calls for layout in (call.mask.queries, call.mask.keys)])
        rng = np.random.default_rng(0)
        asked = {name: _half(rng, length) for name, length in lengths.items()}
        depends = compiled(functools.partial(_depends, score))
        outputs = [call.output for call in calls]
        nothing = jax.tree.map(jnp.zeros_like, [(call.query, call.key, call.value) for call in calls])

        def tokens(number: int, layout: Layout, places: Sequence[int]) -> tuple[Tokens, ...]:
            half = np.concatenate([asked[set_of(name)] for name in layout.names])[:, None, None]
            cotangents = list(nothing)
            cotangents[number] = tuple(
                jnp.asarray(rng.normal(size=zeros.shape) * half, zeros.dtype) if place in places else zeros
                for place, zeros in enumerate(nothing[number])
            )
            reached = depends(outputs, (cotangents, jnp.zeros_like(value)), arguments)
            return _tokens(calls, number, layout, [np.asarray(rows).any(0) for rows in reached], asked)

        steps = tuple(
            Step(tokens(number, call.mask.queries, (0,)), tokens(number, call.mask.keys, (1, 2)))
            for number, call in enumerate(calls)
        )
        flow = cls(steps, tuple(lengths.items()))
        read = flow.reads(calls, depends(outputs, (nothing, jnp.ones_like(value)), arguments))
        if not any(np.asarray(weights).any() for weights in read.values()):
            raise Undefined("the score does not depend on any token that attention has updated")
        return flow

    def updated(self, number: int) -> tuple[Tokens, ...]:
        """What the queries of a call are afterwards, by group."""
        return tuple((name, number) for name, _ in self.steps[number].queries)

    def last(self) -> tuple[Tokens, ...]:
        """Tokens that no later call updates."""
        before = {tokens for step in self.steps for tokens in step.queries}
        states = dict.fromkeys(tokens for number in range(len(self.steps)) for tokens in self.updated(number))
        return tuple(tokens for tokens in states if tokens not in before)

    def reads(self, calls: Sequence[Call], reached: Sequence[Bool[Array, "B _"]]) -> dict[Tokens, Float[Array, "B _"]]:
        """Weights with which the score reads the last tokens: equal ones for all that reach it, sum 1 a row.

        Args:
          reached: rows of each call's output that reach the score past all other attention.
        """
        found = {}
        for name, number in self.last():
            layout = calls[number].mask.queries
            groups = [g for g, group in enumerate(layout.names) if set_of(group) == name]
            parts = [reached[number][:, slice(*layout.ranges[g])] for g in groups]
            found[name, number] = functools.reduce(jnp.logical_or, parts)
        count = sum(read.sum(1, keepdims=True) for read in found.values())
        return {tokens: read / jnp.maximum(count, 1) for tokens, read in found.items()}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["calls", "start"], meta_fields=["flow"])
@dataclasses.dataclass(frozen=True)
class Traced:
    """One pass of a model, forward and backward, as relevance needs it.

    Attributes:
      flow: what the calls do.
      calls: with gradients of the score.
      start: weights of the tokens that the score is read from (see ``Flow.reads``): a one at a class token, equal ones
        at tokens that are pooled.
    """

    flow: Flow
    calls: Any
    start: Any

    @classmethod
    def of(cls, flow: Flow, score: Score, *arguments: Any) -> Traced:
        """Of score(*arguments), any number of rows; belongs inside of jit."""
        value, calls = tapped(score, *arguments)
        asked = [(jnp.zeros_like(call.query), jnp.zeros_like(call.key), jnp.zeros_like(call.value)) for call in calls]
        reached = _depends(score, [call.output for call in calls], (asked, jnp.ones_like(value)), arguments)
        return cls(flow, calls, flow.reads(calls, reached))


def weights(call: Call) -> list[Float[Array, "#B 1"]]:
    """For each group of queries, how much of its set's update is its own.

    1; but of a bottleneck 1 / M in rows with M of the call's modalities, and 0 for a modality that is not there.
    """
    keys, there = call.mask.keys, {}
    for name in call.mask.queries.names:
        if set_of(name) == BOTTLENECK != name:
            begin, end = keys.ranges[keys.names.index(name.removeprefix(f"{BOTTLENECK}_"))]
            there[name] = call.mask.key_valid[:, begin:end].any(1, keepdims=True).astype(jnp.float32)
    count = jnp.maximum(sum(there.values()), 1)
    return [there[name] / count if name in there else jnp.ones((1, 1)) for name in call.mask.queries.names]


def _called(score: Score, *arguments: Any) -> tuple[Array, tuple[Call, ...]]:
    with tapping() as calls:
        value = score(*arguments)
    return value, tuple(calls)


def _given(score: Score, outputs: Sequence[Array], arguments: Sequence[Any]) -> tuple[list[tuple[Array, ...]], Array]:
    """What every call is given, and the score, where the calls return ``outputs``."""
    with tapping(lambda number, output: outputs[number]) as calls:
        value = score(*arguments)
    return [(call.query, call.key, call.value) for call in calls], value


def _depends(
    score: Score, outputs: Sequence[Array], cotangents: tuple, arguments: Sequence[Any]
) -> list[Bool[Array, "B _"]]:
    """For each call, which rows of its output reach what the cotangents ask of, past all other attention."""
    _, pull = jax.vjp(lambda outputs: _given(score, outputs, arguments), outputs)
    return [(gradient != 0).any((2, 3)) for gradient in pull(cotangents)[0]]


def _lengths(layouts: Sequence[Layout]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for layout in layouts:
        for group, length in zip(layout.names, layout.lengths, strict=True):
            if lengths.setdefault(set_of(group), length) != length:
                raise Undefined(
                    f"{set_of(group)!r} is {lengths[set_of(group)]} tokens at one call of attention and {length} at"
                    " another: relevance cannot be carried from one set of tokens to the other"
                )
    return lengths


def _half(rng: np.random.Generator, length: int) -> Bool[np.ndarray, " N"]:
    """One token of each two neighbours, so that whatever mixes tokens reaches some of the others; a last one alone."""
    places, second = np.arange(length), np.repeat(rng.random(length // 2 + 1) < 0.5, 2)[:length]
    return (places % 2 == second) | (places == length - 1) & (length % 2 == 1)


def _tokens(
    calls: Sequence[Call],
    number: int,
    layout: Layout,
    reached: Sequence[Array | np.ndarray],
    asked: dict[str, Bool[np.ndarray, " _"]],
) -> tuple[Tokens, ...]:
    """The states of the tokens of a layout, from the rows of earlier calls that reach the half of them that was asked.

    Raises:
      Undefined: where other tokens reach them too.
    """
    latest = {set_of(name): -1 for name in layout.names}
    for earlier in range(number):
        queries = calls[earlier].mask.queries
        for group, (begin, end) in zip(queries.names, queries.ranges, strict=True):
            name, rows = set_of(group), reached[earlier][begin:end]
            if not rows.any():
                continue
            if name not in latest or (rows & ~asked[name]).any():
                raise Undefined(
                    f"between two calls of attention something else mixes tokens: those of {sorted(latest)} at"
                    f" {calls[number].site!r} are made of several of {name!r} at {calls[earlier].site!r}"
                )
            latest[name] = earlier
    return tuple((set_of(name), latest[set_of(name)]) for name in layout.names)
