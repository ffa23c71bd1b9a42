"""Write media files: h264 + aac, WAV, FLAC. Used through media.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from avjax.data.tracks import Frames, Waveform

_BITEXACT = int(av.codec.context.Flags.bitexact)
_TICKS = 90_000  # of the video track, a second


def encode(
    path: str | os.PathLike[str],
    frames: Frames | None,
    waveform: Waveform | None,
    *,
    quality: int = 18,
    preset: str = "veryfast",
    keyframe_every: int = 250,
    audio_bit_rate: int = 96_000,
    threads: int = 1,
) -> None:
    """Writes a file: h264 and aac in a video container; ``.wav`` (int16) and ``.flac`` hold sound alone.

    Args:
      path: where to; the suffix chooses the container.
      frames: pictures, C 1 or 3, at any times; None for none. Odd sizes are kept (stored without chroma subsampling).
      waveform: sound at a rate that the codec knows; None for none.
      quality: x264's constant rate factor, smaller is better.
      preset: x264's preset.
      keyframe_every: most frames from one keyframe to the next.
      audio_bit_rate: of aac, bits per second.
      threads: of the h264 encoder. Equal arguments, this one included, give equal bytes.
    """
    if frames is None and waveform is None:
        raise ValueError(f"{path}: nothing to encode, neither frames nor waveform")
    suffix = Path(path).suffix.lower()
    codec = {".wav": "pcm_s16le", ".flac": "flac"}.get(suffix, "aac")
    if codec != "aac" and (frames is not None or waveform is None):
        raise ValueError(f"{path}: a {suffix} file holds sound alone; give frames=None, or name the file .mp4")
    with av.open(os.fspath(path), "w", options={"fflags": "+bitexact"}) as container:
        pictures = sounds = None
        if frames is not None:
            options = {"crf": str(quality), "preset": preset, "threads": str(threads), "g": str(keyframe_every)}
            # x264's macroblock tree reads memory that it never set: its files differ from run to run.
            options["x264-params"] = "mbtree=0"
            pictures = _add_pictures(container, frames, options)
        if waveform is not None:
            sounds = container.add_stream(codec, rate=waveform.rate)
            sounds.layout = "mono"
            sounds.codec_context.flags |= _BITEXACT
            if codec == "aac":
                sounds.bit_rate = audio_bit_rate
                # A sixth of the time of ffmpeg's default search, with no more error.
                sounds.codec_context.options = {"aac_coder": "fast"}
        if pictures is not None and frames is not None:
            for frame in _video_frames(frames):
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
        if sounds is not None and waveform is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform.samples[None], np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = waveform.rate, 0, Fraction(1, waveform.rate)
            container.mux(sounds.encode(frame))
            container.mux(sounds.encode(None))


def _add_pictures(container: Any, frames: Frames, options: dict[str, str]) -> Any:
    if frames.images.ndim != 4 or frames.images.dtype != np.uint8 or len(frames.images) != len(frames.times):
        raise ValueError(
            f"frames must be uint8 [T, H, W, C] with T times, not {frames.images.dtype} {frames.images.shape} "
            f"with {len(frames.times)} times"
        )
    if (np.diff(np.rint(frames.times * _TICKS)) <= 0).any():
        raise ValueError(f"times of frames must increase, by at least {1 / _TICKS:.1e} s")
    stream = container.add_stream("libx264", rate=Fraction(frames.rate or 25).limit_denominator(1001))
    _, stream.height, stream.width, _ = frames.images.shape
    stream.pix_fmt = "yuv444p" if stream.height % 2 or stream.width % 2 else "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
    stream.codec_context.flags |= _BITEXACT
    stream.options = options
    return stream


def _video_frames(frames: Frames) -> Iterator[Any]:
    channels = frames.images.shape[-1]
    ticks = np.rint(frames.times * _TICKS).astype(np.int64)
    steps = np.diff(ticks)
    steps = np.append(steps, int(np.median(steps)) if len(steps) else _TICKS // 25)
    for image, tick, step in zip(frames.images, ticks, steps, strict=True):
        if channels == 1:
            image = np.repeat(image, 3, axis=-1)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        frame.pts, frame.time_base, frame.duration = int(tick), Fraction(1, _TICKS), int(step)
        yield frame
