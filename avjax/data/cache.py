"""A small data set in memory: records as they were read, and the frames that were decoded."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from avjax.data.record import Record, Video
from avjax.data.records import Split


class Room:
    """So many bytes, shared by threads."""

    def __init__(self, capacity: int):
        self.free = capacity
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there was room for it; then it is taken."""
        with self._lock:
            fits = size <= self.free
            self.free -= size if fits else 0
            return fits


@dataclasses.dataclass(frozen=True)
class RememberedVideo(Video):
    """Frames that are decoded once.

    Attributes:
      frames: of the whole clip; ``seen`` [T] says which of them are there. Memory that is not written is not used.
    """

    frames: np.ndarray = dataclasses.field(kw_only=True, compare=False)
    seen: np.ndarray = dataclasses.field(kw_only=True, compare=False)

    @classmethod
    def of(cls, video: Video) -> RememberedVideo:
        fields = {field.name: getattr(video, field.name) for field in dataclasses.fields(Video)}
        frames = np.empty((len(video), video.height, video.width, video.channels), np.uint8)
        return cls(**fields, frames=frames, seen=np.zeros(len(video), bool))

    def read(self, indices: Sequence[int] | np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        chosen = np.arange(len(self)) if indices is None else np.asarray(indices, int)
        missing = (chosen < 0) | (chosen >= len(self)) | ~self.seen.take(chosen, mode="clip")
        if missing.any():
            new = np.unique(chosen[missing])
            # Refuses what the clip does not have.
            decoded = super().read(new)
            # Two threads may decode the same frame; both write the same.
            self.frames[new], self.seen[new] = decoded, True
        return self.frames.take(chosen, axis=0, out=out, mode="clip")


class Cache:
    """The records of a split, ``cache[index]``, kept in memory until it is full.

    Nothing is thrown out: with a new order every epoch, what would make room is as likely to come next as what came.

    Args:
      split: where they are read.
      capacity: bytes; 0 keeps nothing.
    """

    def __init__(self, split: Split, capacity: int):
        self._split, self._capacity = split, capacity
        self._room = Room(capacity)
        self._records: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> Record:
        record = self._records.get(index)
        if record is not None:
            return record
        record = self._split[index]
        if self._room.take(size_of(record)):
            if record.video is not None and record.video.codec != "raw":
                record = dataclasses.replace(record, video=RememberedVideo.of(record.video))
            self._records[index] = record
        return record

    def __getstate__(self) -> dict[str, Any]:
        """Each reading process fills its own."""
        return {"split": self._split, "capacity": self._capacity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["split"], state["capacity"])


def size_of(record: Record) -> int:
    """Bytes that a record takes in memory: as it is stored, and its frames when all are decoded."""
    stored = sum(len(part) for track in (record.audio, record.video) if track is not None for part in track.data)
    stored += sum(series.values.nbytes for series in record.series.values())
    video = record.video
    decoded = 0 if video is None or video.codec == "raw" else len(video) * video.height * video.width * video.channels
    return stored + decoded
