"""Decode and encode video and audio; with tracks.py and encoding.py, the only code that knows a container format.

``decode`` turns one file into a mono 16 kHz waveform and RGB frames with their times; ``read_frames`` decodes only the
frames that are asked for; ``encode`` writes h264 + aac, WAV or FLAC. Time 0 is where the clip starts to play, the same
for sound and picture, so an offset between the two tracks is kept: silence stands before sound that starts late.
"""

from __future__ import annotations

import dataclasses
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from etils import epath

from avjax.data.encoding import encode
from avjax.data.tracks import Converter, Frames, MediaError, PictureTrack, SoundTrack, Waveform

__all__ = [
    "Facts", "Frames", "Media", "MediaError", "Waveform",
    "count_frames", "decode", "encode", "read_frames", "remux_video",
]  # fmt: skip

Source = str | os.PathLike | bytes

# Demuxers that open other files or servers, or make pictures of any text: never what a corpus means by a clip.
_REFUSED_FORMATS = {"hls", "dash", "concat", "sdp", "rtsp", "imf", "tty", "applehttp", "bin", "adf", "idf", "xbin"}
# Containers whose duration ffmpeg guesses from the file's size or its last page: they cannot be seen to fall short.
_GUESSED_DURATION = {"aac", "mp3", "ac3", "eac3", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "loas", "ogg", "amr"}
_ATTACHED_PICTURE = int(av.stream.Disposition.attached_pic)
# PyAV before 19 raises at tags that are not UTF-8 unless told not to.
_LENIENT = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
_SHORT_SECONDS = 0.25  # a track may end this long before its container's stated end


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the file says of itself; "" or 0 where it says nothing.

    Attributes:
      container: ffmpeg's name of the container format.
      seconds: stated duration.
      audio_codec, audio_rate, audio_channels: the sound as stored.
      video_codec, video_rate: the pictures as stored; frames per second.
      height, width: of the frames as stored, before rotation and ``size``.
      rotation: degrees counter-clockwise by which frames had to be turned to stand upright, and were.
    """

    container: str = ""
    seconds: float = 0.0
    audio_codec: str = ""
    audio_rate: int = 0
    audio_channels: int = 0
    video_codec: str = ""
    video_rate: float = 0.0
    height: int = 0
    width: int = 0
    rotation: int = 0


@dataclasses.dataclass(frozen=True)
class Media:
    """A decoded file. A modality that the file does not have, or that was not asked for, is None.

    ``warnings`` names whatever did not decode as the file promised; it is empty for a file that is whole.
    """

    audio: Waveform | None
    video: Frames | None
    facts: Facts = Facts()
    warnings: tuple[str, ...] = ()


def decode(
    path: Source,
    *,
    audio: bool = True,
    video: bool = True,
    rate: int = 16_000,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    limit_seconds: float | None = None,
    limit_bytes: int = 8 << 30,
    enough: float = 0.5,
    each_frame: Callable[[np.ndarray], None] | None = None,
) -> Media:
    """Decodes one file: every frame, and every sample of its first sound track.

    Args:
      path: the file, local or on object storage, or its bytes.
      audio, video: which modalities to decode.
      rate: Hz of the waveform that is returned. Several channels are mixed to one by ITU-R BS.775.
      size: (height, width) to scale frames to, in the pass that makes them RGB; None keeps the stored size.
      threads: decoder threads; 0 lets ffmpeg choose. More than one pays for large frames only.
      limit_seconds: raise once decoding has taken longer.
      limit_bytes: raise before the frames take more memory.
      enough: a track of which less than this part decodes makes the file an error; from there on, it is a warning.
      each_frame: called with every image [H, W, 3] in turn, which it must not keep; then no frame is held in memory,
        and ``video.images`` is [0, H, W, 3] beside all the times.

    Raises:
      MediaError: no such file, not a media file, a track that does not decode, or a limit passed.
    """
    name = _name(path)
    with _open(path, name) as container:
        main = {kind: _main_stream(container, kind) for kind in ("video", "audio")}
        if main["video"] is None and main["audio"] is None:
            raise MediaError(name, "holds neither sound nor pictures")
        zero = _clip_start(main["video"], main["audio"])
        pictures = None
        if video and main["video"]:
            pictures = PictureTrack(main["video"], zero, size, limit_bytes, each_frame)
        sounds = SoundTrack(main["audio"], zero) if audio and main["audio"] else None
        tracks = [(main["video"], pictures), (main["audio"], sounds)]
        wanted = [(stream, track) for stream, track in tracks if track is not None]
        errors = _decode_tracks(container, wanted, threads, limit_seconds, name)
        warnings: list[str] = []
        frames = waveform = None
        if pictures is not None:
            frames, notes = pictures.finish()
            covered = 0.0 if frames is None else float(frames.times[-1]) + (1.0 / frames.rate if frames.rate else 0.04)
            stated = _stated_seconds(container, main["video"], zero)
            warnings += _judge(name, "pictures", frames, errors[main["video"].index], notes, covered, stated, enough)
        if sounds is not None:
            own = _own_seconds(container, main["audio"])
            samples, notes = sounds.finish(rate, own)
            stated = _stated_seconds(container, main["audio"], zero)
            warnings += _judge(
                name, "sound", samples, errors[main["audio"].index], notes, sounds.seconds, stated, enough
            )
            waveform = None if samples is None else Waveform(samples, rate)
        return Media(waveform, frames, _facts(container, main, pictures, sounds), tuple(warnings))


def read_frames(path: Source, indices: Sequence[int], *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes only the frames numbered ``indices`` (from 0, as presented), seeking frame-exactly.

    Returns uint8 [n, H, W, 3] in the order of ``indices``. Raises MediaError, or IndexError for a number out of range.
    """
    name = _name(path)
    with _open(path, name) as container:
        stream = _main_stream(container, "video")
        if stream is None:
            raise MediaError(name, "holds no pictures")
        stream.codec_context.thread_count = 1
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        order = sorted(packet.pts for packet in packets if not packet.is_discard)
        keyframes = sorted(packet.pts for packet in packets if packet.is_keyframe)
        for index in indices:
            if not 0 <= index < len(order):
                raise IndexError(f"{name}: frame {index} was asked for, of {len(order)}")
        convert = Converter(size)
        targets = sorted({order[index] for index in indices})
        try:
            found = dict(_seek(container, stream, keyframes, targets, convert, name))
        except av.error.FFmpegError as error:
            raise MediaError(name, f"its pictures do not decode: {_plain(error)}") from error
        if not found:
            return np.zeros((0, *(size or (stream.height, stream.width)), 3), np.uint8)
        return np.stack([found[order[index]] for index in indices])


