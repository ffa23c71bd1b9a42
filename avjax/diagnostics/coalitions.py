"""Logits of coalitions where tokens are sets: no modality is encoded twice for the same of its parts.

A coalition keeps some players of every modality. A walk that adds one player after the other changes one modality at a
time, so that over its n coalitions each modality is seen in about n / 2 states; what front end and model make of each
by itself (``encode``, then ``alone``) is computed once, and the rest (``logits``) for every coalition. Hidden tokens
are cut out before: what is left is filled up to one of a few lengths, each of which has programs of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.players import Baseline, Players, filled
from avjax.nn.model import AudioVisualModel, Embedded
from avjax.objectives.wrapper import ModelWrapper
from avjax.streams import Batch, Stream
from avjax.training.step import Steps, TrainState

Features = Callable[[Mapping[str, Stream]], Batch]
Embeddings = Mapping[str, Stream]

CHUNK = 32
"""Coalitions of whose modalities is held at a time what was made of each alone."""
LENGTHS = 2
"""Of sequences: half of the tokens, or all. With four a walk is as fast, and compiles longer."""
MANY = 2**13
"""Evaluations of one call from which on programs for shorter sequences are worth compiling."""


@dataclasses.dataclass(frozen=True, eq=False)
class SetCoalitions:
    """The programs of one model.

    Attributes:
      steps: of the model.
      head: whose logits.
      features: front end of raw streams, to be traced.
      out: how logits lie on the devices.
    """

    steps: Steps
    head: str
    features: Features
    out: jax.sharding.Sharding

    def logits(
        self, state: TrainState, streams: Mapping[str, Stream], kept: Bool[np.ndarray, "S n"], players: Players,
        baseline: Baseline,
    ) -> Float[np.ndarray, "S B K"]:  # fmt: skip
        """Of every row with the players of each coalition.

        Args:
          streams: raw, on the devices.
          kept: True where a player is present.
          baseline: what stands in for absent raw players.
        """
        rows = next(iter(streams.values())).values.shape[0]
        lengths = LENGTHS if len(kept) * rows >= MANY else 1
        whole = None if players.raw else self._embed(state, streams)

        def alone(modality: str, mask: np.ndarray) -> Any:
            if players.raw:
                return self._alone_raw(state, streams, baseline, mask, players, modality)
            return self._alone(state, whole, _places(mask[players.where[modality]], lengths), modality)

        parts = []
        for begin in range(0, len(kept), CHUNK):
            chunk = kept[begin : begin + CHUNK]
            made = {modality: _of_each(chunk, players.of(modality), functools.partial(alone, modality))
                    for modality in players.names}  # fmt: skip
            found = [self._together(state, {m: of[row] for m, of in made.items()}) for row in range(len(chunk))]
            # Waited for, or the modalities of all chunks would be in memory.
            parts += [np.asarray(one) for one in found]
        return np.stack(parts)

    @functools.cached_property
    def _embed(self) -> Callable[..., Embeddings]:
        """(state, raw streams) to the encoders' tokens."""

        def embed(state: TrainState, streams: Mapping[str, Stream]) -> Embeddings:
            with self.steps.parts(state) as (model, cast):
                return model_of(model).embeddings(cast(self.features(streams)))

        return compiled(embed)

    @functools.cached_property
    def _alone(self) -> Callable[..., Any]:
        """(state, the encoders' tokens, places [L] of those that stay, modality) to what becomes of it alone."""

        def alone(state: TrainState, tokens: Embeddings, places: jax.Array, modality: str) -> Any:
            with self.steps.parts(state) as (model, _):
                return _made_alone(model_of(model), tokens, places, modality)

        return compiled(alone, static_argnames=("modality",))

    @functools.cached_property
    def _alone_raw(self) -> Callable[..., Any]:
        """(state, raw streams, baseline, kept [n], players, modality) to what becomes of it alone."""

        def alone(
            state: TrainState, streams: Mapping[str, Stream], baseline: Baseline, kept: jax.Array,
            players: Players, modality: str,
        ) -> Any:  # fmt: skip
            with self.steps.parts(state) as (model, cast):
                inner = model_of(model)
                tokens = inner.embeddings(cast(self.features(filled(streams, kept, players, baseline))))
                return _made_alone(inner, tokens, jnp.arange(tokens[modality].values.shape[1]), modality)

        return compiled(alone, static_argnames=("players", "modality"))

    @functools.cached_property
    def _together(self) -> Callable[..., jax.Array]:
        """(state, what was made of every modality) to logits [B, K]."""

        def together(state: TrainState, parts: Mapping[str, Any]) -> jax.Array:
            with self.steps.parts(state) as (model, _):
                return model_of(model).logits(parts)[self.head].astype(jnp.float32)

        return compiled(together, out_shardings=self.out)


