"""Parts of media as sources of a clip: some seconds of a sound, some frames of a video, pictures in files of their own.

A long recording is cut into clips without writing new files: the process that prepares a clip reads its part alone.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from avjax.data import media
from avjax.data.blocks import JpegDecoder
from avjax.data.tracks import Frames, MediaError, Waveform

# What is read of a recording is cut into clips one after the other.
_decode_sound = functools.lru_cache(maxsize=1)(functools.partial(media.decode, video=False))


@runtime_checkable
class Part(Protocol):
    """Sound or pictures that are yet to be read: a dataclass that pickles. Raises MediaError where that fails."""

    def read(self) -> Waveform | Frames: ...


@dataclasses.dataclass(frozen=True)
class SoundPart:
    """The sound of a file from ``begin`` to ``end``, in seconds."""

    path: Path
    begin: float
    end: float

    def read(self) -> Waveform:
        sound = _decode_sound(self.path).audio
        if sound is None:
            raise MediaError(self.path, "holds no sound")
        first, last = (round(seconds * sound.rate) for seconds in (self.begin, self.end))
        if not 0 <= first < min(last, len(sound.samples)):
            raise MediaError(self.path, f"its {sound.seconds:.2f} s end before {self.begin:.2f} s, where a clip begins")
        return Waveform(sound.samples[first:last].copy(), sound.rate)


@dataclasses.dataclass(frozen=True)
class VideoPart:
    """Frames ``first`` to ``last`` (exclusive) of a video, of which ``rate`` are shown a second."""

    path: Path
    first: int
    last: int
    rate: float

    def read(self) -> Frames:
        last = min(self.last, media.count_frames(self.path))
        if last <= self.first:
            raise MediaError(self.path, f"its {last} frames end before frame {self.first}, where a clip begins")
        return Frames(media.read_frames(self.path, range(self.first, last)), np.arange(last - self.first) / self.rate)


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """JPEG files ``00001.jpg`` and so on in a folder, one a frame: frames ``first`` to ``last`` (exclusive) from 0.

    A frame without a file is left out, so that the one before it stays on the screen.
    """

    path: Path
    first: int
    last: int
    rate: float

    def read(self) -> Frames:
        decoder, images, times = JpegDecoder(), [], []
        for number in range(self.first, self.last):
            file = self.path / f"{number + 1:05d}.jpg"
            if not file.is_file():
                continue
            try:
                plane = decoder.decode(file.read_bytes(), "rgb24")
            except Exception as error:
                raise MediaError(file, f"not a JPEG that decodes: {error}") from error
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            images.append(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3))
            times.append((number - self.first) / self.rate)
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            found = "differ in size" if sizes else "have no file"
            raise MediaError(self.path, f"pictures {self.first + 1} to {self.last} {found}")
        return Frames(np.stack(images), np.array(times, np.float64))
