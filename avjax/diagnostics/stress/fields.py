"""What pictures are corrupted with: point spreads, bilinear samples, random fields."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from avjax.diagnostics.stress.rows import Frame, Key, Level

# Published radii are of frames so high.
HEIGHT = 224


def scale(frame: Frame) -> float:
    """Pixels of this frame to one of a frame 224 high."""
    return frame.shape[0] / HEIGHT


def convolved(frame: Frame, kernel: Float[Array, "K L"]) -> Float32[Array, "H W C"]:
    """The frame convolved with an odd kernel, its border mirrored; by FFT, so the kernel's size costs little."""
    height, width = frame.shape[:2]
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = jnp.pad(frame, ((rows, rows), (columns, columns), (0, 0)), mode="symmetric")
    shape = padded.shape[:2]
    transform = jnp.fft.rfft2(padded, axes=(0, 1)) * jnp.fft.rfft2(kernel, s=shape)[..., None]
    # The kernel's middle stands at (rows, columns), so the result is as far to the lower right.
    found = jnp.fft.irfft2(transform, s=shape, axes=(0, 1))
    return found[2 * rows : 2 * rows + height, 2 * columns : 2 * columns + width]


def gaussian_kernel(sigma: Level, radius: int) -> Float32[Array, "K K"]:
    """Gaussian integrated over each pixel, so that it blurs at every sigma > 0 and sums to 1."""
    edges = jnp.arange(-radius, radius + 2) - 0.5
    mass = jnp.diff(jax.scipy.stats.norm.cdf(edges / sigma))
    mass = mass / mass.sum()
    return jnp.outer(mass, mass)


def blurred(frame: Frame, sigma: Level, largest: float) -> Float32[Array, "H W C"]:
    """Gaussian blur of ``sigma`` pixels, of which there are at most ``largest``."""
    return convolved(frame, gaussian_kernel(sigma, math.ceil(4 * largest) + 1))


def point_kernel(
    rows: Float[Array, " P"], columns: Float[Array, " P"], weights: Float[Array, " P"], radius: int
) -> Float32[Array, "K K"]:
    """k(d) = sum_p w_p tri(d - z_p) / sum_p w_p: points of any place, bilinear between pixels."""
    at = jnp.arange(-radius, radius + 1)

    def tent(points: Array) -> Array:
        return jnp.maximum(0, 1 - jnp.abs(at - points[:, None]))

    kernel = jnp.einsum("p,pi,pj->ij", weights, tent(rows), tent(columns), precision=jax.lax.Precision.HIGHEST)
    return kernel / kernel.sum()


def line_kernel(length: Level, sigma: Level, angle: Level, longest: int, size: float) -> Float32[Array, "K K"]:
    """One-sided motion: weights exp(-i^2 / (2 sigma^2)), i = 0 .. length, along ``angle`` (radians, down from right).

    Args:
      longest: most that ``length`` can be.
      size: pixels to one of ``length`` and ``sigma``.
    """
    step = jnp.arange(longest + 1, dtype=jnp.float32)
    weights = jnp.where(step <= length, jnp.exp(-(step**2) / (2 * sigma**2)), 0)
    return point_kernel(
        size * step * jnp.sin(angle), size * step * jnp.cos(angle), weights, math.ceil(longest * size) + 1
    )


def sampled(frame: Frame, rows: Float[Array, "H W"], columns: Float[Array, "H W"]) -> Float32[Array, "H W C"]:
    """The frame at any place, bilinear, its border repeated."""
    height, width = frame.shape[:2]

    def place(at: Array, size: int) -> tuple[Array, Array, Array]:
        at = jnp.clip(at, 0, size - 1)
        low = jnp.floor(at).astype(jnp.int32)
        return low, jnp.minimum(low + 1, size - 1), (at - low)[..., None]

    top, bottom, down = place(rows, height)
    left, right, across = place(columns, width)
    upper = (1 - across) * frame[top, left] + across * frame[top, right]
    lower = (1 - across) * frame[bottom, left] + across * frame[bottom, right]
    return (1 - down) * upper + down * lower


def places(frame: Frame) -> tuple[Float32[Array, "H W"], Float32[Array, "H W"]]:
    """Row and column of every pixel."""
    rows, columns = jnp.indices(frame.shape[:2], dtype=jnp.float32)
    return rows, columns


def covered(begin: Level, length: Level, size: int) -> Float32[Array, " N"]:
    """Share of each of ``size`` pixels inside [begin, begin + length]."""
    at = jnp.arange(size, dtype=jnp.float32)
    return jnp.clip(jnp.minimum(at + 1, begin + length) - jnp.maximum(at, begin), 0, 1)


def plasma(key: Key, shape: tuple[int, int], decay: Level) -> Float32[Array, "H W"]:
    """Plasma fractal on [0, 1]: diamond-square on a torus, as fog of ImageNet-C (Hendrycks & Dietterich 2019).

    Each halving of the grid divides the amplitude by decay^2: the published code multiplies its wibble into a draw
    that is already as wide as the wibble.
    """
    octaves = max(1, math.ceil(math.log2(max(shape))))
    # One draw for all octaves: each call of a generator is a program of its own to compile.
    draws = jax.random.uniform(key, (4**octaves - 1,), minval=-1, maxval=1)
    grid = jnp.zeros((1, 1))
    for octave in range(octaves):
        size = len(grid)
        moves = draws[4**octave - 1 : 4 ** (octave + 1) - 1].reshape(3, size, size)
        centre, across, down = moves * decay ** (-2.0 * octave)
        right, below = jnp.roll(grid, -1, 1), jnp.roll(grid, -1, 0)
        centre += (grid + right + below + jnp.roll(right, -1, 0)) / 4
        across += (grid + right + centre + jnp.roll(centre, 1, 0)) / 4
        down += (grid + below + centre + jnp.roll(centre, 1, 1)) / 4
        pairs = jnp.stack([jnp.stack([grid, across], -1), jnp.stack([down, centre], -1)], 1)
        grid = pairs.reshape(2 * size, 2 * size)
    field = grid - grid.min()
    return (field / jnp.maximum(field.max(), 1e-12))[: shape[0], : shape[1]]


def smooth_field(noise: Float[Array, "H W"], tall: float, wide: float) -> Float32[Array, "H W"]:
    """Noise, smoothed by a Gaussian so many pixels tall and wide; mean 0 and variance 1. Meets itself at the border."""
    shape = noise.shape
    rows, columns = jnp.fft.fftfreq(shape[0])[:, None], jnp.fft.rfftfreq(shape[1])
    window = jnp.exp(-2 * jnp.pi**2 * ((tall * rows) ** 2 + (wide * columns) ** 2))
    field = jnp.fft.irfft2(jnp.fft.rfft2(noise) * window, s=shape)
    field = field - field.mean()
    return field / jnp.maximum(field.std(), 1e-12)
