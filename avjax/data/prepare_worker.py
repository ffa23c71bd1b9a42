"""The process that prepares shards: decodes clips and writes their records. Started by prepare.py, several at once.

Run as ``python -m avjax.data.prepare_worker DESCRIPTOR``, where the descriptor is one end of a socket pair. Imports no
jax: it starts in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from avjax.data import media, sound, tracks
from avjax.data.blocks import JpegEncoder
from avjax.data.corpora import Clip
from avjax.data.parts import Part
from avjax.data.record import label_classes
from avjax.data.records import Audio, Record, Video, encode_record, open_shard, write_shard
from avjax.data.series import Series


@dataclasses.dataclass(frozen=True)
class Settings:
    """How clips become records; part of the plan of a prepared folder."""

    video_codec: str
    audio_codec: str
    rate: int
    size: tuple[int, int] | None
    quality: int
    limit_seconds: float


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard to write: ``clips`` into ``out / file``; ``skip`` maps places in ``clips`` to why they are left out."""

    file: str
    out: str
    root: str
    clips: Sequence[Clip]
    settings: Settings
    skip: Mapping[int, str] = dataclasses.field(default_factory=dict)


# Decoder and encoder push each other's memory out of the cache: let them take turns seldom.
_FRAMES_AT_ONCE = 16


