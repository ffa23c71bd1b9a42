"""What a row loses in training: a whole modality, or steps of time, so that a model learns to do without."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from avjax.data.augment.draws import Keys, named_keys, uniform
from avjax.streams import Batch, Stream, beside


@dataclasses.dataclass(frozen=True)
class ModalityDropout:
    """Takes a modality from some rows, or weakens both; a row's last modality always stays.

    With drop 0.5 and soft 0.25 rows are in equal parts whole, softened, without sound and without pictures: one of the
    forms of ``SoftHard`` is drawn.

    Attributes:
      drop: share of the rows that lose one of their modalities, each equally often.
      soft: share of the rows whose first modality is scaled by c, drawn from [0, 1), and the others by 1 - c.
      fill: what a lost modality is: missing (nothing is valid), zero, or noise from a standard normal distribution.
    """

    drop: float = 0.25
    soft: float = 0.0
    fill: Literal["missing", "zero", "noise"] = "missing"

    def __post_init__(self) -> None:
        if self.drop < 0 or self.soft < 0 or self.drop + self.soft > 1:
            raise ValueError(
                f"ModalityDropout: drop {self.drop} and soft {self.soft} must be shares that add up to 1 at most"
            )

    def __call__(self, batch: Batch, keys: Keys, modalities: Sequence[str]) -> Batch:
        """Draws for the float streams named ``modalities``."""
        if len(modalities) < 2:
            return batch
        kind, which, share = uniform(keys, "modality dropout", "lost modality", "soft share")
        present = jnp.stack([jnp.asarray(batch.streams[name].valid).any(1) for name in modalities])
        several = present.sum(0) > 1
        # The n-th of the modalities that the row has.
        chosen = jnp.floor(which * present.sum(0)).astype(jnp.int32)
        number = jnp.cumsum(present, 0) - 1
        soft = several & (kind >= self.drop) & (kind < self.drop + self.soft)
        streams = dict(batch.streams)
        for place, name in enumerate(modalities):
            lost = several & (kind < self.drop) & present[place] & (number[place] == chosen)
            scale = jnp.where(soft, share if place == 0 else 1 - share, 1.0)
            stream = streams[name]
            values = stream.values * beside(scale, stream.values).astype(stream.values.dtype)
            streams[name] = self._lose(stream.replace(values=values), lost, named_keys(keys, [f"noise {name}"])[0])
        return batch.replace(streams=streams)

    def _lose(self, stream: Stream, lost: Bool[Array, " B"], keys: Keys) -> Stream:
        fill = jnp.zeros((), stream.values.dtype)
        if self.fill == "noise":
            shape = stream.values.shape[1:]
            fill = jax.vmap(lambda key: jax.random.normal(key, shape, stream.values.dtype))(keys)
        valid = jnp.asarray(stream.valid)
        if self.fill == "missing":
            valid = valid & ~lost[:, None]
        there = beside(jnp.asarray(stream.valid), stream.values)
        return stream.replace(
            values=jnp.where(beside(lost, stream.values), jnp.where(there, fill, 0), stream.values), valid=valid
        )


@dataclasses.dataclass(frozen=True)
class SoftHard:
    """Every row in all of its forms (Chumachenko et al. 2022, as AVT-CA is trained): the batch is four times as large.

        (a, v),   (c a, (1 - c) v),   (0, v),   (a, 0),        c from 0, 0.01, ..., 0.99, drawn for every row

    The forms of a row lie side by side. Of more than two modalities the first gets c, and there is a form without each
    (ours). A modality that a row lacks stays missing.
    """

    def __call__(self, batch: Batch, keys: Keys, modalities: Sequence[str]) -> Batch:
        """Draws for the float streams named ``modalities``; targets, weights and indices are repeated."""
        forms = 2 + len(modalities)
        (drawn,) = uniform(keys, "soft share")
        share = jnp.floor(100 * drawn) / 100
        batch = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), forms, axis=0), batch)
        streams = dict(batch.streams)
        for place, name in enumerate(modalities):
            scale = jnp.ones((len(share), forms)).at[:, 1].set(share if place == 0 else 1 - share)
            scale = scale.at[:, 2 + place].set(0).reshape(-1)
            values = streams[name].values
            streams[name] = streams[name].replace(values=values * beside(scale, values).astype(values.dtype))
        return batch.replace(streams=streams)


@dataclasses.dataclass(frozen=True)
class TemporalErasing:
    """Takes steps of time from every row; its first and last valid steps stay (noise imitation of NIAT).

    Attributes:
      rate: share of the time that is lost.
      kind: random, every step of every modality by itself; structured, the same times in all modalities; block, one
        stretch of time in all modalities.
      seconds: length of the pieces of time that structured erasing draws for.
    """

    rate: float = 0.2
    kind: Literal["random", "structured", "block"] = "structured"
    seconds: float = 0.1

    def __call__(self, batch: Batch, keys: Keys, modalities: Sequence[str]) -> Batch:
        """Erases in the streams named ``modalities``: not valid any more, values 0."""
        names = list(modalities)
        length = max(batch.streams[name].valid.shape[1] / batch.streams[name].rate for name in names)
        begin = jnp.stack([jnp.asarray(batch.streams[name].start) for name in names]).min(0)
        streams = dict(batch.streams)
        for name in names:
            stream = streams[name]
            steps = stream.valid.shape[1]
            time = stream.start[:, None] - begin[:, None] + jnp.arange(steps) / stream.rate
            lost = self._lost(time, length, keys, name) & ~_ends(jnp.asarray(stream.valid))
            values = jnp.where(beside(lost, stream.values), 0, stream.values).astype(stream.values.dtype)
            streams[name] = stream.replace(values=values, valid=jnp.asarray(stream.valid) & ~lost)
        return batch.replace(streams=streams)

    def _lost(self, time: Float[Array, "B T"], length: float, keys: Keys, name: str) -> Bool[Array, "B T"]:
        if self.kind == "block":
            (at,) = uniform(keys, "erased block")
            first = (at * (1 - self.rate) * length)[:, None]
            return (time >= first) & (time < first + self.rate * length)
        if self.kind == "random":
            return _draws(named_keys(keys, [f"erased {name}"])[0], time.shape[1]) < self.rate
        # Modalities may start apart: a piece of time more at the end holds what lies beyond the longest.
        pieces = 2 * max(int(length / self.seconds), 1) + 1
        drawn = _draws(named_keys(keys, ["erased pieces"])[0], pieces)
        place: Int[Array, "B T"] = jnp.clip((time / self.seconds + 1e-4).astype(jnp.int32), 0, pieces - 1)
        return jnp.take_along_axis(drawn, place, 1) < self.rate


def _draws(keys: Keys, count: int) -> Float[Array, "B _"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def _ends(valid: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """The first and the last valid step of every row."""
    number = jnp.cumsum(valid, 1)
    return valid & ((number == 1) | (number == number[:, -1:]))
