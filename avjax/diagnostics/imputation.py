"""What is removed from a clip, made up from what is left around it: noisy linear imputation.

Rong, Leemann, Borisov, Kasneci, Kasneci: A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML
2022 (ROAD).

    x_i = sum_n w_n x_n / sum_n w_n + N(0, (0.01 sigma)^2)      for every removed i, n its neighbours

A mean in place of a part shows where the part was, and a model may answer to that outline; what follows from its
neighbours does not. Of pictures the paper's weights: 1/6 for the four direct neighbours, 1/12 for the four diagonal
ones. Ours: 1/6 also for the same pixel one frame earlier and later, since parts are parts of videos; and of sound and
features a step's two neighbours, which draws a line between what is left on either side. The neighbours may be removed
too, so that all of them are one system of linear equations: closed for sound, by conjugate gradients for pictures.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.fills import generator
from avjax.diagnostics.players import Baseline, Players
from avjax.streams import beside

NOISE = 0.01
"""Of a modality's standard deviation."""
TOLERANCE, MOST_STEPS = 1e-5, 200
"""Of conjugate gradients: the residual, as a share of what is known of the neighbours, and how often at most."""
WEIGHTS = {
    step: 1 / 6 if np.abs(step).sum() == 1 else 1 / 12
    for step in itertools.product((-1, 0, 1), repeat=3)
    if np.abs(step).sum() == 1 or (step[0] == 0 and np.abs(step).sum() == 2)
}
"""Of neighbours, by their distance in frames, rows and columns."""


def imputed(
    clips: Clips, kept: Bool[np.ndarray, "B n"], players: Players, mean: Baseline, deviation: Mapping[str, float], *,
    rows: int, seed: int = 0,
) -> Clips:  # fmt: skip
    """Clips without the raw players that a coalition of their own does not keep.

    Args:
      kept: True where a player is present.
      mean: what stands there where a clip has nothing left to go by.
      deviation: of each modality, of which the noise is a share.
      rows: of the program, at least as many as clips, so that one is compiled.
      seed: of the noise, which follows from the record's number as well, and not from what is kept.
    """
    full, streams = np.resize(np.arange(len(clips)), rows), {}
    for modality, where in players.where.items():
        stream = clips.streams[modality]
        gone = ~kept[:, where] & beside(stream.valid, where[None])
        program = _program(stream.values.ndim == 5)
        values = program(stream.values[full], stream.valid[full], gone[full], jnp.asarray(mean[modality], jnp.float32))
        name, size = f"{modality} imputed", NOISE * deviation[modality]
        noise = [generator(seed, index, name).standard_normal(stream.values.shape[1:], np.float32)
                 for index in clips.index]  # fmt: skip
        added = np.where(beside(gone, stream.values), size * np.stack(noise), 0)
        streams[modality] = stream.replace(values=np.asarray(values)[: len(clips)] + added.astype(np.float32))
    return clips.replace(streams)


def along_time(
    values: Num[Array, "B T *shape"], valid: Bool[Array, "B T"], gone: Bool[Array, "B T"], mean: Float[Array, "..."]
) -> Num[Array, "B T *shape"]:
    """A line between the steps on either side of what is gone; at an end the only one that there is."""
    steps, known = values.shape[1], valid & ~gone
    place = jnp.arange(steps)
    before = jax.lax.cummax(jnp.where(known, place, -1), axis=1)
    after = jax.lax.cummin(jnp.where(known, place, steps), axis=1, reverse=True)

    def at(places: Array) -> Array:
        return jnp.take_along_axis(values, beside(jnp.clip(places, 0, steps - 1), values), axis=1)

    share = (place - before) / jnp.maximum(after - before, 1)
    share = jnp.where(before < 0, 1, jnp.where(after >= steps, 0, share))
    line = at(before) + (at(after) - at(before)) * beside(share, values).astype(values.dtype)
    found = jnp.where(beside(known.any(1), values), line, mean)
    return jnp.where(beside(gone & valid, values), found, values)


def over_pixels(
    values: Num[Array, "B T H W C"], valid: Bool[Array, "B T"], gone: Bool[Array, "B T H W"], mean: Float[Array, "..."]
) -> Num[Array, "B T H W C"]:
    """The weighted mean of neighbours in the picture, and of the same pixel in the frames before and after."""
    there = jnp.broadcast_to(valid[:, :, None, None], gone.shape)[..., None]
    removed = gone[..., None] & there
    known = jnp.where(there & ~removed, values, 0)
    total = _neighbours(there.astype(values.dtype))

    def system(x: Array) -> Array:
        """Symmetric and, where a clip has anything left, positive definite over what is removed."""
        return jnp.where(removed, total * x - _neighbours(x), 0)

    x, _ = jax.scipy.sparse.linalg.cg(
        system, jnp.where(removed, _neighbours(known), 0), tol=TOLERANCE, maxiter=MOST_STEPS
    )
    some = (there & ~removed).any((1, 2, 3, 4))
    return jnp.where(removed, jnp.where(beside(some, values), x, mean), values)


def _neighbours(x: Num[Array, "B T H W C"]) -> Num[Array, "B T H W C"]:
    """Weighted sum of each pixel's neighbours; beyond the edge there are none."""
    frames, height, width = x.shape[1:4]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))
    return sum(
        weight * padded[:, 1 + t : 1 + t + frames, 1 + y : 1 + y + height, 1 + z : 1 + z + width]
        for (t, y, z), weight in WEIGHTS.items()
    )


@functools.cache
def _program(pictures: bool) -> Callable[..., jax.Array]:
    return compiled(over_pixels if pictures else along_time)