def model_of(model: nnx.Module) -> nnx.Module:
    """The model itself, an ``AudioVisualModel`` in all that asks, without terms of a loss around it."""
    return model.model if isinstance(model, ModelWrapper) else model


def are_sets(steps: Steps, state: TrainState) -> bool:
    """Whether the model's call is fuse(encode(batch)), and its tokens are sets."""
    with steps.parts(state) as (model, _):
        inner = model_of(model)
    return isinstance(inner, AudioVisualModel) and inner.sets and type(inner).__call__ is AudioVisualModel.__call__


def _made_alone(model: AudioVisualModel, tokens: Embeddings, places: jax.Array, modality: str) -> Any:
    """What the model makes of the tokens at these places; a place beyond the last is a token that is not there."""

    def at(values: jax.Array) -> jax.Array:
        return jnp.take(values, places, axis=1, mode="fill", fill_value=0)

    cut = {}
    for name, stream in tokens.items():
        # What the others are does not matter: each goes by itself.
        of = at if name == modality else lambda values: values[:, :1]
        cut[name] = Embedded(of(stream.values), of(stream.valid), stream.start, stream.rate)
    rows = tokens[modality].values.shape[0]
    encoded = model.encode(Batch(cut, {}, jnp.ones(rows), jnp.zeros(rows, jnp.int32)))
    made = model.alone(modality, encoded[modality])
    # Filled up in front, behind which a class token keeps its place: what comes after takes one program for all.
    missing = tokens[modality].values.shape[1] - len(places)
    return jax.tree.map(lambda one: _in_front(one, missing), made, is_leaf=lambda one: isinstance(one, Stream))


def _in_front(part: Any, missing: int) -> Any:
    """A stream with so many tokens more that are not there; anything else as it is."""
    if not isinstance(part, Stream):
        return part

    def pad(values: jax.Array) -> jax.Array:
        return jnp.pad(values, [(0, 0), (missing, 0), *[(0, 0)] * (values.ndim - 2)])

    return part.replace(values=pad(part.values), valid=pad(part.valid))


def _places(kept: Bool[np.ndarray, " N"], lengths: int) -> Int[np.ndarray, " L"]:
    """Of the kept tokens, filled up with a place that does not exist to the next of so many lengths."""
    count, there = len(kept), np.flatnonzero(kept)
    wanted = [-(-count * part // lengths) for part in range(1, lengths + 1)]
    length = next(one for one in wanted if one >= len(there))
    return np.concatenate([there, np.full(length - len(there), count)]).astype(np.int32)


def _of_each(
    chunk: Bool[np.ndarray, "S n"], own: Bool[np.ndarray, " n"], make: Callable[[np.ndarray], Any]
) -> list[Any]:
    """``make`` of every coalition's own players, once for each set of them.

    Args:
      own: which players count; the others are absent in what ``make`` is given.
    """
    sets, which = np.unique(chunk & own, axis=0, return_inverse=True)
    made = [make(one) for one in sets]
    return [made[k] for k in which.ravel()]