class _Clock:
    """CPU seconds of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.seconds = {"decode": 0.0, "encode": 0.0, "write": 0.0}
        self._last = time.thread_time()

    def lap(self, what: str) -> None:
        now = time.thread_time()
        self.seconds[what] += now - self._last
        self._last = now


def write(task: Task, tell: Any) -> dict[str, Any]:
    """Writes one shard and, last, its sidecar, which it returns. ``tell(place)`` is called before each clip.

    The shard is written to a temporary name, so that one that has a sidecar is always whole.
    """
    out = Path(task.out)
    temporary, sidecar = out / f".{task.file}.part", out / "plan" / f"{task.file}.json"
    facts: list[dict[str, Any]] = []
    bad: list[dict[str, str]] = []
    clock, content = _Clock(), hashlib.sha256()

    def encoded() -> Iterator[bytes]:
        for place, clip in enumerate(task.clips):
            clock.lap("write")
            tell(place)
            try:
                if place in task.skip:
                    raise media.MediaError(_source(clip), task.skip[place])
                record = convert(clip, Path(task.root), task.settings, clock)
            except Exception as error:  # whatever a file or a corpus does wrong costs one clip, and is reported
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise
                file, reason = _source(clip), repr(error)
                if isinstance(error, media.MediaError):
                    file, reason = error.path, error.reason
                bad.append({"name": clip.name, "split": clip.split, "file": file, "reason": reason})
                clock.lap("decode")
                continue
            data = encode_record(record)
            content.update(data)
            clock.lap("encode")
            facts.append(_facts(record))
            yield data

    count = write_shard(temporary, encoded())
    open_shard(os.fspath(temporary), count)
    size = temporary.stat().st_size
    os.replace(temporary, out / task.file)
    clock.lap("write")
    done = {
        "file": task.file,
        "bytes": size,
        "sha256": content.hexdigest(),
        "records": facts,
        "bad": bad,
        "cpu_seconds": clock.seconds,
    }
    replace_text(sidecar, json.dumps(done))
    return done


def convert(clip: Clip, root: Path, settings: Settings, clock: _Clock) -> Record:
    """One clip -> its record. Raises MediaError where a file of it does not decode, or holds nothing."""
    parts = {kind: part for kind in ("audio", "video") if isinstance(part := getattr(clip, kind), Part)}
    clip = dataclasses.replace(clip, **{kind: part.read() for kind, part in parts.items()})
    clock.lap("decode")
    provenance: dict[str, Any] = {}
    audio, video = None, None
    sources = {"audio": clip.audio, "video": clip.video}
    paths = {kind: source for kind, source in sources.items() if isinstance(source, os.PathLike | str)}
    together = len(paths) == 2 and os.fspath(paths["audio"]) == os.fspath(paths["video"])
    waveform: media.Waveform | None = None
    if "video" in paths:
        decoded, video = _decode_video(paths["video"], together, settings, clock)
        waveform = decoded.audio
        provenance["video"] = _origin(paths["video"], root, decoded.warnings)
        if together:
            provenance["audio"] = provenance["video"]
        clock.lap("encode")
    elif clip.video is not None:
        frames = clip.video
        if settings.size and tuple(frames.images.shape[1:3]) != settings.size:
            frames = media.Frames(tracks.resize(frames.images, settings.size), frames.times)
        clock.lap("decode")
        video = Video.encode(frames, settings.video_codec, settings.quality)
        digest = _hash(clip.video.images, clip.video.times)
        provenance["video"] = {"source": _where(parts.get("video"), root), "sha256": digest, "warnings": []}
    if "audio" in paths and not together:
        decoded = media.decode(paths["audio"], video=False, rate=settings.rate, limit_seconds=settings.limit_seconds)
        waveform = decoded.audio
        provenance["audio"] = _origin(paths["audio"], root, decoded.warnings)
    elif "audio" not in paths and clip.audio is not None:
        waveform = clip.audio
        if waveform.rate != settings.rate:
            mono = waveform.samples.astype(np.float32) / 32768.0
            waveform = media.Waveform(sound.to_int16(mono, waveform.rate, settings.rate), settings.rate)
        digest = _hash(clip.audio.samples)
        provenance["audio"] = {"source": _where(parts.get("audio"), root), "sha256": digest, "warnings": []}
    clock.lap("decode")
    if waveform is not None:
        audio = Audio.encode(waveform, settings.audio_codec)
    clock.lap("encode")
    series = {}
    for name in clip.series:
        series[name], provenance[f"series/{name}"] = _read_series(clip, name, root)
    clock.lap("decode")
    if audio is None and video is None and not series:
        raise media.MediaError(_source(clip), "has neither sound nor pictures nor a series")
    labels = {head: int(label) if np.ndim(label) == 0 else label_classes(label) for head, label in clip.labels.items()}
    sequences = {head: tuple(map(int, tokens)) for head, tokens in clip.sequences.items()}
    return Record(clip.name, clip.split, clip.group, labels, clip.cues, audio, video, provenance, series, sequences)


def _read_series(clip: Clip, name: str, root: Path) -> tuple[Series, dict[str, Any]]:
    """A series of a clip, and where it is from. Raises MediaError where it cannot be read, or holds no numbers."""
    source = clip.series[name]
    path = getattr(source, "path", None)
    try:
        series = source.read()
        if not isinstance(series, Series):
            raise TypeError(f"{type(source).__name__}.read() gave {type(series).__name__}, not Series")
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError | OSError) else repr(error)
        raise media.MediaError(clip.name if path is None else path, f"series {name!r}: {reason}") from error
    warnings = [f"series {name!r}: {series.replaced} numbers were not finite and are 0"] if series.replaced else []
    return series, {"source": _where(source, root), "sha256": _hash(series.values), "warnings": warnings}


def _decode_video(
    path: str | os.PathLike[str], audio: bool, settings: Settings, clock: _Clock
) -> tuple[media.Media, Video | None]:
    """Decodes a file and keeps its frames as records do, each as it comes: a long clip takes no more memory."""
    jpeg = JpegEncoder(settings.quality)
    raw: list[bytes] = []
    keep = {"jpeg": jpeg.add, "raw": lambda image: raw.append(image.tobytes()), "h264": lambda image: None}

    pending: list[np.ndarray] = []

    def encode_pending() -> None:
        clock.lap("decode")
        for image in pending:
            keep[settings.video_codec](image)
        pending.clear()
        clock.lap("encode")

    def each_frame(image: np.ndarray) -> None:
        pending.append(image)
        if len(pending) == _FRAMES_AT_ONCE:
            encode_pending()

    decoded = media.decode(
        path,
        audio=audio,
        rate=settings.rate,
        size=settings.size,
        limit_seconds=settings.limit_seconds,
        each_frame=each_frame,
    )
    encode_pending()
    if decoded.video is None:
        return decoded, None
    if settings.video_codec == "h264":
        return _copy_video(path, decoded)
    data = jpeg.finish() if settings.video_codec == "jpeg" else (b"".join(raw),)
    return decoded, Video(settings.video_codec, decoded.video.times, *decoded.video.images.shape[1:], data)


def _copy_video(path: str | os.PathLike[str], decoded: media.Media) -> tuple[media.Media, Video]:
    """The picture packets as they are; encoded again, with a warning, where they cannot be copied frame for frame."""
    try:
        file, codec = media.remux_video(path)
        if codec == "h264" and media.count_frames(file) == len(decoded.video.times):
            return decoded, Video.copy(file, decoded.video)
        reason = f"it is {codec}" if codec != "h264" else "its frames do not number the same when copied"
    except media.MediaError as error:
        reason = error.reason
    frames = media.decode(path, audio=False).video
    with tempfile.TemporaryDirectory() as folder:
        media.encode(Path(folder) / "video.mp4", frames, None, quality=12)
        file = (Path(folder) / "video.mp4").read_bytes()
    warnings = (*decoded.warnings, f"pictures: encoded again, not copied, since {reason}")
    return dataclasses.replace(decoded, warnings=warnings), Video.copy(file, decoded.video)


def _origin(path: str | os.PathLike[str], root: Path, warnings: Sequence[str]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"source": _below(path, root), "bytes": size, "sha256": digest.hexdigest(), "warnings": list(warnings)}


def _where(source: Any, root: Path) -> str:
    """The file that a part or a series is from, or that it is from none."""
    path = getattr(source, "path", None)
    return "array" if path is None else _below(path, root)


def _below(path: str | os.PathLike[str], root: Path) -> str:
    """The path below the corpus's folder; as it is where it lies elsewhere."""
    return os.path.relpath(path, root) if Path(path).is_relative_to(root) else os.fspath(path)


