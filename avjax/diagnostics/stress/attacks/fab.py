"""FAB: the smallest change that makes a mistake, by projections on the decision boundary (Croce & Hein 2020a)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from avjax.diagnostics.stress.attacks.losses import Labels, ascent, likely_target
from avjax.diagnostics.stress.attacks.region import Model, Region, Values, where_rows
from avjax.streams import beside

# The paper's, for Linf: overshoot, most weight of the clean clip, shrinking after a success.
ETA, ALPHA_MAX, BETA = 1.05, 0.1, 0.9
FINAL_STEPS, BEYOND = 3, 0.01
# Each crosses at least one kink of a piecewise linear function, and all that matter within a few.
MOST_NEWTON_STEPS = 50


@dataclasses.dataclass(frozen=True)
class FAB:
    """Targeted fast adaptive boundary attack, Linf (FAB-T; Croce & Hein 2020a, and 2020b for its targets).

    With d1, d2 the smallest steps from x_k and from the clean x onto the plane where z_t = z_y linearised at x_k:

        alpha   = min( ||d1|| / (||d1|| + ||d2||), 0.1 )
        x_{k+1} = box( (1 - alpha) (x_k + eta d1) + alpha (x + eta d2) ),   eta = 1.05
        where x_{k+1} is no longer of class y: keep it if it is the nearest to x so far,
        x_{k+1} <- (1 - beta) x + beta x_{k+1},   beta = 0.9

    and in the end three steps of the secant rule on the segment from x to the nearest. ||d|| is the largest |d| over
    the radius of its modality, so that with one modality the norm is Linf and with several their radii set the terms.
    The radius limits only what a call returns, not ``nearest``.

    Attributes:
      steps: iterations.
      targets: most classes to aim at, one a turn, by their logits on the clean clip; fewer where there are fewer.
    """

    steps: int = 100
    targets: int = 9

    @property
    def name(self) -> str:
        return "FAB-T"

    def turns(self, classes: int) -> int:
        return min(self.targets, classes - 1)

    def __call__(
        self, model: Model, region: Region, label: Labels, keys: Key[Array, " B"], turn: Int[Array, ""]
    ) -> Values:
        return region.project(self.nearest(model, region, label, turn)[0])

    def nearest(
        self, model: Model, region: Region, label: Labels, turn: Int[Array, ""]
    ) -> tuple[Values, Float[Array, " B"]]:
        """The nearest values of another class that were found, and their norm in radii; the clean ones and inf where
        none were."""
        clean = dict(region.clean)
        target = likely_target(model(clean).astype(jnp.float32), label, turn)

        def gap(logits: Array) -> Array:
            return (jnp.take_along_axis(logits, jnp.stack([label, target], 1), axis=1) * jnp.array([-1.0, 1.0])).sum(1)

        def crossed(logits: Array) -> Array:
            return logits.argmax(axis=1) != label

        def proceed(_: Array, state: tuple) -> tuple:
            x, nearest, least = state
            _, offset, normal = ascent(model, gap, x, region)
            offset_clean = offset + _dot(normal, _difference(region, clean, x))
            one, norm_one = onto_plane(region, x, normal, offset)
            other, norm_other = onto_plane(region, clean, normal, offset_clean)
            alpha = jnp.minimum(norm_one / jnp.maximum(norm_one + norm_other, 1e-12), ALPHA_MAX)
            x = region.into_box(
                jax.tree.map(
                    lambda x, d1, o, d2: (1 - beside(alpha, x)) * (x + ETA * d1) + beside(alpha, x) * (o + ETA * d2),
                    x, one, clean, other,
                )
            )  # fmt: skip
            across = crossed(model(x).astype(jnp.float32))
            norm = distance(region, x)
            nearer = across & (norm < least)
            nearest, least = where_rows(nearer, x, nearest), jnp.where(nearer, norm, least)
            back = region.into_box(jax.tree.map(lambda o, x: (1 - BETA) * o + BETA * x, clean, x))
            return where_rows(across, back, x), nearest, least

        start = clean, clean, jnp.full(label.shape, jnp.inf)
        _, nearest, least = jax.lax.fori_loop(0, self.steps, proceed, start)
        return self._along_segment(model, region, gap, crossed, nearest, least)

    def _along_segment(self, model, region, gap, crossed, nearest, least) -> tuple[Values, Array]:
        """Nearer points of the segment from the clean values, where the two classes' logits would meet if linear."""
        clean, there = dict(region.clean), nearest

        def at(share: Array) -> Values:
            return region.into_box(jax.tree.map(lambda o, x: o + beside(share, x) * (x - o), clean, there))

        def proceed(_: Array, state: tuple) -> tuple:
            low, gap_low, high, gap_high, nearest, least = state
            meet = low - gap_low * (high - low) / jnp.where(gap_high > gap_low, gap_high - gap_low, jnp.inf)
            # A hundredth beyond, where rounding cannot leave it on the near side.
            share = jnp.clip(meet + BEYOND * (high - meet), low, high)
            x = at(share)
            logits = model(x).astype(jnp.float32)
            across, found, norm = crossed(logits), gap(logits), distance(region, x)
            nearer = across & (norm < least)
            return (
                jnp.where(across, low, share), jnp.where(across, gap_low, found),
                jnp.where(across, share, high), jnp.where(across, found, gap_high),
                where_rows(nearer, x, nearest), jnp.where(nearer, norm, least),
            )  # fmt: skip

        low, high = jnp.zeros_like(least), jnp.ones_like(least)
        ends = gap(model(clean).astype(jnp.float32)), gap(model(nearest).astype(jnp.float32))
        state = low, ends[0], high, ends[1], nearest, least
        return jax.lax.fori_loop(0, FINAL_STEPS, proceed, state)[4:]


