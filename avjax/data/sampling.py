"""How a modality of a record becomes a stream: so many samples, frames or elements from one moment on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from avjax.data.record import Audio, Record, Video
from avjax.data.records import Description
from avjax.data.series import Series


@dataclasses.dataclass(frozen=True)
class AudioSampling:
    """Takes ``samples`` consecutive samples of the waveform.

    Attributes:
      samples: length of the crop; ``LogMel.samples(frames)`` gives it for a number of spectrogram frames.
      rate: samples a second; the records' own.
    """

    samples: int
    rate: int = 16_000

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def of(self, record: Record) -> Audio | None:
        """What the record has of it; None where it lacks the modality."""
        return record.audio

    def end(self, record: Record) -> float:
        """Seconds until the record's own ends; 0 where it has none."""
        return 0.0 if record.audio is None else record.audio.samples / record.audio.rate

    def empty(self, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """Room for the rows of a batch: samples int16 [B, S], not written yet, and valid bool [B, S], all False."""
        return _aligned((rows, self.samples), np.int16), np.zeros((rows, self.samples), bool)

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes samples [S] from ``start`` seconds on, and which of them the record has."""
        if record.audio.rate != self.rate:
            raise ValueError(
                f"{record.name}: recorded at {record.audio.rate} Hz, but the experiment samples at {self.rate} Hz;"
                " prepare the corpus anew or change AudioSampling.rate"
            )
        begin = round(start * self.rate)
        found = record.audio.read(begin, begin + len(values))
        values[: len(found)], values[len(found) :] = found, 0
        valid[: len(found)] = True


@dataclasses.dataclass(frozen=True)
class VideoSampling:
    """Takes ``frames`` frames, ``rate`` a second: at each time the frame that is on the screen.

    Attributes:
      frames: number of frames.
      rate: frames a second, independent of the file's.
    """

    frames: int
    rate: float

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def of(self, record: Record) -> Video | None:
        """What the record has of it; None where it lacks the modality."""
        return record.video

    def end(self, record: Record) -> float:
        """Seconds until the record's own ends; 0 where it has none."""
        return 0.0 if record.video is None else record.video.end

    def empty(self, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """Room for the rows of a batch: frames uint8 [B, T, height, width, C], not written yet, and valid bool [B, T],
        all False."""
        if description.video is None:
            raise ValueError(f"the experiment reads video, but no clip of {description.name} has pictures")
        size = [description.video[side] for side in ("height", "width", "channels")]
        return _aligned((rows, self.frames, *size), np.uint8), np.zeros((rows, self.frames), bool)

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes frames [T, height, width, C] from ``start`` seconds on, and which of them the record has."""
        video = record.video
        size = (video.height, video.width, video.channels)
        if size != values.shape[1:]:
            raise ValueError(
                f"{record.name}: frames of {size}, where most clips have {values.shape[1:]}; clips of different sizes"
                " cannot share a batch: prepare the corpus with one --size"
            )
        times = start + np.arange(self.frames) / self.rate
        there = times < video.end - 1e-6
        if len(video.times) == 1:
            there[:1] = True
        # The record's end comes once: all frames before it, none after.
        count = int(there.sum())
        shown = np.searchsorted(video.times, times[:count] + 1e-6, side="right") - 1
        video.read(np.maximum(shown, 0), out=values[:count])
        values[count:] = 0
        valid[:count] = True


@dataclasses.dataclass(frozen=True)
class SeriesSampling:
    """Takes ``length`` elements of a series (avjax/data/series.py), at the rate that most clips have it at.

    Attributes:
      length: number of elements.
      series: its name in the records, where that is not the name of the modality or head.
    """

    length: int
    series: str = ""

    def of(self, record: Record) -> Series | None:
        """What the record has of it; None where it lacks the series."""
        return record.series.get(self.series)

    def window(self, description: Description) -> SeriesWindow:
        """With what the records say of the series.

        Raises:
          ValueError: where no clip has it.
        """
        if self.series not in description.series:
            raise ValueError(
                f"the experiment reads the series {self.series!r}, which no clip of {description.name} has; its series"
                f" are {', '.join(description.series) or 'none'}"
            )
        if self.length < 1:
            raise ValueError(f"series {self.series!r}: a length of {self.length} elements; it must be 1 or more")
        facts = description.series[self.series]
        dtype = facts.get("dtype", "float32")
        return SeriesWindow(self.length, self.series, float(facts["rate"]), tuple(facts["shape"]), dtype)


@dataclasses.dataclass(frozen=True)
class SeriesWindow(SeriesSampling):
    """How a series is read.

    Attributes:
      rate: elements a second of the window.
      shape, dtype: of an element.
    """

    rate: float = 1.0
    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    @property
    def seconds(self) -> float:
        return self.length / self.rate

    def end(self, record: Record) -> float:
        """Seconds until the record's own ends; 0 where it has none."""
        series = self.of(record)
        return 0.0 if series is None else series.end

    def empty(self, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """Room for the rows of a batch: elements [B, T, ...], not written yet, and valid bool [B, T], all False."""
        return _aligned((rows, self.length, *self.shape), self.dtype), np.zeros((rows, self.length), bool)

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes elements [T, ...] from ``start`` seconds on, and which of them the record has."""
        series = self.of(record)
        if series.values.shape[1:] != self.shape:
            raise ValueError(
                f"{record.name}: an element of the series {self.series!r} has shape {series.values.shape[1:]}, where"
                f" most clips have {self.shape}; they cannot share a batch"
            )
        series.write(start, self.rate, values, valid)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that is not written yet; it begins at a multiple of 64 bytes, where JAX on CPU uses it in place."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size].view(dtype).reshape(shape)
