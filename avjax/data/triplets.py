"""Triplets of a batch: every voice with its own face and with somebody else's."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from avjax.data.augment import row_keys
from avjax.data.augment.draws import named_keys, uniform
from avjax.streams import Batch


@dataclasses.dataclass(frozen=True)
class Triplets:
    """From clips with voice and face to an anchor with two candidates, of which one is its own.

    The other face is that of another row of the batch, who is somebody else. In training the row and the own face's
    place are drawn anew at each step, by record; in evaluation the next such row down the batch is taken, and the own
    face is first in every other row. A row for which there is nobody else has no second face.

    The streams are then ``voice``, ``face_a`` and ``face_b``, and the target ``match`` [B, 2] says which face is the
    voice's own; the target that says who is who stays.

    Attributes:
      identity: head of who a clip shows; target [B, K].
      anchor, candidate: streams that become the voice, and the faces.
      match: head of the place of the own face.
    """

    identity: str = "identity"
    anchor: str = "audio"
    candidate: str = "video"
    match: str = "match"

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> Batch:
        """The batch of triplets; ``key`` is the step's, None in evaluation."""
        if self.identity not in batch.target:
            raise ValueError(
                f"triplets are made by who is who, and no target is {self.identity!r}; there are"
                f" {', '.join(batch.target) or 'none'}"
            )
        faces = batch.streams[self.candidate]
        who = jnp.asarray(batch.target[self.identity]).argmax(axis=-1)
        there = jnp.asarray(faces.valid).any(axis=1) & (jnp.asarray(batch.weight) > 0)
        able = (who[:, None] != who[None]) & there[None]
        rows = len(who)
        if key is None:
            ahead = (jnp.arange(rows)[None] - jnp.arange(rows)[:, None]) % rows
            preference, first = -ahead, jnp.arange(rows) % 2 == 0
        else:
            keys = row_keys(jax.random.fold_in(key, 3), jnp.asarray(batch.index))
            preference = _drawn(named_keys(keys, ["other"])[0], rows)
            first = uniform(keys, "place")[0] < 0.5
        other = jnp.where(able, preference, -jnp.inf).argmax(axis=1)
        known = able.any(axis=1)
        theirs = jax.tree.map(lambda x: jnp.asarray(x)[other], faces)
        theirs = theirs.replace(valid=theirs.valid & known[:, None])

        def place(own: Any, somebody: Any, at: Bool[Array, " B"]) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(at.reshape(-1, *[1] * (a.ndim - 1)), a, b), own, somebody)

        own = jax.tree.map(jnp.asarray, faces)
        streams = {name: stream for name, stream in batch.streams.items() if name not in (self.anchor, self.candidate)}
        streams |= {
            "voice": batch.streams[self.anchor],
            "face_a": place(own, theirs, first),
            "face_b": place(own, theirs, ~first),
        }
        match = jnp.stack([first, ~first], axis=-1).astype(jnp.float32)
        return batch.replace(streams=streams, target={**batch.target, self.match: match})


def _drawn(keys: jax.Array, count: int) -> Float[Array, "B N"]:
    """Numbers in [0, 1) for every row, from its key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,), jnp.float32))(keys)