def _seek(
    container: Any, stream: Any, keyframes: list[int], targets: list[int], convert: Converter, name: object
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (pts, image) of ``targets`` (increasing), decoding each group of pictures from its keyframe once."""
    starts = np.asarray(keyframes or targets[:1])
    position: int | None = None
    frames: Iterator[Any] = iter(())
    frame = None
    for target in targets:
        key = int(np.searchsorted(starts, target, side="right")) - 1
        if position is None or (key >= 0 and starts[key] > position):
            # A container that seeks by decoding time can land late: then try the keyframe before.
            for earlier in range(max(key, 0), -1, -1):
                container.seek(int(starts[earlier]), stream=stream, backward=True)
                frames = iter(container.decode(stream))
                frame = next(frames, None)
                if frame is not None and frame.pts is not None and frame.pts <= target:
                    break
        while frame is not None and (frame.pts is None or frame.pts < target):
            frame = next(frames, None)
        if frame is None or frame.pts != target:
            raise MediaError(name, f"the frame at {float(target * stream.time_base):.3f} s does not decode")
        position = target
        yield target, convert(frame).copy()


def remux_video(path: Source) -> tuple[bytes, str]:
    """Copies the picture track, without re-encoding, into an mp4 of its own: (its bytes, name of the codec)."""
    name = _name(path)
    with _open(path, name) as source:
        stream = _main_stream(source, "video")
        if stream is None:
            raise MediaError(name, "holds no pictures")
        target = io.BytesIO()
        try:
            with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
                copy = container.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is not None:
                        packet.stream = copy
                        container.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(name, f"its {stream.codec_context.name} pictures cannot be copied: {error}") from error
        return target.getvalue(), stream.codec_context.name


def count_frames(path: Source) -> int:
    """Frames that the file presents, counted without decoding."""
    name = _name(path)
    with _open(path, name) as container:
        stream = _main_stream(container, "video")
        if stream is None:
            return 0
        return sum(packet.pts is not None and not packet.is_discard for packet in container.demux(stream))


def _name(path: Source) -> str:
    return f"<{len(path)} bytes>" if isinstance(path, bytes) else os.fspath(path)


def _open(path: Source, name: str) -> Any:
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
        raise MediaError(name, f"not a media file, or cut off before its index: {_plain(error)}") from error
    if _REFUSED_FORMATS & set(container.format.name.split(",")):
        container.close()
        raise MediaError(name, f"not a media file (it reads as {container.format.name!r}, which holds no media itself)")
    return container


def _main_stream(container: Any, kind: str) -> Any:
    """The stream to decode, or None. A cover picture of a song is not video."""
    streams = container.streams.video if kind == "video" else container.streams.audio
    usable = [s for s in streams if s.codec_context is not None and not int(s.disposition) & _ATTACHED_PICTURE]
    return usable[0] if usable else None


def _clip_start(video: Any, audio: Any) -> Fraction:
    """Seconds on the container's clock at which the clip starts to play, the earlier of its two tracks."""
    starts = []
    for stream in (video, audio):
        if stream is not None and stream.start_time is not None:
            start = stream.start_time * Fraction(stream.time_base.numerator, stream.time_base.denominator)
            # Sound before time 0 is what an encoder needs to warm up; the decoder drops it.
            starts.append(max(start, Fraction(0)) if stream is audio else start)
    return min(starts, default=Fraction(0))


def _decode_tracks(
    container: Any, wanted: list[tuple[Any, Any]], threads: int, limit_seconds: float | None, name: str
) -> dict[int, list[str]]:
    """Feeds every decoded frame to its track; returns stream index -> what failed on the way."""
    errors: dict[int, list[str]] = {stream.index: [] for stream, _ in wanted}
    add = {}
    for stream, track in wanted:
        stream.codec_context.thread_count = threads
        stream.thread_type = "AUTO" if threads != 1 else "NONE"
        add[stream.index] = track.add
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    flushed = set()
    try:
        for packet in container.demux([stream for stream, _ in wanted]) if wanted else ():
            index = packet.stream.index
            if packet.dts is None and packet.size == 0:
                flushed.add(index)
            try:
                for frame in packet.decode():
                    add[index](frame)
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                errors[index].append(_plain(error))
            if deadline is not None and time.monotonic() > deadline:
                raise MediaError(name, f"not decoded within {limit_seconds:g} s")
    except av.error.FFmpegError as error:  # the container itself broke: keep what came before
        for stream, _ in wanted:
            errors[stream.index].append(f"the file breaks off: {_plain(error)}")
    except (ValueError, MemoryError) as error:
        raise MediaError(name, str(error) or "not enough memory") from error
    for stream, _ in wanted:
        if stream.index not in flushed:
            try:
                for frame in stream.codec_context.decode(None):
                    add[stream.index](frame)
            except av.error.FFmpegError as error:
                errors[stream.index].append(_plain(error))
    return errors


def _own_seconds(container: Any, stream: Any) -> float | None:
    """Exact duration of a sound track where its container states one: mp4 and its kin, by their edit lists."""
    if "mp4" in container.format.name.split(",") and stream.duration and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    return None


def _stated_seconds(container: Any, stream: Any, zero: Fraction) -> float | None:
    """When a track should end, in seconds from the clip's start, or None where nothing reliable says so."""
    if _GUESSED_DURATION & set(container.format.name.split(",")):
        return None
    if stream.duration and stream.duration > 0:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base - zero)
    return None


