"""Blurs of single frames. The constants are ImageNet-C's (Hendrycks & Dietterich 2019), for frames 224 high."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from avjax.diagnostics.stress.fields import (
    blurred,
    convolved,
    gaussian_kernel,
    line_kernel,
    places,
    point_kernel,
    sampled,
    scale,
)
from avjax.diagnostics.stress.rows import Frame, Key, Level, named, picture, uniform


@picture("gaussian_blur", "standard deviation in pixels of 224", (1, 2, 3, 4, 6), "nothing")
def gaussian_blur(frame: Frame, level: Level, key: Key) -> Frame:
    """Convolution with a Gaussian."""
    return blurred(frame, level * scale(frame), 6 * scale(frame))


@picture(
    "glass_blur",
    "standard deviation in pixels of 224, reach in pixels of 224, rounds",
    ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "clip",
)
def glass_blur(frame: Frame, level: Level, key: Key) -> Frame:
    """Pixels exchanged with near ones, as through frosted glass, between two Gaussian blurs.

    Ours, in parallel: each pixel is read from a place that is the sum over the rounds of uniform moves in
    [-reach, reach], where ImageNet-C swaps one pixel after the other.
    """
    sigma, reach, rounds = level[0] * scale(frame), level[1] * scale(frame), level[2]
    moves = jax.random.uniform(named(key, "moves"), (3, 2, *frame.shape[:2]), minval=-1, maxval=1)
    counted = jnp.arange(3)[:, None, None, None] < rounds
    down, right = reach * jnp.where(counted, moves, 0).sum(0)
    rows, columns = places(frame)
    largest = 1.5 * scale(frame)
    return blurred(sampled(blurred(frame, sigma, largest), rows + down, columns + right), sigma, largest)


@picture(
    "defocus_blur",
    "radius in pixels of 224, standard deviation of its edge in pixels of 224",
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "nothing",
)
def defocus_blur(frame: Frame, level: Level, key: Key) -> Frame:
    """Convolution with a disc whose edge is soft: out of focus."""
    radius, edge = level[0] * scale(frame), level[1] * scale(frame)
    across = jnp.linspace(-1, 1, 41)
    rows, columns = (axis.reshape(-1) for axis in jnp.meshgrid(across, across, indexing="ij"))
    inside = (rows**2 + columns**2 <= 1).astype(jnp.float32)
    reach = math.ceil(10 * scale(frame)) + 1
    disc = point_kernel(radius * rows, radius * columns, inside, reach)
    soft = gaussian_kernel(edge, math.ceil(2 * scale(frame)) + 1)
    return convolved(frame, jax.scipy.signal.convolve(disc, soft))


@picture(
    "motion_blur",
    "radius in pixels of 224, standard deviation in pixels of 224",
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "clip",
)
def motion_blur(frame: Frame, level: Level, key: Key) -> Frame:
    """Convolution with a one-sided Gaussian line of 2 r + 1 points, at up to 45 degrees from level."""
    angle = jnp.pi / 4 * (2 * uniform(key, "angle") - 1)
    return convolved(frame, line_kernel(2 * level[0], level[1], angle, 40, scale(frame)))


BLUR = (gaussian_blur, glass_blur, defocus_blur, motion_blur)
