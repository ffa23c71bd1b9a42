"""Corruptions of single frames: sensor noise, light, colour and the loss of detail of codecs and screens.

The constants of noise, contrast, brightness, JPEG and pixelation are ImageNet-C's (Hendrycks & Dietterich 2019).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from avjax.diagnostics.stress.rows import Frame, Key, Level, named, picture

FULL_WELL = 2000.0
"""Electrons of a white pixel before the light goes; of a small sensor. Ours."""
READ_NOISE = 4.0
"""Electrons, standard deviation. Ours."""
DISPLAY_GAMMA = 2.2

# Tables K.1 and K.2 of ITU-T T.81 | ISO/IEC 10918-1.
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMA = np.full((8, 8), 99, np.float32)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# Y, Cb, Cr of R, G, B (JFIF).
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
# Row u of the orthonormal discrete cosine transform of 8 points.
DCT = np.sqrt(2 / 8) * np.cos((2 * np.arange(8) + 1) * np.arange(8)[:, None] * np.pi / 16)
DCT[0] /= np.sqrt(2)
PRECISION = jax.lax.Precision.HIGHEST


@picture("gaussian_noise", "standard deviation", (0.08, 0.12, 0.18, 0.26, 0.38), "frame")
def gaussian_noise(frame: Frame, level: Level, key: Key) -> Frame:
    """x + sigma n, n of N(0, 1) in every pixel and channel."""
    return frame + level * jax.random.normal(named(key, "noise"), frame.shape)


@picture("shot_noise", "photons of a white pixel", (60, 25, 12, 5, 3), "frame")
def shot_noise(frame: Frame, level: Level, key: Key) -> Frame:
    """Poisson(lambda x) / lambda: few photons."""
    return _poisson(jax.random.uniform(named(key, "noise"), frame.shape), level * frame, level) / level


@picture("impulse_noise", "share of values", (0.03, 0.06, 0.09, 0.17, 0.27), "frame")
def impulse_noise(frame: Frame, level: Level, key: Key) -> Frame:
    """Salt and pepper: so many of the values become 0 or 1, each as often."""
    at = jax.random.uniform(named(key, "noise"), frame.shape)
    return jnp.where(at < level / 2, 0, jnp.where(at >= 1 - level / 2, 1, frame))


@picture("speckle_noise", "standard deviation", (0.15, 0.2, 0.35, 0.45, 0.6), "frame")
def speckle_noise(frame: Frame, level: Level, key: Key) -> Frame:
    """x + sigma x n, n of N(0, 1)."""
    return frame + level * frame * jax.random.normal(named(key, "noise"), frame.shape)


@picture("contrast", "factor", (0.4, 0.3, 0.2, 0.1, 0.05), "nothing")
def contrast(frame: Frame, level: Level, key: Key) -> Frame:
    """m + c (x - m), m the mean of a channel over the frame."""
    mean = frame.mean((0, 1))
    return mean + level * (frame - mean)


@picture("brightness", "added value", (0.1, 0.2, 0.3, 0.4, 0.5), "nothing")
def brightness(frame: Frame, level: Level, key: Key) -> Frame:
    """min(V + b, 1) in HSV, V the largest channel: hue and saturation stay."""
    value = frame.max(-1, keepdims=True)
    brighter = jnp.minimum(value + level, 1)
    # Black has no hue: it becomes grey.
    return jnp.where(value > 0, frame * brighter / jnp.maximum(value, 1e-6), brighter)


@picture("low_light", "stops of exposure lost", (1, 2, 3, 4, 5), "frame")
def low_light(frame: Frame, level: Level, key: Key) -> Frame:
    """Less light on a sensor of 2000 electrons at white, with shot noise and 4 electrons of read noise; stays dark.

    Ours: e = 2000 x^2.2 / 2^stops + n, n of variance e + 16; x' = (e / 2000)^(1/2.2).
    """
    electrons = FULL_WELL * frame**DISPLAY_GAMMA / 2**level
    noise = jnp.sqrt(electrons + READ_NOISE**2) * jax.random.normal(named(key, "noise"), frame.shape)
    return jnp.clip((electrons + noise) / FULL_WELL, 1e-9, 1) ** (1 / DISPLAY_GAMMA)


@picture("saturate", "factor of saturation", (1.5, 2, 3, 5, 20), "nothing")
def saturate(frame: Frame, level: Level, key: Key) -> Frame:
    """min(c S, 1) in HSV: colours become garish; grey stays grey.

    The constants are ours and increase; those of ImageNet-C desaturate in some levels, and their distortion does not
    increase.
    """
    value = frame.max(-1, keepdims=True)
    saturation = (value - frame.min(-1, keepdims=True)) / jnp.maximum(value, 1e-6)
    return value - (value - frame) * jnp.minimum(level, 1 / jnp.maximum(saturation, 1e-6))


@picture("jpeg", "quality", (25, 18, 15, 10, 7), "nothing")
def jpeg(frame: Frame, level: Level, key: Key) -> Frame:
    """Quantised cosine transform of blocks of 8 x 8, with the standard's tables scaled by libjpeg's rule for quality.

    Chroma is not subsampled; entropy coding loses nothing and is left out. Frames of other than three channels are all
    luma.
    """
    height, width, channels = frame.shape
    colour = channels == 3
    planes = jnp.matmul(255 * frame, TO_YCC.T, precision=PRECISION) if colour else 255 * frame
    planes = planes - (np.array([128, 0, 0], np.float32) if colour else 128)
    planes = jnp.pad(planes, ((0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    blocks = planes.reshape(planes.shape[0] // 8, 8, planes.shape[1] // 8, 8, channels)
    factor = jnp.where(level < 50, 5000 / level, 200 - 2 * level)
    tables = np.stack([LUMA, CHROMA, CHROMA] if colour else [LUMA] * channels, -1)
    tables = jnp.clip(jnp.floor((tables * factor + 50) / 100), 1, 255)[:, None]
    coefficients = jnp.einsum("ui,vj,aibjc->aubvc", DCT, DCT, blocks, precision=PRECISION)
    coefficients = jnp.round(coefficients / tables) * tables
    blocks = jnp.einsum("ui,vj,aubvc->aibjc", DCT, DCT, coefficients, precision=PRECISION)
    planes = blocks.reshape(planes.shape)[:height, :width] + (np.array([128, 0, 0], np.float32) if colour else 128)
    found = jnp.matmul(planes, np.linalg.inv(TO_YCC).T, precision=PRECISION) if colour else planes
    return jnp.round(jnp.clip(found, 0, 255)) / 255


@picture("pixelate", "share of rows and columns", (0.6, 0.5, 0.4, 0.3, 0.25), "nothing")
def pixelate(frame: Frame, level: Level, key: Key) -> Frame:
    """Mean over larger pixels, floor(c H) by floor(c W) of them."""
    rows, columns = (_larger_pixels(size, level) for size in frame.shape[:2])
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, frame, precision=PRECISION)


def _poisson(draw: Frame, mean: Frame, largest: Level) -> Frame:
    """The number k with F(k - 1) <= draw < F(k), F of the Poisson distribution; ten times faster than rejection here.

    Args:
      largest: that ``mean`` can be.
    """

    def add(state: tuple[Array, ...]) -> tuple[Array, ...]:
        k, count, probability, below = state
        below = below + probability
        return k + 1, count + (draw >= below), probability * mean / (k + 1), below

    # Ten standard deviations above the mean: less than float32 can tell from 1.
    bound = largest + 10 * jnp.sqrt(largest) + 10
    start = (jnp.float32(0), jnp.zeros_like(mean), jnp.exp(-mean), jnp.zeros_like(mean))
    return jax.lax.while_loop(lambda state: state[0] < bound, add, start)[1]


def _larger_pixels(size: int, share: Level) -> Float32[Array, "N N"]:
    """Weights that give each pixel the mean over the larger one around its centre."""
    count = jnp.maximum(jnp.floor(share * size + 1e-4), 1)
    place = jnp.floor((jnp.arange(size) + 0.5) * count / size)
    begin, end = (place * size / count)[:, None], ((place + 1) * size / count)[:, None]
    at = jnp.arange(size)
    weights = jnp.clip(jnp.minimum(at + 1, end) - jnp.maximum(at, begin), 0, 1)
    return weights / weights.sum(-1, keepdims=True)


PICTURE = (
    gaussian_noise,
    shot_noise,
    impulse_noise,
    speckle_noise,
    contrast,
    brightness,
    low_light,
    saturate,
    jpeg,
    pixelate,
)
