"""The collector of samples that media.py decodes into: one track, of any format, rate and channels, to mono int16."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import soxr

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