def _judge(
    name: str, what: str, result: Any, errors: list[str], notes: list[str],
    covered: float, stated: float | None, enough: float,
) -> list[str]:
    """Warnings about a track that did not decode whole; raises where too little of it did."""
    cause = f": {max(set(errors), key=errors.count)}" if errors else ""
    if result is None:
        raise MediaError(name, f"no part of its {what} decodes{cause}")
    warnings = [f"{what}: {note}" for note in notes]
    if errors:
        warnings.append(f"{what}: packets that do not decode: {len(errors)}{cause}")
    if stated is not None and covered < stated - _SHORT_SECONDS:
        if covered < enough * stated:
            raise MediaError(name, f"only {covered:.2f} of {stated:.2f} s of its {what} decode{cause}")
        warnings.append(f"{what}: cut short, {covered:.2f} of {stated:.2f} s")
    return warnings


def _facts(container: Any, main: dict[str, Any], pictures: PictureTrack | None, sounds: SoundTrack | None) -> Facts:
    video, audio = main["video"], main["audio"]
    return Facts(
        container=container.format.name,
        seconds=max((container.duration or 0) / 1e6, 0.0),
        audio_codec=audio.codec_context.name if audio else "",
        audio_rate=(sounds.rate if sounds else audio.codec_context.sample_rate or 0) if audio else 0,
        audio_channels=(sounds.channels if sounds else audio.codec_context.channels or 0) if audio else 0,
        video_codec=video.codec_context.name if video else "",
        video_rate=float(video.average_rate or 0) if video else 0.0,
        height=(pictures.height if pictures else video.codec_context.height) if video else 0,
        width=(pictures.width if pictures else video.codec_context.width) if video else 0,
        rotation=pictures.converter.rotation if pictures else 0,
    )


def _plain(error: Exception) -> str:
    """ffmpeg's words without its error number and file name."""
    if isinstance(error, av.error.PermissionError):  # what its AAC decoder says of broken data
        return "Invalid data found when processing input"
    return getattr(error, "strerror", None) or str(error)
