"""Parts of a video file without the rest: frames by number, and the picture track as it is. Used through media.py."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np

from avjax.data.containers import Source, main_stream, name_of, open_media, plain
from avjax.data.tracks import Converter, MediaError


def read_frames(path: Source, indices: Sequence[int], *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes only the frames numbered ``indices`` (from 0, as presented), seeking frame-exactly.

    Returns uint8 [n, H, W, 3] in the order of ``indices``. Raises MediaError, or IndexError for a number out of range.
    """
    name = name_of(path)
    with open_media(path, name) as container:
        stream = main_stream(container, "video")
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
            raise MediaError(name, f"its pictures do not decode: {plain(error)}") from error
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
    name = name_of(path)
    with open_media(path, name) as source:
        stream = main_stream(source, "video")
        if stream is None:
            raise MediaError(name, "holds no pictures")
        target = io.BytesIO()
        try:
            with av.open(target, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
                copy = container.add_stream_from_template(stream)
                packets = [packet for packet in source.demux(stream) if packet.size]
                _set_decoding_times(packets)
                for packet in packets:
                    packet.stream = copy
                    container.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(name, f"its {stream.codec_context.name} pictures cannot be copied: {error}") from error
        return target.getvalue(), stream.codec_context.name


def count_frames(path: Source) -> int:
    """Frames that the file presents, counted without decoding."""
    name = name_of(path)
    with open_media(path, name) as container:
        stream = main_stream(container, "video")
        if stream is None:
            return 0
        return sum(packet.pts is not None and not packet.is_discard for packet in container.demux(stream))


def _set_decoding_times(packets: list[Any]) -> None:
    """Matroska stores none, and ffmpeg misses some: the times of presentation in order, early enough for all."""
    if any(packet.dts is None for packet in packets):
        if any(packet.pts is None for packet in packets):
            raise ValueError("packets without a time")
        order = sorted(packet.pts for packet in packets)
        delay = max(decoding - packet.pts for decoding, packet in zip(order, packets, strict=True))
        for decoding, packet in zip(order, packets, strict=True):
            packet.dts = decoding - delay
