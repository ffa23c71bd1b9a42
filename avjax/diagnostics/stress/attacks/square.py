"""Square: random search with square windows, of logits alone (Andriushchenko et al. 2020)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from avjax.diagnostics.stress.attacks.losses import Labels, margin
from avjax.diagnostics.stress.attacks.region import Model, Region, Values, folded, where_rows
from avjax.streams import beside

# Queries of 10000 after which the share of a window halves (the authors' schedule).
HALVES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclasses.dataclass(frozen=True)
class Square:
    """Square Attack, Linf: needs no gradient, so that it sees through a model that hides its own.

    The start is x + radius s with signs s that are constant along the height of a frame, and drawn anew for every
    column, colour and frame, and for every sample of sound. Each query sets a window to x + radius s, one sign s for
    each channel, and is kept where it lowers the margin. Ours, since the paper has images: a window is a share p of
    the elements with sides p^(1/n) of each of the n axes but the last (one axis, time, where there is no other), in
    one modality, drawn evenly from those that the row may change.

    Attributes:
      queries: calls of the model, the start's included.
      share: p of the first windows; it halves as queries go on.
    """

    queries: int = 5000
    share: float = 0.8

    @property
    def name(self) -> str:
        return "Square"

    def turns(self, classes: int) -> int:
        return 1

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values:
        halves = jnp.array([after * self.queries / 10000 for after in HALVES])

        def ahead(state: tuple[Array, Values, Array]) -> Array:
            query, _, least = state
            return (query < self.queries) & (least >= 0).any()

        def proceed(state: tuple[Array, Values, Array]) -> tuple[Array, Values, Array]:
            query, worst, least = state
            share = self.share * 0.5 ** (query > halves).sum()
            x = _window(region, worst, folded(keys, query), share)
            found = margin(model(x).astype(jnp.float32), label)
            # A row that has fallen rests, whatever the others of its batch still need.
            lower = (found < least) & (least >= 0)
            return query + 1, where_rows(lower, x, worst), jnp.where(lower, found, least)

        start = _stripes(region, folded(keys, 0))
        state = jnp.array(1), start, margin(model(start).astype(jnp.float32), label)
        return jax.lax.while_loop(ahead, proceed, state)[1]


def _stripes(region: Region, keys: Key[Array, " B"]) -> Values:
    found = {}
    for place, (name, x) in enumerate(sorted(region.clean.items())):
        # [B, T, H, W, C]: one sign along H. Sound and features have no height.
        shape = (x.shape[1], 1, *x.shape[3:]) if x.ndim == 5 else x.shape[1:]
        found[name] = x + region.reach[name] * _signs(folded(keys, place), shape)
    return region.project(found)


def _window(region: Region, values: Values, keys: Key[Array, " B"], share: Array) -> Values:
    names = sorted(values)
    axes = {name: x.shape[1:-1] if x.ndim > 2 else x.shape[1:] for name, x in values.items()}
    # A number in [0, 1) for each modality, and one for each axis of each.
    drawn = _uniform(folded(keys, 0), len(names) + sum(map(len, axes.values())))
    may = jnp.stack([region.radius[name] > 0 for name in names], axis=1)
    chosen = jnp.where(may, drawn[:, : len(names)], -1).argmax(axis=1)
    found, first = {}, len(names)
    for place, name in enumerate(names):
        x = region.clean[name]
        inside = _box(drawn[:, first : first + len(axes[name])], axes[name], share)
        first += len(axes[name])
        inside = beside(inside, x) & beside(chosen == place, x)
        signs = (1,) * len(axes[name]) + x.shape[1 + len(axes[name]) :]
        moved = x + region.reach[name] * _signs(folded(keys, place + 1), signs)
        found[name] = jnp.where(inside, moved, values[name])
    return region.project(found)


def _box(drawn: Float[Array, "B n"], shape: tuple[int, ...], share: Array) -> Bool[Array, "B ..."]:
    """A window of each row, the same share of every axis, at its place in [0, 1) of the places there are."""
    inside = jnp.ones((len(drawn), *shape), bool)
    for axis, length in enumerate(shape):
        side = jnp.clip(jnp.round(length * share ** (1 / len(shape))), 1, length)
        begin = jnp.floor(drawn[:, axis, None] * (length - side + 1))
        own = (jnp.arange(length) >= begin) & (jnp.arange(length) < begin + side)
        inside = inside & own.reshape(-1, *[length if other == axis else 1 for other in range(len(shape))])
    return inside


def _uniform(keys: Key[Array, " B"], number: int) -> Float[Array, "B _"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (number,)))(keys)


def _signs(keys: Key[Array, " B"], shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    return jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(keys)