def _hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _source(clip: Clip) -> str:
    for source in (clip.video, clip.audio, *(getattr(source, "path", None) for source in clip.series.values())):
        if isinstance(source, os.PathLike | str):
            return os.fspath(source)
    return clip.name


def _facts(record: Record) -> dict[str, Any]:
    """What the report says of a record."""
    warnings: list[str] = []
    for origin in record.provenance.values():
        warnings += [warning for warning in origin["warnings"] if warning not in warnings]
    video, audio = record.video, record.audio
    return {
        "name": record.name,
        "split": record.split,
        "labels": {head: label_classes(label) for head, label in record.labels.items()},
        "audio": None if audio is None else {"seconds": audio.samples / audio.rate},
        "video": None if video is None else {
            "frames": len(video), "rate": round(video.rate, 3), "seconds": float(video.times[-1] - video.times[0])
            + (1 / video.rate if video.rate else 0.0), "size": [video.height, video.width, video.channels],
        },
        "series": {
            name: {
                "length": len(series), "shape": list(series.values.shape[1:]), "rate": series.rate,
                "dtype": series.values.dtype.name,
            }
            for name, series in record.series.items()
        },
        "sequences": {head: len(tokens) for head, tokens in record.sequences.items()},
        "warnings": warnings,
    }  # fmt: skip


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


def _leave_with(parent: int) -> None:
    """Ends this process once its parent has gone, even while it hangs in a decoder."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends its workers
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            done = write(task, lambda place: connection.send(("clip", place)))
        except OSError as error:  # a full disk, a folder that went away: the same would befall every other shard
            connection.send(("failed", f"{error}"))
            return
        connection.send(("done", done))


if __name__ == "__main__":
    main(int(sys.argv[1]))
