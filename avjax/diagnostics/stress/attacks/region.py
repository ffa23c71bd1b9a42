"""Where an attack may go: budgets of each modality, the box of its values, and the valid positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from avjax.streams import beside

Values = Mapping[str, Float[Array, "B ..."]]
"""Modality -> raw values of each row."""
Model = Callable[[Mapping[str, Shaped[Array, "B ..."]]], Float[Array, "B K"]]
"""Raw inputs to logits, traceable and differentiable by JAX, each row by itself. A ``jax.tree_util.Partial`` brings
its arrays along as arguments of the compiled programs; a plain function's are part of them."""
Box = Mapping[str, tuple[float, float]]
Rows = Float[Array, " B"]

BOX: Box = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


def snr_radius(
    samples: Float[np.ndarray, "B S"], over: Bool[np.ndarray, "B S"], decibels: float
) -> Float[np.ndarray, " B"]:
    """Linf radius of each clip that keeps a signal-to-noise ratio, r = rms(s) 10^(-SNR / 20).

    SNR = 10 log10(mean s^2 / mean n^2), and |n| <= r gives mean n^2 <= r^2: no perturbation within r is louder than
    that, and one of signs is exactly so loud. 0 for a silent clip.

    Args:
      over: samples that the signal's mean is over: the valid ones, or the active ones.
      decibels: SNR.
    """
    signal = np.where(over, samples, 0).astype(np.float64)
    power = (signal**2).sum(axis=1) / np.maximum(over.sum(axis=1), 1)
    return (np.sqrt(power) * 10 ** (-decibels / 20)).astype(np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Region:
    """The values that an attack may give each row.

        {x' : |x' - x| <= radius and low <= x' <= high elementwise where it moves, x' = x bit by bit elsewhere}

    A clean value outside the box may stay where it is.

    Attributes:
      clean: modality -> [B, ...] x, of the modalities that an attack may look at.
      radius: modality -> [B]; 0 leaves the row's modality as it is.
      moves: modality -> [B, ...] bool that broadcasts to the values: valid, and of a row with a radius.
      box: modality -> low, high.
    """

    clean: Values
    radius: Mapping[str, Rows]
    moves: Mapping[str, Bool[Array, "B ..."]]
    box: Mapping[str, tuple[float | Array, float | Array]]

    @classmethod
    def of(
        cls, clean: Values, radius: Mapping[str, Rows | float], valid: Mapping[str, Bool[Array, "B _"]], box: Box
    ) -> Region:
        """Of the modalities that have a radius.

        Args:
          valid: modality -> [B, T]; one that is not named is valid everywhere.
          box: modality -> low, high, of at least the modalities with a radius.
        """
        rows = {name: jnp.broadcast_to(jnp.asarray(r, jnp.float32), len(clean[name])) for name, r in radius.items()}
        moves = {}
        for name, r in rows.items():
            there = valid.get(name, jnp.ones(clean[name].shape[:2], bool))
            moves[name] = beside(there & (r > 0)[:, None], clean[name])
        return cls({name: clean[name] for name in rows}, rows, moves, {name: tuple(box[name]) for name in rows})

    @property
    def reach(self) -> dict[str, Array]:
        """Modality -> radius [B, 1, ...], beside the values."""
        return {name: beside(self.radius[name], self.clean[name]) for name in self.clean}

    @property
    def bounds(self) -> dict[str, tuple[Array, Array]]:
        """Modality -> lowest and highest values of the box alone, whatever the radius; x itself where nothing moves."""
        found = {}
        for name, x in self.clean.items():
            low, high = self.box[name]
            moves = self.moves[name]
            found[name] = jnp.where(moves, jnp.minimum(x, low), x), jnp.where(moves, jnp.maximum(x, high), x)
        return found

    def project(self, values: Values) -> dict[str, Array]:
        """The nearest of the region, in every element."""
        found = {}
        for name, (low, high) in self.bounds.items():
            x, reach = self.clean[name], self.reach[name]
            inside = jnp.clip(values[name], jnp.maximum(low, x - reach), jnp.minimum(high, x + reach))
            found[name] = jnp.where(self.moves[name], inside, x)
        return found

    def into_box(self, values: Values) -> dict[str, Array]:
        """The nearest of the box, in every element that moves, whatever the radius."""
        return {
            name: jnp.where(self.moves[name], jnp.clip(values[name], low, high), self.clean[name])
            for name, (low, high) in self.bounds.items()
        }

    def random(self, keys: Key[Array, " B"]) -> dict[str, Array]:
        """x + radius U(-1, 1) in every element, within the region; a row's numbers follow from its key alone."""
        noise = {
            name: jax.vmap(lambda key, shape=x.shape[1:]: jax.random.uniform(key, shape, minval=-1, maxval=1))(
                folded(keys, place)
            )
            for place, (name, x) in enumerate(sorted(self.clean.items()))
        }
        return self.project(jax.tree.map(lambda x, u, r: x + r * u, dict(self.clean), noise, self.reach))


def folded(keys: Key[Array, " B"], number: int | Array) -> Key[Array, " B"]:
    """Keys for one purpose of many."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def where_rows(chosen: Bool[Array, " B"], one: Values, other: Values) -> dict[str, Array]:
    """The rows of one, or of the other."""
    return jax.tree.map(lambda a, b: jnp.where(beside(chosen, a), a, b), dict(one), dict(other))
