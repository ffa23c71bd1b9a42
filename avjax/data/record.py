"""One prepared clip as a record: a msgpack map with the version of its schema. Used through records.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from avjax.data import blocks, media
from avjax.data.series import Series, series_fields, series_from

SCHEMA = 2
VIDEO_CODECS = ("jpeg", "raw", "h264")
AUDIO_CODECS = ("pcm16", "flac")


class RecordError(ValueError):
    """Records that are not there, or not what this version reads; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Audio:
    """The sound of a clip: ``samples`` int16 samples at ``rate`` Hz, from the clip's start.

    ``data`` is one piece of little-endian samples ("pcm16"), or FLAC frames that decode alone ("flac"; ``header`` is
    the stream's).
    """

    codec: str
    rate: int
    samples: int
    data: tuple[bytes, ...]
    header: bytes = b""

    @classmethod
    def encode(cls, waveform: media.Waveform, codec: str = "pcm16") -> Audio:
        samples = waveform.samples
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise ValueError(f"a waveform must be int16 [S], not {samples.dtype} {samples.shape}")
        if codec == "pcm16":
            return cls(codec, waveform.rate, len(samples), (samples.astype("<i2").tobytes(),))
        if codec == "flac":
            header, data = blocks.encode_flac(samples, waveform.rate)
            return cls(codec, waveform.rate, len(samples), data, header)
        raise ValueError(f"audio codec {codec!r} is none of {', '.join(AUDIO_CODECS)}")

    def read(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Samples ``begin`` to ``end`` (exclusive), clamped to the track: int16 [n]."""
        begin = max(begin, 0)
        end = max(min(self.samples if end is None else end, self.samples), begin)
        if self.codec == "pcm16":
            return np.frombuffer(self.data[0], "<i2")[begin:end].astype(np.int16, copy=False)
        first = begin // blocks.FLAC_BLOCK
        needed = self.data[first : -(-end // blocks.FLAC_BLOCK)] if end > begin else ()
        samples = blocks.decode_flac(self.header, needed, self.rate)
        return samples[begin - first * blocks.FLAC_BLOCK : end - first * blocks.FLAC_BLOCK]


@dataclasses.dataclass(frozen=True)
class Video:
    """The frames of a clip: ``times`` float64 [T] seconds from the clip's start; uint8 [height, width, channels] each.

    ``data`` is one JPEG a frame ("jpeg"), the bytes of the whole array ("raw"), or one mp4 file ("h264": the packets of
    the source, not encoded again).
    """

    codec: str
    times: np.ndarray
    height: int
    width: int
    channels: int
    data: tuple[bytes, ...]

    @classmethod
    def encode(cls, frames: media.Frames, codec: str = "jpeg", quality: int = 2) -> Video:
        """From frames; ``quality`` is that of "jpeg": ffmpeg's scale, 1 (best) to 31."""
        images = frames.images
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(frames.times):
            raise ValueError(f"frames must be uint8 [T, H, W, C] with T times, not {images.dtype} {images.shape}")
        if codec == "jpeg":
            data = blocks.encode_jpeg(images, quality)
        elif codec == "raw":
            data = (np.ascontiguousarray(images).tobytes(),)
        else:
            raise ValueError(f"video codec {codec!r} is none of jpeg, raw (h264 is copied from a file: Video.copy)")
        return cls(codec, np.asarray(frames.times, np.float64), *images.shape[1:], data)

    @classmethod
    def copy(cls, file: bytes, frames: media.Frames) -> Video:
        """From the bytes of a video file, kept as they are, and its decoded frames (for their times and size)."""
        return cls("h264", np.asarray(frames.times, np.float64), *frames.images.shape[1:], (file,))

    def __len__(self) -> int:
        return len(self.times)

    @property
    def rate(self) -> float:
        """Nominal frames per second; 0 for a single frame."""
        return 1.0 / float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0

    @property
    def end(self) -> float:
        """Seconds until the last frame leaves the screen: it stays for as long as the one before it."""
        return float(self.times[-1] + (self.times[-1] - self.times[-2] if len(self) > 1 else 0.0))

    def read(self, indices: Sequence[int] | np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Frames by number (all where None), in the order given: uint8 [n, H, W, C]. Decodes only those.

        Args:
          out: where to write them; a new array otherwise.
        """
        chosen = range(len(self)) if indices is None else [int(index) for index in indices]
        for index in chosen:
            if not 0 <= index < len(self):
                raise IndexError(f"frame {index} was asked for; the clip has {len(self)}")
        shape = (self.height, self.width, self.channels)
        if self.codec == "raw":
            frames = np.frombuffer(self.data[0], np.uint8).reshape(len(self), *shape)
            return np.take(frames, list(chosen), axis=0, out=out, mode="clip")
        out = np.empty((len(chosen), *shape), np.uint8) if out is None else out
        if self.codec == "jpeg":
            blocks.decode_jpeg([self.data[index] for index in chosen], out)
        elif len(chosen):
            out[...] = media.read_frames(self.data[0], chosen)
        return out


Label = int | Sequence[int]


def label_classes(label: Label) -> tuple[int, ...]:
    """The classes that a clip has of a head: one, or where it may have several, any number."""
    return (int(label),) if np.ndim(label) == 0 else tuple(sorted({int(number) for number in label}))


@dataclasses.dataclass(frozen=True)
class Record:
    """One prepared clip; a modality that it lacks is None.

    ``labels`` maps heads to a class number, or to several where a clip may have any number of classes.

    ``series`` are numbers over time by name, ``sequences`` token numbers by head, each from 1 on.

    ``provenance`` maps "audio", "video" and "series/NAME" to where each was taken from: ``source`` (path below the
    corpus folder, or "array"), ``bytes``, ``sha256`` of the file (of a series' numbers), and ``warnings`` of its
    decoding.
    """

    name: str
    split: str
    group: str
    labels: Mapping[str, Label]
    cues: Mapping[str, float]
    audio: Audio | None
    video: Video | None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    series: Mapping[str, Series] = dataclasses.field(default_factory=dict)
    sequences: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def encode_record(record: Record) -> bytes:
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    fields |= {name: dict(fields[name]) for name in ("labels", "cues", "provenance")}
    if record.audio is not None:
        fields["audio"] = {field.name: getattr(record.audio, field.name) for field in dataclasses.fields(Audio)}
    if record.video is not None:
        fields["video"] = {field.name: getattr(record.video, field.name) for field in dataclasses.fields(Video)}
        fields["video"]["times"] = record.video.times.astype("<f8").tobytes()
    fields["series"] = {name: series_fields(series) for name, series in record.series.items()}
    fields["sequences"] = {head: [int(token) for token in tokens] for head, tokens in record.sequences.items()}
    return msgpack.packb({"schema": SCHEMA, **fields}, use_bin_type=True, default=_plain)


def decode_record(data: bytes) -> Record:
    """Raises RecordError for what is no record, or one of another schema."""
    try:
        fields = msgpack.unpackb(data, use_list=False)
        schema = fields.pop("schema")
    except (ValueError, KeyError, AttributeError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RecordError(f"not an avjax record ({len(data)} bytes): {error!r}; prepare the data again") from error
    if schema != SCHEMA:
        raise RecordError(other_schema(f"record {fields.get('name')!r}", schema))
    if fields["audio"] is not None:
        fields["audio"] = Audio(**fields["audio"])
    if fields["video"] is not None:
        fields["video"] = Video(**fields["video"] | {"times": np.frombuffer(fields["video"]["times"], "<f8")})
    for name, stored in fields["series"].items():
        try:
            fields["series"][name] = series_from(stored)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"record {fields['name']!r}: its series {name!r} is damaged: {error!r}") from error
    return Record(**fields)


def _plain(value: Any) -> Any:
    """NumPy numbers for msgpack."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be kept in a record")


def other_schema(what: str, schema: Any) -> str:
    return (
        f"{what} has schema {schema!r}, this version of avjax reads schema {SCHEMA}: "
        "run `avjax prepare` again, or use the version that wrote it"
    )