def distance(region: Region, values: Values) -> Float[Array, " B"]:
    """max |x' - x| / radius of each row, over what moves."""
    return _norm(region, _difference(region, values, region.clean))


def onto_plane(
    region: Region, values: Values, normal: Values, offset: Float[Array, " B"]
) -> tuple[Values, Float[Array, " B"]]:
    """The smallest d with <normal, d> + offset = 0 and values + d in the box, and its norm in radii.

        d_i = -sign(offset w_i) min(lambda radius_i, room_i),   sum_i |w_i| min(lambda radius_i, room_i) = |offset|

    where room_i is how far i can go. The left side is concave and piecewise linear in lambda, so that Newton's steps
    from 0 rise to the solution and end there. Where the box does not reach the plane, d goes as far as it can.
    """
    bounds, reach = region.bounds, region.reach
    against = {name: jnp.sign(-beside(jnp.sign(offset), w) * w) for name, w in normal.items()}
    room = {}
    for name, (low, high) in bounds.items():
        up, x = against[name] > 0, values[name]
        far = jnp.where(up, high - x, x - low)
        room[name] = jnp.where(region.moves[name] & (against[name] != 0), jnp.maximum(far, 0), 0)
    size = {name: jnp.abs(w) for name, w in normal.items()}
    need = jnp.abs(offset)

    def progress(level: Array) -> tuple[Array, Array]:
        """The left side at lambda, and its slope."""
        step = {name: jnp.minimum(beside(level, r) * r, room[name]) for name, r in reach.items()}
        free = {name: jnp.where(beside(level, r) * r < room[name], r, 0) for name, r in reach.items()}
        return _dot(size, step), _dot(size, free)

    def ahead(state: tuple[Array, Array, Array]) -> Array:
        return state[1].any() & (state[2] < MOST_NEWTON_STEPS)

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        level, _, count = state
        done, slope = progress(level)
        rise = jnp.where(slope > 0, (need - done) / jnp.where(slope > 0, slope, 1), 0)
        following = level + jnp.maximum(rise, 0)
        return following, following > level * (1 + 1e-6), count + 1

    zero = jnp.zeros_like(need)
    level, _, _ = jax.lax.while_loop(ahead, newton, (zero, zero == 0, jnp.array(0)))
    step = {name: against[name] * jnp.minimum(beside(level, r) * r, room[name]) for name, r in reach.items()}
    return step, _norm(region, step)


def _difference(region: Region, one: Values, other: Values) -> Values:
    """0 where nothing moves: values there may be anything."""
    return {name: jnp.where(moves, one[name] - other[name], 0) for name, moves in region.moves.items()}


def _dot(one: Values, other: Values) -> Float[Array, " B"]:
    return sum((one[name] * other[name]).reshape(len(one[name]), -1).sum(axis=1) for name in one)


def _norm(region: Region, step: Values) -> Float[Array, " B"]:
    parts = []
    for name, d in step.items():
        reach = region.reach[name]
        share = jnp.abs(d) / jnp.where(reach > 0, reach, 1)
        parts.append(share.reshape(len(d), -1).max(axis=1))
    return jnp.stack(parts).max(axis=0)
