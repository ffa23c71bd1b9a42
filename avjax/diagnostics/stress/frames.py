"""Corruptions of a clip's frames over time, and occluders and turns that last a clip.

Positions in time are counted among the valid frames. Shares of frames are met on average, also where they are no whole
number of frames: a clip of 4 frames has one frozen of ten per cent in 2 of 5 cases.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from avjax.diagnostics.stress.fields import covered, places, sampled
from avjax.diagnostics.stress.rows import Frame, Key, Level, picture, times, uniform, video
from avjax.streams import Stream

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
WINDOWS = (2, 4, 8, 16, math.inf)
FILMED = 30.0
"""Frames a second at which Mini Kinetics-C counts its frames (Yi et al. 2021)."""


@video("freeze", "share of frames", TENTHS, "clip")
def freeze(stream: Stream, level: Level, key: Key) -> Stream:
    """The picture stands still once, for so many of the frames."""
    begin, rounding = uniform(key, "freeze", (2,))
    present = stream.valid.sum()
    count = jnp.minimum(jnp.floor(level * present + rounding), present - 1)
    first = 1 + jnp.floor(begin * (present - count))
    rank = jnp.arange(len(stream.valid))
    return _reordered(stream, jnp.where((rank >= first) & (rank < first + count), first - 1, rank))


@video("drop", "share of frames", TENTHS, "clip")
def drop(stream: Stream, level: Level, key: Key) -> Stream:
    """So many of the frames are missing, here and there; one is always left."""
    present = stream.valid.sum()
    count = jnp.minimum(jnp.floor(level * present + uniform(key, "rounding")), present - 1)
    order = jnp.argsort(jnp.where(stream.valid, uniform(key, "drop", stream.valid.shape), 2))
    place = jnp.argsort(order)
    kept = stream.valid & (place >= count)
    return stream.replace(values=jnp.where(kept[:, None, None, None], stream.values, 0), valid=kept)


@video("shuffle", "frames in a window", WINDOWS, "clip")
def shuffle(stream: Stream, level: Level, key: Key) -> Stream:
    """Frames in random order within windows; in the last level within the clip."""
    rank = jnp.arange(len(stream.valid))
    inside = rank < stream.valid.sum()
    place = jnp.floor(rank / level) + uniform(key, "shuffle", rank.shape)
    return _reordered(stream, jnp.argsort(jnp.where(inside, place, jnp.inf)))


@video("reverse", "frames in a window", WINDOWS, "nothing")
def reverse(stream: Stream, level: Level, key: Key) -> Stream:
    """Frames backwards within windows; in the last level the clip backwards."""
    rank, present = jnp.arange(len(stream.valid)), stream.valid.sum()
    window = jnp.minimum(level, len(rank))
    first = jnp.floor(rank / window) * window
    last = jnp.minimum(first + window, present) - 1
    return _reordered(stream, jnp.where(rank < present, first + last - rank, rank))


@video("frame_rate", "share of the clip's frame rate", tuple(rate / FILMED for rate in (20, 16, 12, 9, 6)), "nothing")
def frame_rate(stream: Stream, level: Level, key: Key) -> Stream:
    """Fewer pictures a second, each held until the next.

    Mini Kinetics-C's 20, 16, 12, 9 and 6 frames/s as shares of 30, so that clips sampled at less than 20 change too.
    """
    rank = jnp.arange(len(stream.valid))
    # The first frame at or after each moment of the lower rate; float32 must not take 3 / (1 / 3) for more than 9.
    return _reordered(stream, jnp.ceil(jnp.floor(rank * level + 1e-4) / level - 1e-4))


@video("frame_blur", "half window in seconds", tuple(count / FILMED for count in (3, 5, 7, 9, 11)), "nothing")
def frame_blur(stream: Stream, level: Level, key: Key) -> Stream:
    """Mean over so much time before and after, of frames joined by straight lines: a long exposure.

    Mini Kinetics-C's half windows of 3, 5, 7, 9 and 11 frames at 30 frames/s, in seconds.
    """
    half = level * stream.rate
    at = jnp.arange(len(stream.valid), dtype=jnp.float32)
    apart = at[:, None] - at
    weights = jnp.where(stream.valid, _under_tent(apart + half) - _under_tent(apart - half), 0)
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-12)
    return stream.replace(
        values=jnp.einsum("ts,shwc->thwc", weights, stream.values, precision=jax.lax.Precision.HIGHEST)
    )


@video("occlusion", "share of the area", TENTHS, "clip")
def occlusion(stream: Stream, level: Level, key: Key) -> Stream:
    """A grey rectangle of the frame's shape hides so much of it, at one place."""
    return _occluded(stream, level, jnp.broadcast_to(uniform(key, "place", (2, 1)), (2, len(stream.valid))))


@video("moving_occlusion", "share of the area", TENTHS, "clip")
def moving_occlusion(stream: Stream, level: Level, key: Key) -> Stream:
    """The same rectangle, going to and fro along a line at half a frame a second."""
    place = uniform(key, "place", (2, 1))
    angle = 2 * jnp.pi * uniform(key, "angle")
    path = place + 0.5 * times(stream) * jnp.stack([jnp.sin(angle), jnp.cos(angle)])[:, None]
    return _occluded(stream, level, 1 - jnp.abs(jnp.mod(path, 2) - 1))


def _angle(level: Level, key: Key) -> Float[Array, ""]:
    """One way or the other, as the clip has it."""
    return jnp.deg2rad(level) * jnp.where(uniform(key, "side") < 0.5, -1, 1)


@picture("rotation", "degrees", (11, 17, 23, 29, 35), "clip", ("turn", lambda level, key: -_angle(level, key)))
def rotation(frame: Frame, level: Level, key: Key) -> Frame:
    """Turned one way or the other about the middle, the border repeated."""
    angle = _angle(level, key)
    rows, columns = places(frame)
    middle = [(side - 1) / 2 for side in frame.shape[:2]]
    down, right = rows - middle[0], columns - middle[1]
    return sampled(
        frame,
        middle[0] + jnp.cos(angle) * down - jnp.sin(angle) * right,
        middle[1] + jnp.sin(angle) * down + jnp.cos(angle) * right,
    )


def _reordered(stream: Stream, source: Float[Array, " T"] | Int[Array, " T"]) -> Stream:
    """The r-th valid frame shows what the ``source[r]``-th did."""
    rank = jnp.maximum(jnp.cumsum(stream.valid) - 1, 0)
    order = jnp.argsort(~stream.valid, stable=True)
    return stream.replace(values=stream.values[order[source.astype(jnp.int32)[rank]]])


def _occluded(stream: Stream, area: Level, place: Float[Array, "2 T"]) -> Stream:
    """Grey over a rectangle whose ``place`` goes from one end (0) of its room to the other (1)."""
    side = jnp.sqrt(area)

    def along(size: int, at: Float[Array, " T"]) -> Float[Array, "T N"]:
        return jax.vmap(lambda u: covered(u * (1 - side) * size, side * size, size))(at)

    height, width = stream.values.shape[1:3]
    mask = jnp.einsum("ti,tj->tij", along(height, place[0]), along(width, place[1]))[..., None]
    return stream.replace(values=stream.values + mask * (0.5 - stream.values))


def _under_tent(z: Float[Array, "T S"]) -> Float[Array, "T S"]:
    """Integral from -inf to z of max(0, 1 - |t|)."""
    z = jnp.clip(z, -1, 1)
    return jnp.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)


FRAMES = (freeze, drop, shuffle, reverse, frame_rate, frame_blur, occlusion, moving_occlusion, rotation)
