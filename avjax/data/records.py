"""Records: prepared clips in ArrayRecord shards; write, read, verify.

A prepared folder holds ``SPLIT-00000-of-00004.arrayrecord ...`` and ``dataset.json`` (a ``Description``). A record is
one clip (record.py), and nothing is ever unpickled. ``Audio.read`` and ``Video.read`` decode only the part of the clip
that is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from avjax.data.media import MediaError
from avjax.data.record import (
    AUDIO_CODECS,
    SCHEMA,
    VIDEO_CODECS,
    Audio,
    Record,
    RecordError,
    Video,
    decode_record,
    encode_record,
    other_schema,
)

__all__ = [
    "AUDIO_CODECS", "SCHEMA", "VIDEO_CODECS", "Audio", "Description", "Record", "RecordError", "Records", "Split",
    "Video", "decode_record", "encode_record", "open_shard", "verify", "write_shard",
]  # fmt: skip

DESCRIPTION_FILE = "dataset.json"

# One record a chunk, uncompressed: frames and FLAC are compressed already, and random access reads one record.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0"


@dataclasses.dataclass(frozen=True)
class Description:
    """dataset.json: what a prepared folder holds.

    Attributes:
      name: of the corpus.
      schema: version of the records.
      classes: head -> class names, in the order of their numbers.
      counts: split -> number of records.
      audio: {"rate": Hz}, None where no clip has sound.
      video: {"height", "width", "channels", "rate": nominal frames per second, "uniform": whether all clips share the
        size}, None where no clip has pictures. Where sizes differ, these are the commonest.
      synthetic: whether the corpus was generated; a file SYNTHETIC in its folder says so too.
      licence: of the corpus.
      corpus: the corpus's own settings.
      provenance: how it was prepared: codecs, frame size, version of avjax.
      shards: split -> [{"file", "records", "bytes", "sha256" of the records}], in reading order.
      series: name -> {"shape" of an element, "rate", "dtype", "longest": most elements of a clip}. Where clips differ,
        shape and rate are the commonest, and dtype holds all.
      vocabulary: head -> names of the tokens of its sequences; number 0 is "", the end and CTC's blank.
    """

    name: str
    schema: int
    classes: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]
    audio: Mapping[str, Any] | None
    video: Mapping[str, Any] | None
    synthetic: bool
    licence: str
    corpus: Mapping[str, Any]
    provenance: Mapping[str, Any]
    shards: Mapping[str, Sequence[Mapping[str, Any]]]
    series: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    vocabulary: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


class Records:
    """A prepared folder, opened for reading. Cheap: shards are opened when first read from.

    Raises RecordError where ``path`` is no prepared folder, is of another schema, or lacks a shard.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = epath.Path(path)
        file = self.path / DESCRIPTION_FILE
        if not file.exists():
            state = "is not finished" if (self.path / "plan" / "plan.json").exists() else "is not a prepared folder"
            raise RecordError(
                f"{path} {state}: it has no {DESCRIPTION_FILE}. Run `avjax prepare CORPUS --data FOLDER --out {path}`"
            )
        try:
            self._json = file.read_text()
            fields = json.loads(self._json)
            schema = fields["schema"]
            if schema == SCHEMA:
                self.description = Description(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{file} cannot be read ({error!r}): prepare the folder again") from error
        if schema != SCHEMA:
            raise RecordError(other_schema(str(file), schema))
        for shard in self._shards():
            where = self.path / shard["file"]
            if not where.exists():
                raise RecordError(f"{where} is missing: copy it back, or run `avjax prepare` into {path} again")
            size = where.stat().length
            if size != shard["bytes"]:
                raise RecordError(
                    f"{where} has {size} bytes, not {shard['bytes']}: it was cut or changed; "
                    f"delete it and run `avjax prepare` into {path} again"
                )

    def _shards(self) -> Iterator[Mapping[str, Any]]:
        for shards in self.description.shards.values():
            yield from shards

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of dataset.json, which holds that of the records, and of the shards' sizes: equal for equal data."""
        digest = hashlib.sha256(self._json.encode())
        for shard in self._shards():
            digest.update(f"{shard['file']} {(self.path / shard['file']).stat().length}\n".encode())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> Split:
        """The records of one split, for random access."""
        if name not in self.description.shards:
            raise RecordError(f"{self.path} has no split {name!r}; it has {', '.join(self.description.shards)}")
        shards = self.description.shards[name]
        return Split([os.fspath(self.path / s["file"]) for s in shards], [int(s["records"]) for s in shards])


class Split:
    """Random access to records: ``len(split)``, ``split[index]``. Pickles closed; threads may share it."""

    def __init__(self, files: Sequence[str], counts: Sequence[int]):
        self._files, self._counts = list(files), list(counts)
        self._ends = np.cumsum(self._counts)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Record:
        index = index.__index__()
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        position = index - int(self._ends[shard]) + self._counts[shard]
        return decode_record(self._reader(shard).read([position])[0])

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = open_shard(self._files[shard], self._counts[shard])
            return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self._files, "counts": self._counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"], state["counts"])


def open_shard(file: str, count: int | None = None) -> Any:
    """An ArrayRecord reader; ``count`` is checked where given. Raises RecordError."""
    if "://" in file:
        raise RecordError(f"{file}: ArrayRecord reads local files alone; mount the bucket, or copy the folder")
    try:
        reader = ArrayRecordReader(file, options=_READER_OPTIONS, file_reader_buffer_size=32768)
        found = reader.num_records()
    except (RuntimeError, ValueError, IndexError) as error:
        raise RecordError(f"{file} is not a whole ArrayRecord file ({error}): delete it and prepare again") from error
    if count is not None and found != count:
        raise RecordError(f"{file} holds {found} records, not {count}: delete it and prepare again")
    return reader


def write_shard(path: str | os.PathLike[str], records: Iterable[bytes]) -> int:
    """Writes encoded records to a local file; returns their number. Raises OSError where the disk does not take it."""
    count = 0
    try:
        writer = ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
        try:
            for record in records:
                writer.write(record)
                count += 1
        finally:
            writer.close()
    except RuntimeError as error:  # what ArrayRecord raises, with the system's words inside
        raise OSError(f"{path} cannot be written: {error}") from error
    return count


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Reads every record of a prepared folder and decodes all of it; returns what is wrong, if anything."""
    problems: list[str] = []
    records = Records(path)
    for name in records.description.shards:
        split = records.split(name)
        for index in range(len(split)):
            try:
                record = split[index]
                for track in (record.audio, record.video):
                    expected = 0 if track is None else track.samples if isinstance(track, Audio) else len(track)
                    if track is not None and len(track.read()) != expected:
                        problems.append(f"{name} {index} ({record.name}): {type(track).__name__} is cut short")
                if unknown := record.series.keys() - records.description.series.keys():
                    problems.append(f"{name} {index} ({record.name}): series that {DESCRIPTION_FILE} lacks: {unknown}")
            except (RecordError, MediaError, ValueError, RuntimeError) as error:
                problems.append(f"{name} {index}: {error}")
    return problems
