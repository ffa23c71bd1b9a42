"""Open media files: every failure gets a plain reason, and a file that was cut off is told from a short one."""

from __future__ import annotations

import io
import os
from fractions import Fraction
from typing import Any

import av
from etils import epath

from avjax.data.tracks import MediaError

Source = str | os.PathLike | bytes

# Demuxers that open other files or servers, or make pictures of any text: never what a corpus means by a clip.
_REFUSED_FORMATS = {"hls", "dash", "concat", "sdp", "rtsp", "imf", "tty", "applehttp", "bin", "adf", "idf", "xbin"}
_ATTACHED_PICTURE = int(av.stream.Disposition.attached_pic)
# PyAV before 19 raises at tags that are not UTF-8 unless told not to.
_LENIENT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}

_SEGMENT = bytes.fromhex("18538067")  # Matroska's element that holds everything after the header
_SLACK = 8  # some writers count the RIFF header itself
_MOST_BOXES = 100_000


def name_of(path: Source) -> str:
    return f"<{len(path)} bytes>" if isinstance(path, bytes) else os.fspath(path)


def open_media(path: Source, name: str) -> Any:
    """Opens a file for reading; every failure is a MediaError with a plain reason."""
    if isinstance(path, bytes):
        file: Any = io.BytesIO(path)
    else:
        where = epath.Path(path)
        if not where.exists():
            raise MediaError(name, "no such file")
        if not where.is_file():
            raise MediaError(name, "is a folder, not a file" if where.is_dir() else "is not a regular file")
        if where.stat().length == 0:
            raise MediaError(name, "is empty (0 bytes)")
        file = where.open("rb") if "://" in name else name
    try:
        container = av.open(file, **_LENIENT)
    except av.error.FFmpegError as error:
        raise MediaError(name, f"not a media file, or cut off before its index: {plain(error)}") from error
    if _REFUSED_FORMATS & set(container.format.name.split(",")):
        container.close()
        raise MediaError(name, f"not a media file (it reads as {container.format.name!r}, which holds no media itself)")
    return container


def main_stream(container: Any, kind: str) -> Any:
    """The stream to decode, or None. A cover picture of a song is not video."""
    streams = container.streams.video if kind == "video" else container.streams.audio
    usable = [s for s in streams if s.codec_context is not None and not int(s.disposition) & _ATTACHED_PICTURE]
    return usable[0] if usable else None


def undecodable(container: Any) -> list[Any]:
    return [stream for stream in container.streams if stream.codec_context is None]


def clip_start(video: Any, audio: Any) -> Fraction:
    """Seconds on the container's clock at which the clip starts to play, the earlier of its two tracks."""
    starts = []
    for stream in (video, audio):
        if stream is not None and stream.start_time is not None:
            start = stream.start_time * Fraction(stream.time_base.numerator, stream.time_base.denominator)
            # Sound before time 0 is what an encoder needs to warm up; the decoder drops it.
            starts.append(max(start, Fraction(0)) if stream is audio else start)
    return min(starts, default=Fraction(0))


def check_whole(path: Source, name: str, enough: float) -> list[str]:
    """A warning about a file that ends before its container says; raises where less than ``enough`` of it is there."""
    if isinstance(path, bytes):
        length, stated = len(path), stated_bytes(io.BytesIO(path), len(path))
    else:
        where = epath.Path(path)
        length = where.stat().length
        with where.open("rb") as file:
            stated = stated_bytes(file, length)
    if stated is None or length >= stated:
        return []
    if length < enough * stated:
        raise MediaError(name, f"is cut off: only {length} of its {stated} bytes are there")
    return [f"the file is cut off: {length} of its {stated} bytes are there"]


def stated_bytes(file: Any, length: int) -> int | None:
    """Length that the container states, of an open file that is ``length`` bytes long; None where it does not say.

    ffmpeg plays what there is of a cut file and says nothing. RIFF (WAV, AVI), Matroska and mp4 state what follows.
    """
    head = file.read(4096)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        return None if size in (0, 0xFFFFFFFF) or size + 8 - length <= _SLACK else size + 8
    if head[:4] == bytes.fromhex("1A45DFA3"):
        return _matroska(head)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return _boxes(file, length)
    return None


def _matroska(head: bytes) -> int | None:
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return None
    width = 9 - head[at].bit_length()  # leading zeros of the first byte give the number of bytes
    size = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
    unknown = size == (1 << 7 * width) - 1
    return None if unknown or at + width > len(head) else at + width + size


def _boxes(file: Any, length: int) -> int | None:
    """mp4: the end of the last box, which lies beyond the file where it was cut."""
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 8 > length:
            break
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: to the end of the file; less: no box
            return None
        at += size
    return at


def plain(error: Exception) -> str:
    """ffmpeg's words without its error number and file name."""
    if isinstance(error, av.error.PermissionError):  # what its AAC decoder says of broken data
        return "Invalid data found when processing input"
    return getattr(error, "strerror", None) or str(error)
