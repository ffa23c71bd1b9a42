"""Decode and encode video and audio. Only this file, and those it imports, know container formats.

``decode`` turns one file into a mono 16 kHz waveform and RGB frames with their times; ``read_frames`` decodes only the
frames that are asked for; ``encode`` writes h264 + aac, WAV or FLAC. Time 0 is where the clip starts to play, the same
for sound and picture, so an offset between the two tracks is kept: silence stands before sound that starts late.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from avjax.data.containers import Source, check_whole, clip_start, main_stream, name_of, open_media, plain, undecodable
from avjax.data.encoding import encode
from avjax.data.seeking import count_frames, read_frames, remux_video
from avjax.data.sound import SoundTrack
from avjax.data.tracks import Frames, MediaError, PictureTrack, Waveform

__all__ = [
    "Facts", "Frames", "Media", "MediaError", "Waveform",
    "count_frames", "decode", "encode", "probe", "read_frames", "remux_video",
]  # fmt: skip

# Containers whose duration ffmpeg guesses from the file's size or its last page: they cannot be seen to fall short.
_GUESSED_DURATION = {"aac", "mp3", "ac3", "eac3", "mpegts", "mpeg", "mpegvideo", "h264", "hevc", "loas", "ogg", "amr"}
_SHORT_SECONDS = 0.06  # a track may end this long before its stated end: a frame, or a block of sound


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


def probe(path: Source) -> Facts:
    """What a file says of itself, without decoding any of it. Raises MediaError where it is no media file."""
    with open_media(path, name_of(path)) as container:
        main = {kind: main_stream(container, kind) for kind in ("video", "audio")}
        return _facts(container, main, None, None)


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
      each_frame: called with every image [H, W, 3] in turn; then no frame is held in memory, unless it does, and
        ``video.images`` is [0, H, W, 3] beside all the times.

    Raises:
      MediaError: no such file, not a media file, a track that does not decode, or a limit passed.
    """
    name = name_of(path)
    with open_media(path, name) as container:
        warnings = check_whole(path, name, enough)
        main = {kind: main_stream(container, kind) for kind in ("video", "audio")}
        if main["video"] is None and main["audio"] is None:
            raise MediaError(name, "holds neither sound nor pictures")
        for kind, asked in (("video", video), ("audio", audio)):
            if asked and main[kind] is None and any(stream.type == kind for stream in undecodable(container)):
                raise MediaError(name, f"has {kind} in a codec that is not known")
        zero = clip_start(main["video"], main["audio"])
        pictures = None
        if video and main["video"]:
            pictures = PictureTrack(main["video"], zero, size, limit_bytes, each_frame)
        sounds = SoundTrack(main["audio"], zero) if audio and main["audio"] else None
        tracks = [(main["video"], pictures), (main["audio"], sounds)]
        wanted = [(stream, track) for stream, track in tracks if track is not None]
        errors = _decode_tracks(container, wanted, threads, limit_seconds, name)
        frames = waveform = None
        if pictures is not None:
            frames, notes = pictures.finish()
            covered = 0.0 if frames is None else float(frames.times[-1]) + (1.0 / frames.rate if frames.rate else 0.04)
            stated = _stated_seconds(container, main["video"], zero)
            if frames is not None and len(frames.times) == main["video"].frames:
                stated = None  # every frame of the index: the last one may be shown for long
            warnings += _judge(name, "pictures", frames, errors[main["video"].index], notes, covered, stated, enough)
        if sounds is not None:
            own = _own_seconds(container, main["audio"], sounds.end)
            samples, notes = sounds.finish(rate, own)
            stated = _stated_seconds(container, main["audio"], zero)
            warnings += _judge(
                name, "sound", samples, errors[main["audio"].index], notes, sounds.seconds, stated, enough
            )
            waveform = None if samples is None else Waveform(samples, rate)
        return Media(waveform, frames, _facts(container, main, pictures, sounds), tuple(warnings))


def _decode_tracks(
    container: Any, wanted: list[tuple[Any, Any]], threads: int, limit_seconds: float | None, name: str
) -> dict[int, list[str]]:
    """Feeds every decoded frame to its track; returns stream index -> what failed on the way."""
    errors: dict[int, list[str]] = {stream.index: [] for stream, _ in wanted}
    add, tracks = {}, {stream.index: track for stream, track in wanted}
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
            if packet.pts is not None and packet.duration:
                tracks[index].end = max(tracks[index].end, packet.pts + packet.duration)
            try:
                for frame in packet.decode():
                    add[index](frame)
            except av.error.EOFError:
                continue
            except av.error.FFmpegError as error:
                errors[index].append(plain(error))
            if deadline is not None and time.monotonic() > deadline:
                raise MediaError(name, f"not decoded within {limit_seconds:g} s")
    except av.error.FFmpegError as error:  # the container itself broke: keep what came before
        for stream, _ in wanted:
            errors[stream.index].append(f"the file breaks off: {plain(error)}")
    except (ValueError, MemoryError) as error:
        raise MediaError(name, str(error) or "not enough memory") from error
    for stream, _ in wanted:
        if stream.index not in flushed:
            try:
                for frame in stream.codec_context.decode(None):
                    add[stream.index](frame)
            except av.error.FFmpegError as error:
                errors[stream.index].append(plain(error))
    return errors


def _own_seconds(container: Any, stream: Any, end: int) -> float | None:
    """Exact duration of a sound track where its container states one: mp4 and its kin.

    Its edit list can be rounded to milliseconds; durations of packets, the last of which ends at ``end``, are not.
    """
    if "mp4" not in container.format.name.split(",") or not stream.duration or stream.duration < 0:
        return None
    ticks = min(stream.duration, end - (stream.start_time or 0)) if end > 0 else stream.duration
    return float(ticks * stream.time_base)


def _stated_seconds(container: Any, stream: Any, zero: Fraction) -> float | None:
    """When a track should end, in seconds from the clip's start, or None where nothing reliable says so."""
    if _GUESSED_DURATION & set(container.format.name.split(",")):
        return None
    if stream.duration and stream.duration > 0:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base - zero)
    return None


def _judge(
    name: str,
    what: str,
    result: Any,
    errors: list[str],
    notes: list[str],
    covered: float,
    stated: float | None,
    enough: float,
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
