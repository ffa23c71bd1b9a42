"""What media.py builds a decoded file from: one collector of frames, one of samples, and the types they return."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soxr
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation, VideoReformatter

# Weight of each loudspeaker in mono: ITU-R BS.775-4, annex 4 (5.1 to stereo, then the mean of both sides). The
# low-frequency channel is left out, as there. Weights are divided by their sum, so that a mix cannot clip.
_DOWNMIX = {"FL": 0.5, "FR": 0.5, "FC": 0.5**0.5, "LFE": 0.0, "LFE2": 0.0, "DL": 0.5, "DR": 0.5}
_SURROUND = 0.5 * 0.5**0.5

_NUMBERS = {
    "u8": np.dtype(np.uint8),
    "s16": np.dtype(np.int16),
    "s32": np.dtype(np.int32),
    "s64": np.dtype(np.int64),
    "flt": np.dtype(np.float32),
    "dbl": np.dtype(np.float64),
}

_PIECES_AT_ONCE = 32

# Sound whose timestamps leave its sample count by more than this was cut or joined there; less is rounding of
# timestamps (Matroska and FLV store milliseconds).
_JUMP_SECONDS = 0.06
_LONGEST_SILENCE = 3600.0


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


class SoundTrack:
    """Collects the samples of one stream as they are decoded."""

    def __init__(self, stream: Any, zero: Fraction):
        self._zero, self._second = float(zero), float(stream.time_base)
        self._mono: list[np.ndarray] = []
        self._format = ("", "")
        self._names: tuple[str, ...] = ()
        self._number = np.dtype(np.float32)
        self._pieces: list[list[np.ndarray]] = [[]]  # of each plane, not yet mixed
        self._count = 0  # samples so far, silence included, at the stored rate
        self._offset: int | None = None  # samples from the clip's start to the track's
        self.rate = self.channels = self.damaged = self.rates = 0
        self.end = 0  # of the last packet, in ticks of the stream
        self.gaps: list[str] = []

    @property
    def seconds(self) -> float:
        """From the clip's start to the last sample."""
        return ((self._offset or 0) + self._count) / self.rate if self.rate else 0.0

    def add(self, frame: Any) -> None:
        if not self.rate:
            self.rate, self.channels = frame.sample_rate, frame.layout.nb_channels
        if frame.sample_rate != self.rate:  # the rate changed within the stream: not what a clip does
            self.rates += 1
            return
        if frame.pts is not None:
            self._place(round((frame.pts * self._second - self._zero) * self.rate))
        if (frame.format.name, frame.layout.name) != self._format or len(self._pieces[0]) == _PIECES_AT_ONCE:
            self._mix()
            self._format = (frame.format.name, frame.layout.name)
            self._names = tuple(channel.name for channel in frame.layout.channels)
            self._number = _NUMBERS[frame.format.packed.name]
            self._pieces = [[] for _ in range(len(self._names) if frame.format.is_planar else 1)]
        # Views: each keeps the memory of its frame. (to_ndarray takes ten times as long.)
        count = frame.samples * (1 if frame.format.is_planar else len(self._names))
        for plane, piece in zip(frame.planes, self._pieces, strict=True):
            piece.append(np.frombuffer(plane, self._number, count))
        self._count += frame.samples
        self.damaged += bool(frame.is_corrupt)

    def _mix(self) -> None:
        """In small parts, which stay in the cache, and let the decoder have its memory back."""
        if self._pieces[0]:
            self._mono.append(_to_mono(self._names, [np.concatenate(piece) for piece in self._pieces]))
            self._pieces = [[] for _ in self._pieces]

    def _place(self, position: int) -> None:
        """Keeps time where timestamps jump: silence for what is missing."""
        if self._offset is None:
            far = abs(position) > _LONGEST_SILENCE * self.rate
            self._offset = 0 if far else position
            if far:
                self.gaps.append("the time at which it starts is not to be believed")
            return
        jump = position - (self._offset + self._count)
        if abs(jump) <= _JUMP_SECONDS * self.rate:
            return
        at = f"{(self._offset + self._count) / self.rate:.2f} s"
        if 0 < jump <= _LONGEST_SILENCE * self.rate:
            self.gaps.append(f"{jump / self.rate:.2f} s of sound are missing at {at}, filled with silence")
            self._mix()
            self._mono.append(np.zeros(jump, np.float32))
            self._count += jump
        else:
            self.gaps.append(f"its time jumps by {jump / self.rate:.2f} s at {at}; taken as if it did not")

    def finish(self, rate: int, seconds: float | None) -> tuple[np.ndarray | None, list[str]]:
        """Mono int16 [S] at ``rate``, and what was wrong; ``seconds`` crops what the decoder gave beyond the track."""
        notes = list(self.gaps[:3]) + ([f"{len(self.gaps) - 3} more such places"] if len(self.gaps) > 3 else [])
        if self.damaged:
            notes.append(f"{self.damaged} blocks of samples are damaged")
        if self.rates:
            notes.append(f"{self.rates} blocks at another sample rate than the first were left out")
        if not self._count:
            return None, notes
        self._mix()
        mono = np.concatenate(self._mono)
        if seconds is not None:
            mono = mono[: round(seconds * self.rate)]
        offset = self._offset or 0
        mono = mono[-offset:] if offset < 0 else np.pad(mono, (offset, 0))
        return to_int16(mono, self.rate, rate), notes


def _to_mono(names: tuple[str, ...], planes: list[np.ndarray]) -> np.ndarray:
    """Samples of every channel, or of all in turn -> float32 [S] in [-1, 1]."""
    if len(planes) < len(names):
        planes = list(planes[0].reshape(-1, len(names)).T)
    weights = np.array([_DOWNMIX.get(name, _SURROUND) for name in names])
    if len(names) == 1 or not weights.any():
        weights[:] = 1.0
    weights /= weights.sum()
    if planes[0].dtype.kind == "u":
        zero, full = 128.0, 128.0
    else:
        zero, full = 0.0, 2.0 ** (8 * planes[0].dtype.itemsize - 1) if planes[0].dtype.kind == "i" else 1.0
    # Integers of more than 24 bits are scaled in float64, so that float32 rounds once.
    wide = np.float64 if planes[0].dtype.itemsize > 2 and planes[0].dtype.kind == "i" else np.float32
    mono: np.ndarray | None = None
    for plane, weight in zip(planes, weights, strict=True):
        if weight:
            part = np.multiply(plane - wide(zero) if zero else plane, wide(weight / full), dtype=wide)
            mono = part if mono is None else np.add(mono, part, out=mono)
    return mono.astype(np.float32, copy=False)


def to_int16(mono: np.ndarray, stored_rate: int, rate: int) -> np.ndarray:
    """float [S] in [-1, 1] at ``stored_rate`` -> int16 at ``rate``: rounded to nearest, clipped, of exact length."""
    if stored_rate != rate and len(mono):
        expected = -(-len(mono) * rate // stored_rate)
        mono = soxr.resample(mono, stored_rate, rate)[:expected]
        mono = np.pad(mono, (0, expected - len(mono)))
    # A damaged float stream can hold NaN.
    return np.clip(np.rint(np.nan_to_num(mono) * 32768.0), -32768, 32767).astype(np.int16)


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
