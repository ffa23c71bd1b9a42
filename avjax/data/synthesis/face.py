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
    fine = np.arange(-0.3, max(float(times[-1]), start) + 0.5, step)
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
    frames = len(performance.turn)
    axis = ((np.arange(pixels) + 0.5) / pixels * 2 - 1).astype(np.float32)
    canvas = _Canvas(frames, pixels)
    canvas.fill(_backdrop(look, axis))
    dx, dy = (performance.shift[:, k, None, None].astype(np.float32) for k in (0, 1))
    cos, sin = (f(performance.turn)[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    # Where each pixel lies on the head: the head turns about the chin, so coordinates are turned back.
    x, y = axis[None, None, :] - dx, axis[None, :, None] - dy - 0.5
    canvas.place(cos * x + sin * y, -sin * x + cos * y + 0.5)
    _draw_body(canvas, look, axis)
    _draw_head(canvas, look)
    _draw_eyes(canvas, look, performance)
    _draw_mouth(canvas, look, performance)
    return canvas.image()


class _Canvas:
    """Frames under work: ``colour`` float32 [T, H, W, 3] and, for each pixel, where on the head it lies."""

    def __init__(self, frames: int, pixels: int):
        self.colour = np.empty((frames, pixels, pixels, 3), np.float32)
        self.pixels = pixels
        self.edge = np.float32(2.0 / pixels)  # shapes fade out over one pixel
        self.u = self.v = np.empty(0, np.float32)

    def fill(self, picture: np.ndarray) -> None:
        self.colour[:] = picture

    def place(self, u: np.ndarray, v: np.ndarray) -> None:
        self.u, self.v = u, v

    def window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        """Rows and columns that may hold a part of the head's rectangle, whatever the head's motion."""
        reach = 0.14
        begin_x, end_x = (int(np.clip((p + 1) / 2 * self.pixels, 0, self.pixels)) for p in (left - reach, right + reach))
        begin_y, end_y = (int(np.clip((p + 1) / 2 * self.pixels, 0, self.pixels)) for p in (top - reach, bottom + reach))
        return slice(begin_y, end_y), slice(begin_x, end_x)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Coverage in [0, 1] from a distance to the shape's edge, negative inside."""
        return np.clip(0.5 - distance / self.edge, 0.0, 1.0)

    def paint(self, coverage: np.ndarray, colour: tuple[float, ...], at: tuple[slice, slice] | None = None) -> None:
        rows, columns = at or (slice(None), slice(None))
        target = self.colour[:, rows, columns]
        for channel, value in enumerate(colour):
            plane = target[..., channel]
            plane += coverage * (np.float32(value) - plane)

    def image(self) -> np.ndarray:
        return (np.clip(self.colour, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _shade(colour: tuple[float, ...], factor: float) -> tuple[float, ...]:
    return tuple(float(np.clip(part * factor, 0, 1)) for part in colour)


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def _ellipse(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """About the distance to an ellipse at the origin, exact on its edge to first order."""
    radius = np.sqrt((x / rx) ** 2 + (y / ry) ** 2) + 1e-6
    return (radius - 1.0) * np.minimum(rx, ry)


def _backdrop(look: Appearance, axis: np.ndarray) -> np.ndarray:
    x, y = axis[None, :, None], axis[:, None, None]
    light = 1.06 - 0.14 * np.sqrt(x**2 + (y + 0.3) ** 2)
    return np.asarray(look.background, np.float32) * light


def _draw_body(canvas: _Canvas, look: Appearance, axis: np.ndarray) -> None:
    wide, high = look.head
    if look.long_hair:
        fall = _ellipse(canvas.u, canvas.v - 0.12, wide * 1.22, high * 1.2)
        canvas.paint(canvas.cover(fall), _shade(look.hair, 0.85))
    x, y = axis[None, None, :], axis[None, :, None]
    shoulders = _ellipse(x, y - 1.22, 0.82, 0.44)
    canvas.paint(canvas.cover(shoulders), look.clothes)
    neck = np.maximum(np.abs(canvas.u) - 0.2, np.abs(canvas.v - 0.72) - 0.2)
    canvas.paint(canvas.cover(neck), _shade(look.skin, 0.84))


def _draw_head(canvas: _Canvas, look: Appearance) -> None:
    wide, high = look.head
    u, v = canvas.u, canvas.v
    if not look.long_hair:
        ears = _ellipse(np.abs(u) - wide, v - 0.04, 0.1, 0.15)
        canvas.paint(canvas.cover(ears), _shade(look.skin, 0.9))
    # The jaw is narrower than the brow.
    width = wide * (1.0 - 0.1 * np.clip(v, -1, 1))
    head = _ellipse(u, v, width, high)
    inside = canvas.cover(head)
    shading = 1.0 + 0.05 * np.clip(-u - 0.4 * v, -1, 1)
    for channel, value in enumerate(look.skin):
        plane = canvas.colour[..., channel]
        plane += inside * (np.float32(value) * shading - plane)
    crown = _ellipse(u, v + 0.12, wide * 1.12, high * 1.02)
    line = -high * (0.95 - 0.34 * look.fringe) + 0.55 * (u - 0.25 * look.parting * wide) ** 2 / wide
    canvas.paint(canvas.cover(np.maximum(crown, v - line)), look.hair)
    rows, columns = at = canvas.window(-0.1, 0.02, 0.1, 0.26)
    nose = _ellipse(u[:, rows, columns], v[:, rows, columns] - 0.15, 0.065, 0.045)
    canvas.paint(canvas.cover(nose), _shade(look.skin, 0.82), at)


def _draw_eyes(canvas: _Canvas, look: Appearance, performance: Performance) -> None:
    half, height = look.eyes
    brow, slant, corners, opening = (performance.expression[:, k, None, None].astype(np.float32) for k in range(4))
    lids = performance.lids[:, None, None].astype(np.float32)
    ink = _mix(look.hair, (0.08, 0.05, 0.05), 0.55)
    for side in (-1.0, 1.0):
        centre = side * half
        rows, columns = at = canvas.window(centre - 0.24, -height - 0.45, centre + 0.24, -height + 0.25)
        x = (canvas.u[:, rows, columns] - centre) * side  # positive towards the temple
        y = canvas.v[:, rows, columns] + height
        tall = np.maximum(0.135 * (1.0 + 0.5 * opening) * lids, 0.012)
        eye = _ellipse(x, y, 0.165 + 0.012 * opening, tall)
        # An upper lid that hangs at the temple (slant > 0) or at the nose (slant < 0).
        lid = (-(y + 0.075) + 0.35 * slant * x) - 0.04 * opening
        white = canvas.cover(np.maximum(eye, lid))
        canvas.paint(canvas.cover(_ellipse(x, y, 0.185, tall + 0.025)), _shade(look.skin, 0.72), at)
        canvas.paint(white, (0.98, 0.98, 0.97), at)
        looking = x + 0.015 * side
        canvas.paint(white * canvas.cover(_ellipse(looking, y, 0.088, 0.088)), look.iris, at)
        canvas.paint(white * canvas.cover(_ellipse(looking, y, 0.05, 0.05)), (0.03, 0.03, 0.04), at)
        canvas.paint(white * canvas.cover(_ellipse(looking - 0.03 * side, y + 0.035, 0.024, 0.024)), (1, 1, 1), at)
        # Slant lifts the inner end of the brow (sorrow) or presses it down (anger).
        middle = -0.235 - 0.085 * brow - 0.035 * np.maximum(opening, 0)
        line = middle + 0.52 * slant * x * (x < 0.02) + 0.3 * slant * np.maximum(x, 0.02) + 1.4 * x**2 * (1 - abs(slant))
        along = np.maximum(np.abs(x) - 0.17, 0.0)
        canvas.paint(canvas.cover(np.sqrt(along**2 + (0.9 * (y - line)) ** 2) - 0.034), ink, at)
        # A smile lifts the cheeks and colours them.
        rows, columns = at = canvas.window(centre - 0.2, 0.05, centre + 0.25, 0.42)
        x = (canvas.u[:, rows, columns] - centre) * side - 0.06
        cheek = _ellipse(x, canvas.v[:, rows, columns] - 0.24 + 0.03 * corners, 0.17, 0.11)
        soft = np.clip(-cheek / 0.11, 0, 1) * (0.12 + 0.4 * np.clip(corners, 0, 1))
        canvas.paint(soft, _mix(look.skin, (0.92, 0.3, 0.3), 0.7), at)


def _draw_mouth(canvas: _Canvas, look: Appearance, performance: Performance) -> None:
    corners = performance.expression[:, 2, None, None].astype(np.float32)
    opening = performance.mouth_opening[:, None, None].astype(np.float32)
    rounding = performance.mouth_rounding[:, None, None].astype(np.float32)
    half = 0.27 * (1.0 - 0.3 * np.clip(rounding, -0.4, 1)) * (1.0 + 0.18 * np.clip(corners, 0, 1))
    rows, columns = at = canvas.window(-0.36, look.mouth - 0.26, 0.36, look.mouth + 0.3)
    x, y = canvas.u[:, rows, columns], canvas.v[:, rows, columns] - look.mouth
    across = np.clip(np.abs(x) / half, 0, 1)
    arch = np.sqrt(1.0 - across**2 + 1e-4)
    # The corners move against the middle: up in a smile, down in sorrow.
    line = -0.13 * corners * (across**1.7 - 0.45)
    tall = 0.02 + 0.22 * opening
    upper, lower = line - 0.36 * tall * arch, line + 0.64 * tall * arch
    beyond = np.maximum(np.abs(x) - half, 0.0)
    gap = np.maximum(upper - y, y - lower)
    lips = np.sqrt(beyond**2 + np.maximum(gap, 0.0) ** 2) - 0.036
    canvas.paint(canvas.cover(lips), _mix(_shade(look.skin, 0.72), (0.72, 0.22, 0.25), 0.6), at)
    inside = canvas.cover(np.maximum(gap, np.abs(x) - half))
    canvas.paint(inside, (0.24, 0.06, 0.08), at)
    teeth = np.maximum(y - upper - 0.045 - 0.02 * opening, gap)
    canvas.paint(inside * canvas.cover(teeth) * np.clip(opening * 4 - 0.6, 0, 1), (0.97, 0.96, 0.93), at)
    tongue = _ellipse(x, y - line - 0.66 * tall, 0.5 * half, np.maximum(0.32 * tall, 0.01))
    canvas.paint(inside * canvas.cover(tongue) * np.clip(opening * 3 - 0.8, 0, 1), (0.85, 0.4, 0.42), at)
