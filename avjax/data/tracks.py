"""What media.py builds a decoded file from: its types, and the collector of frames (sound.py has that of samples)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter


class MediaError(Exception):
    """A file that cannot be decoded: ``path`` says which, ``reason`` why."""

    def __init__(self, path: object, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self) -> tuple[Any, ...]:
        return MediaError, (self.path, self.reason)


@dataclasses.dataclass(frozen=True)
class Waveform:
    """Mono sound: ``samples`` int16 [S] at ``rate`` Hz, from the clip's start."""

    samples: np.ndarray
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclasses.dataclass(frozen=True)
class Frames:
    """Pictures: ``images`` uint8 [T, H, W, C], ``times`` float64 [T], seconds from the clip's start, increasing."""

    images: np.ndarray
    times: np.ndarray

    @property
    def rate(self) -> float:
        """Nominal frames per second: one over the median step; 0 for a single frame."""
        return 1.0 / float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0


class Converter:
    """Frame -> RGB image of one size, standing upright; one scaler is set up once and used for every frame."""

    def __init__(self, size: tuple[int, int] | None = None):
        self.size = size
        self._reformatter = VideoReformatter()
        self._orientation: tuple[bool, bool, bool] | None = None  # transposed, then flipped left-right, up-down
        self.rotation = 0

    def __call__(self, frame: Any) -> np.ndarray:
        """Image [H, W, 3]; a view of memory that lives as long as the view."""
        transposed, left_right, up_down = self._upright(frame)
        height, width = self.size or (None, None)
        if transposed:
            height, width = width, height
        # BILINEAR averages over what a smaller pixel covers; where the size stays, it does nothing.
        picture = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        plane = picture.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        image = rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)
        if transposed:
            image = image.swapaxes(0, 1)
        if left_right or up_down:
            image = image[:: -1 if up_down else 1, :: -1 if left_right else 1]
        return image

    def shape(self, frame: Any) -> tuple[int, int]:
        """(height, width) of the image that a frame gives."""
        if self.size:
            return self.size
        return (frame.width, frame.height) if self._upright(frame)[0] else (frame.height, frame.width)

    def _upright(self, frame: Any) -> tuple[bool, bool, bool]:
        """The display matrix of the first frame: stored (x, y) is shown at (a x + c y, b x + d y)."""
        if self._orientation is None:
            data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
            a, b, _, c, d = np.frombuffer(data, np.int32)[:5] if data is not None else (1, 0, 0, 0, 1)
            transposed = abs(int(b)) > abs(int(a))
            across, down = (c, b) if transposed else (a, d)
            self._orientation = (transposed, bool(across < 0), bool(down < 0))
            self.rotation = int(frame.rotation) % 360
        return self._orientation


class PictureTrack:
    """Takes the frames of one stream as they are decoded: keeps them, or hands each to ``each_frame``."""

    def __init__(
        self,
        stream: Any,
        zero: Fraction,
        size: tuple[int, int] | None,
        limit_bytes: int,
        each_frame: Callable[[np.ndarray], None] | None = None,
    ):
        self.converter = Converter(size)
        self.height = self.width = 0
        self._each_frame, self._limit = each_frame, limit_bytes
        # Times as quotients of integers: the float nearest to the true time.
        base = stream.time_base
        self._tick = base.numerator * zero.denominator
        self._zero = zero.numerator * base.denominator
        self._second = base.denominator * zero.denominator
        rate = stream.average_rate or stream.guessed_rate
        self._step = 1.0 / float(rate) if rate else 0.04
        self._expected = max(min(int(stream.frames or 0), 4096), 64)
        self._shape: tuple[int, ...] = ()
        self._images = np.empty((0, 0, 0, 3), np.uint8)
        self._times: list[float] = []
        self.damaged = self.resized = self.moved = 0
        self.end = 0  # of the last packet, in ticks of the stream

    def add(self, frame: Any) -> None:
        """Raises ValueError once the frames would take more memory than allowed."""
        count = len(self._times)
        if not count:
            self.height, self.width = frame.height, frame.width
            self._shape = (*self.converter.shape(frame), 3)
            self._images = np.empty((0, *self._shape), np.uint8)
        elif self.converter.shape(frame) != self._shape[:2]:  # the size changed within the stream
            self.resized += 1
            self.converter.size = (self._shape[0], self._shape[1])
        image = self.converter(frame)
        if self._each_frame is not None:
            self._each_frame(image)
        else:
            if count == len(self._images):
                grown = np.empty((self._room(max(2 * count, self._expected)), *self._shape), np.uint8)
                grown[:count] = self._images
                self._images = grown
            self._images[count] = image
        last = self._times[-1] if count else None
        time = None if frame.pts is None else (frame.pts * self._tick - self._zero) / self._second
        if time is None or (last is not None and time <= last):
            self.moved += 1
            time = 0.0 if last is None else last + self._step
        self._times.append(time)
        self.damaged += bool(frame.is_corrupt)

    def _room(self, count: int) -> int:
        most = self._limit // int(np.prod(self._shape))
        if most <= len(self._times):
            raise ValueError(
                f"its frames of {self._shape[1]}x{self._shape[0]} take more than {self._limit / 2**30:.1f} GiB: "
                "scale them with size=, cut the file, take them one by one with each_frame=, or raise limit_bytes"
            )
        return min(count, most)

    def finish(self) -> tuple[Frames | None, list[str]]:
        """The frames, None where none decoded, and what was wrong with them."""
        count, notes = len(self._times), []
        if not count:
            return None, notes
        if self.damaged:
            notes.append(f"{self.damaged} of {count} frames are damaged")
        if self.resized:
            notes.append(f"{self.resized} of {count} frames are stored at another size than the first, and were scaled")
        if self.moved:
            notes.append(f"{self.moved} of {count} frames had no time of their own, or one before their predecessor's")
        images = self._images[:count]
        if 2 * count < len(self._images):
            images = images.copy()
        return Frames(images, np.asarray(self._times, np.float64)), notes


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [T, H, W, C] to another (height, width), as ``decode`` scales."""
    channels, layout = images.shape[-1], "gray" if images.shape[-1] == 1 else "rgb24"
    reformatter = VideoReformatter()
    out = np.empty((len(images), *size, channels), np.uint8)
    for target, image in zip(out, images, strict=True):
        pixels = np.ascontiguousarray(image[..., 0] if channels == 1 else image)
        frame = av.VideoFrame.from_ndarray(pixels, layout)
        plane = reformatter.reformat(frame, size[1], size[0], layout, interpolation=Interpolation.BILINEAR).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(size[0], plane.line_size)
        target[...] = rows[:, : size[1] * channels].reshape(*size, channels)
    return out
