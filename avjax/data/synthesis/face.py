"""Cartoon faces that speak, drawn with NumPy: smooth shapes on a pixel grid, all frames of a clip at once."""

from __future__ import annotations

import dataclasses

import numpy as np

RATE = 25  # frames per second
EXPRESSION = ("brow_height", "brow_slant", "mouth_corners", "eye_opening")
# What the four parameters are in each of the four expressions, in [-1, 1].
EXPRESSIONS = {
    "smile": (0.25, 0.0, 1.0, -0.1),
    "droop": (-0.1, 1.0, -0.75, -0.7),
    "frown": (-0.85, -1.0, -0.75, -0.1),
    "wide": (1.0, 0.1, 0.05, 1.0),
}

EXPRESSIVE = (-0.55, -0.6, 0.55, 0.75)
"""Left, top, right and bottom, in half pictures, of the part in which any actor's expression is drawn: brows, eyes,
cheeks and mouth."""

# (opening 0..1, rounding -1 spread..1 rounded) by espeak-ng's mnemonic, longest match first (after its stress marks).
_VISEMES = {
    "aI": (0.9, -0.2), "aU": (0.9, 0.2), "A": (1.0, 0.0), "a": (0.9, -0.1), "0": (0.9, 0.15), "V": (0.7, 0.0),
    "O": (0.8, 0.6), "o": (0.75, 0.8), "@": (0.45, 0.0), "3": (0.5, 0.3), "E": (0.65, -0.4), "e": (0.6, -0.4),
    "I": (0.4, -0.5), "i": (0.35, -0.8), "U": (0.4, 0.7), "u": (0.35, 1.0), "w": (0.25, 1.0), "r": (0.3, 0.5),
    "b": (0.0, 0.0), "p": (0.0, 0.0), "m": (0.0, 0.0), "f": (0.06, -0.1), "v": (0.06, -0.1),
    "k": (0.35, 0.0), "g": (0.35, 0.0), "N": (0.35, 0.0), "h": (0.45, 0.0),
    "d": (0.22, -0.1), "t": (0.22, -0.1), "n": (0.22, -0.1), "l": (0.3, -0.1),
    "D": (0.2, -0.1), "T": (0.2, -0.1), "s": (0.15, -0.4), "z": (0.15, -0.4), "S": (0.2, 0.6), "Z": (0.2, 0.6),
    "j": (0.3, -0.5),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Appearance:
    """An actor's looks. Lengths are in half pictures: the picture runs from -1 to 1 both ways.

    Attributes:
      skin, hair, clothes, background, iris: RGB in [0, 1].
      head: (half width, half height).
      eyes: (half distance, height above the middle of the head).
      mouth: height below the middle of the head.
      long_hair: whether hair falls beside the face.
      fringe: how far hair comes down the forehead, 0 to 1.
      parting: -1 to 1, which side the fringe rises on.
    """

    skin: tuple[float, ...]
    hair: tuple[float, ...]
    clothes: tuple[float, ...]
    background: tuple[float, ...]
    iris: tuple[float, ...]
    head: tuple[float, float]
    eyes: tuple[float, float]
    mouth: float
    long_hair: bool
    fringe: float
    parting: float


@dataclasses.dataclass(frozen=True)
class Performance:
    """What one clip's face does, frame by frame (T frames).

    Attributes:
      expression: [T, 4], the parameters named in ``EXPRESSION``.
      mouth_opening: [T] in [0, 1].
      mouth_rounding: [T], -1 spread to 1 rounded.
      lids: [T], 1 open to 0 shut: blinking.
      shift: [T, 2], the head's motion right and down, in half pictures.
      turn: [T], the head's tilt in radians.
    """

    expression: np.ndarray
    mouth_opening: np.ndarray
    mouth_rounding: np.ndarray
    lids: np.ndarray
    shift: np.ndarray
    turn: np.ndarray


def viseme(mnemonic: str) -> tuple[float, float]:
    """Mouth opening (0..1) and rounding (-1..1) of a phoneme by espeak-ng's mnemonic; "" is silence."""
    name = mnemonic.lstrip("',%=|_:;-")
    for length in (2, 1):
        if name[:length] in _VISEMES:
            return _VISEMES[name[:length]]
    return (0.2, 0.0) if name else (0.05, 0.0)


def mouth_track(
    phonemes: tuple[tuple[float, str], ...], start: float, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mouth opening and rounding [T] at ``times`` (seconds), for speech that begins at ``start``.

    Targets are held for each phoneme and smoothed by a Gaussian of 25 ms, as lips that prepare the next sound do.
    """
    step = 0.005
    fine = np.arange(-0.3, max(float(times.max()), start) + 0.5, step)
    begins = np.array([start + seconds for seconds, _ in phonemes])
    targets = np.array([(0.05, 0.0), *(viseme(name) for _, name in phonemes)])
    held = targets[np.searchsorted(begins, fine, side="right")]
    offsets = np.arange(-15, 16) * step
    kernel = np.exp(-0.5 * (offsets / 0.025) ** 2)
    kernel /= kernel.sum()
    smooth = [np.convolve(held[:, column], kernel, mode="same") for column in (0, 1)]
    return np.interp(times, fine, smooth[0]), np.interp(times, fine, smooth[1])


def draw(look: Appearance, performance: Performance, pixels: int) -> np.ndarray:
    """Draws uint8 [T, pixels, pixels, 3]."""
    axis = ((np.arange(pixels) + 0.5) / pixels * 2 - 1).astype(np.float32)
    dx, dy = (performance.shift[:, k, None, None].astype(np.float32) for k in (0, 1))
    cos, sin = (f(performance.turn)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    # Where each pixel lies on the head: the head turns about the chin, so coordinates are turned back.
    x, y = axis[None, None, :] - dx, axis[None, :, None] - dy - 0.5
    canvas = _Canvas(_backdrop(look, axis), cos * x + sin * y, cos * y - sin * x + 0.5)
    _draw_head(canvas, look)
    _draw_eyes(canvas, look, performance)
    _draw_mouth(canvas, look, performance)
    return canvas.image()


class _Canvas:
    """Frames under work.

    Attributes:
      colour: float32 [3, T, H, W].
      u, v: [T, H, W], where on the head a pixel lies.
    """

    def __init__(self, backdrop: np.ndarray, u: np.ndarray, v: np.ndarray):
        self.colour = np.repeat(backdrop[:, None], len(u), axis=1)
        self.u, self.v = u, v
        self.pixels = u.shape[1]

    def part(self, left: float, top: float, right: float, bottom: float) -> _Part:
        """The pixels that may hold a part of the head's rectangle, however the head moves."""
        reach = 0.13
        lows = [int(np.clip((edge - reach + 1) / 2 * self.pixels, 0, self.pixels)) for edge in (left, top)]
        highs = [int(np.clip((edge + reach + 1) / 2 * self.pixels + 1, 0, self.pixels)) for edge in (right, bottom)]
        columns, rows = (slice(low, high) for low, high in zip(lows, highs, strict=True))
        return _Part(self.colour[:, :, rows, columns], self.u[:, rows, columns], self.v[:, rows, columns], self.pixels)

    def image(self) -> np.ndarray:
        # Colours are mixtures of colours in [0, 1], so none leaves the range.
        rounded = (self.colour * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        return np.ascontiguousarray(rounded.transpose(1, 2, 3, 0))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A rectangle of the canvas, painted in place: views of ``colour``, ``u`` and ``v``."""

    colour: np.ndarray
    u: np.ndarray
    v: np.ndarray
    pixels: int

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Coverage in [0, 1] from a distance to the shape's edge, negative inside: shapes fade out over one pixel."""
        return _unit(np.float32(0.5) - distance * np.float32(self.pixels / 2))

    def paint(self, coverage: np.ndarray, colour: tuple[float, ...], light: np.ndarray | None = None) -> None:
        """Lays a colour over what is there, brighter or darker by ``light``."""
        left = np.float32(1) - coverage
        lit = coverage if light is None else coverage * light
        for plane, value in zip(self.colour, colour, strict=True):
            plane *= left
            plane += lit * np.float32(value)


def _unit(values: np.ndarray) -> np.ndarray:
    """Clips to [0, 1], in place."""
    return np.minimum(np.maximum(values, np.float32(0), out=values), np.float32(1), out=values)


def _shade(colour: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(float(np.clip(part * factor, 0, 1)) for part in colour)


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def _ellipse(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """About the distance to an ellipse at the origin, exact on its edge to first order."""
    x, y = x * (1 / rx), y * (1 / ry)
    x *= x
    y *= y
    return (np.sqrt(x + y) - 1.0) * np.minimum(rx, ry)


def _backdrop(look: Appearance, axis: np.ndarray) -> np.ndarray:
    """What does not move, [3, H, W]: a wall in soft light, and shoulders."""
    x, y = axis[None, :], axis[:, None]
    wall = np.asarray(look.background)[:, None, None] * np.minimum(1.06 - 0.14 * np.sqrt(x**2 + (y + 0.3) ** 2), 1)
    shoulders = _unit(0.5 - _ellipse(x, y - 1.22, 0.82, 0.44) * (len(axis) / 2))
    return (wall + shoulders * (np.asarray(look.clothes)[:, None, None] - wall)).astype(np.float32)


def _draw_head(canvas: _Canvas, look: Appearance) -> None:
    wide, high = look.head
    if look.long_hair:
        part = canvas.part(-1.0, -1.0, 1.0, 1.0)
        part.paint(part.cover(_ellipse(part.u, part.v - 0.12, wide * 1.22, high * 1.2)), _shade(look.hair, 0.85))
    part = canvas.part(-0.2, 0.5, 0.2, 0.92)
    part.paint(part.cover(np.maximum(np.abs(part.u) - 0.2, np.abs(part.v - 0.72) - 0.2)), _shade(look.skin, 0.84))
    if not look.long_hair:
        part = canvas.part(-wide - 0.1, -0.11, wide + 0.1, 0.19)
        part.paint(part.cover(_ellipse(np.abs(part.u) - wide, part.v - 0.04, 0.1, 0.15)), _shade(look.skin, 0.9))
    part = canvas.part(-wide * 1.1, -high, wide * 1.1, high)
    # The jaw is narrower than the brow.
    head = part.cover(_ellipse(part.u * (1.0 + 0.11 * part.v), part.v, wide, high))
    part.paint(head, look.skin, light=0.97 - 0.05 * (part.u + 0.4 * part.v))
    part = canvas.part(-wide * 1.2, -high * 1.02 - 0.14, wide * 1.2, 0.3)
    crown = _ellipse(part.u, part.v + 0.12, wide * 1.12, high * 1.02)
    line = -high * (0.95 - 0.34 * look.fringe) + 0.55 / wide * (part.u - 0.25 * look.parting * wide) ** 2
    part.paint(part.cover(np.maximum(crown, part.v - line)), look.hair)
    part = canvas.part(-0.07, 0.1, 0.07, 0.2)
    part.paint(part.cover(_ellipse(part.u, part.v - 0.15, 0.065, 0.045)), _shade(look.skin, 0.82))


def _draw_eyes(canvas: _Canvas, look: Appearance, performance: Performance) -> None:
    half, height = look.eyes
    brow, slant, corners, opening = (performance.expression[:, k, None, None].astype(np.float32) for k in range(4))
    lids = performance.lids[:, None, None].astype(np.float32)
    tall = np.maximum(0.135 * (1.0 + 0.5 * opening) * lids, 0.012)
    ink = _mix(look.hair, (0.08, 0.05, 0.05), 0.55)
    for side in (-1.0, 1.0):
        centre = side * half
        part = canvas.part(centre - 0.21, -height - 0.24, centre + 0.21, -height + 0.24)
        x, y = (part.u - centre) * side, part.v + height  # x is positive towards the temple
        # An upper lid that hangs at the temple (slant > 0) or at the nose (slant < 0).
        lid = 0.35 * slant * x - y - (0.075 + 0.04 * opening)
        eye = np.maximum(_ellipse(x, y, 0.165 + 0.012 * opening, tall), lid)
        white = part.cover(eye) * np.clip(2 * lids - 0.3, 0, 1)
        part.paint(part.cover(_ellipse(x, y, 0.185, tall + 0.025)), _shade(look.skin, 0.72))
        part.paint(white, (0.98, 0.98, 0.97))
        from_pupil = np.sqrt((x + 0.015 * side) ** 2 + y**2)
        part.paint(white * part.cover(from_pupil - 0.088), look.iris)
        part.paint(white * part.cover(from_pupil - 0.05), (0.03, 0.03, 0.04))
        part.paint(white * part.cover(np.sqrt((x - 0.015 * side) ** 2 + (y + 0.035) ** 2) - 0.024), (1.0, 1.0, 1.0))
        part = canvas.part(centre - 0.21, -height - 0.5, centre + 0.21, -height - 0.05)
        x, y = (part.u - centre) * side, part.v + height
        # Slant lifts the inner end of the brow (sorrow) or presses it down (anger).
        middle = -0.235 - 0.085 * brow - 0.035 * np.maximum(opening, 0)
        bend = slant * np.where(x < 0.02, 0.52 * x + 0.006, 0.3 * x + 0.0104)
        line = middle + bend + 1.4 * x**2 * np.maximum(1 - np.abs(slant), 0)
        along = np.maximum(np.abs(x) - 0.17, 0.0)
        part.paint(part.cover(np.sqrt(along**2 + (0.9 * (y - line)) ** 2) - 0.034), ink)
        # A smile lifts the cheeks and colours them.
        cheek = centre + 0.06 * side
        part = canvas.part(cheek - 0.17, 0.1, cheek + 0.17, 0.38)
        x, y = (part.u - centre) * side - 0.06, part.v - 0.24 + 0.03 * corners
        soft = _unit(_ellipse(x, y, 0.17, 0.11) * np.float32(-1 / 0.11)) * (0.12 + 0.4 * np.clip(corners, 0, 1))
        part.paint(soft, _mix(look.skin, (0.92, 0.3, 0.3), 0.7))


def _draw_mouth(canvas: _Canvas, look: Appearance, performance: Performance) -> None:
    corners = performance.expression[:, 2, None, None].astype(np.float32)
    opening = performance.mouth_opening[:, None, None].astype(np.float32)
    rounding = performance.mouth_rounding[:, None, None].astype(np.float32)
    half = 0.27 * (1.0 - 0.3 * np.clip(rounding, -0.4, 1)) * (1.0 + 0.18 * np.clip(corners, 0, 1))
    part = canvas.part(-0.36, look.mouth - 0.18, 0.36, look.mouth + 0.26)
    x, y = part.u, part.v - look.mouth
    across = np.clip(np.abs(x) / half, 0, 1)
    arch = np.sqrt(1.0 - across**2)
    # The corners move against the middle: up in a smile, down in sorrow.
    line = -0.13 * corners * (across**1.5 - 0.45)
    tall = 0.02 + 0.22 * opening
    upper, lower = line - 0.36 * tall * arch, line + 0.64 * tall * arch
    beyond = np.maximum(np.abs(x) - half, 0.0)
    gap = np.maximum(upper - y, y - lower)
    lips = part.cover(np.sqrt(beyond**2 + np.maximum(gap, 0.0) ** 2) - 0.036)
    part.paint(lips, _mix(_shade(look.skin, 0.72), (0.72, 0.22, 0.25), 0.6))
    inside = part.cover(np.maximum(gap, beyond))
    part.paint(inside, (0.24, 0.06, 0.08))
    teeth = part.cover(np.maximum(y - upper - 0.045 - 0.03 * opening, gap))
    part.paint(inside * teeth * np.clip(opening * 4 - 1.0 + np.maximum(corners, 0), 0, 1), (0.97, 0.96, 0.93))
    tongue = part.cover(_ellipse(x, y - line - 0.66 * tall, 0.5 * half, np.maximum(0.32 * tall, 0.01)))
    part.paint(inside * tongue * np.clip(opening * 3 - 0.8, 0, 1), (0.85, 0.4, 0.42))
