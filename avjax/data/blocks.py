"""Frames and sound as blocks that decode alone, so that a crop of a clip costs only its own blocks.

A frame is one JPEG file; sound is a run of FLAC frames of equal length. Both through PyAV: at 224x224 its JPEG decoder
takes as long as Pillow's, and asks for no further dependency.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

FLAC_BLOCK = 4096  # samples


class JpegEncoder:
    """Frames of one size, given one by one -> one JPEG file (4:4:4) each; ``quality`` is ffmpeg's, 1 (best) to 31."""

    def __init__(self, quality: int):
        if not 1 <= quality <= 31:
            raise ValueError(f"jpeg quality is ffmpeg's scale, 1 (best) to 31, not {quality}")
        self._encoder = av.CodecContext.create("mjpeg", "w")
        self._encoder.pix_fmt, self._encoder.time_base, self._encoder.thread_count = "yuvj444p", Fraction(1, 25), 1
        self._encoder.options = {"qmin": str(quality), "qmax": str(quality)}
        self._encoder.flags |= int(av.codec.context.Flags.bitexact)
        self._reformatter = VideoReformatter()
        self._files: list[bytes] = []

    def add(self, image: np.ndarray) -> None:
        """uint8 [H, W, C], C 1 or 3."""
        height, width, channels = image.shape
        if not self._encoder.is_open:
            self._encoder.height, self._encoder.width = height, width
        pixels, layout = (image[..., 0], "gray") if channels == 1 else (image, "rgb24")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), layout)
        frame = self._reformatter.reformat(frame, format="yuvj444p", dst_color_range=ColorRange.JPEG, threads=1)
        frame.pts = None
        self._files += [bytes(packet) for packet in self._encoder.encode(frame)]

    def finish(self) -> tuple[bytes, ...]:
        if self._encoder.is_open:
            self._files += [bytes(packet) for packet in self._encoder.encode(None)]
        return tuple(self._files)


def encode_jpeg(images: np.ndarray, quality: int) -> tuple[bytes, ...]:
    """uint8 [T, H, W, C], C 1 or 3 -> one JPEG file a frame."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"frames for jpeg must be uint8 [T, H, W, 1 or 3], not {images.dtype} {images.shape}")
    encoder = JpegEncoder(quality)
    for image in images:
        encoder.add(image)
    return encoder.finish()


class JpegDecoder(threading.local):
    """A decoder and a converter for each thread: making them costs more than a small picture takes."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._decoder = av.CodecContext.create("mjpeg", "r")
        self._decoder.thread_count = 1
        self._reformatter = VideoReformatter()

    def decode(self, file: bytes, layout: str) -> av.video.plane.VideoPlane:
        try:
            (frame,) = self._decoder.decode(av.Packet(file))
        except Exception:
            # Nothing of a broken file may stay behind for the next one.
            self.renew()
            raise
        # One thread: sharing out a small picture takes ten times as long as converting it.
        return self._reformatter.reformat(frame, format=layout, threads=1).planes[0]


_jpeg = JpegDecoder()


def decode_jpeg(files: Sequence[bytes], out: np.ndarray) -> None:
    """Writes JPEG files of one size into uint8 [T, H, W, C]."""
    _, height, width, channels = out.shape
    for image, file in zip(out, files, strict=True):
        plane = _jpeg.decode(file, "gray" if channels == 1 else "rgb24")
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : width * channels]
        image[...] = rows.reshape(height, width, channels)


def encode_flac(samples: np.ndarray, rate: int) -> tuple[bytes, tuple[bytes, ...]]:
    """int16 [S] -> (stream header, FLAC frames of ``FLAC_BLOCK`` samples each, the last one shorter)."""
    encoder = av.CodecContext.create("flac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    encoder.time_base = Fraction(1, rate)
    encoder.flags |= int(av.codec.context.Flags.bitexact)
    encoder.options = {"frame_size": str(FLAC_BLOCK)}
    encoder.open()
    packets: list[bytes] = []
    for begin in range(0, len(samples), FLAC_BLOCK):
        block = np.ascontiguousarray(samples[None, begin : begin + FLAC_BLOCK], np.int16)
        frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        packets += [bytes(packet) for packet in encoder.encode(frame) if packet.size]
    packets += [bytes(packet) for packet in encoder.encode(None) if packet.size]
    return encoder.extradata or b"", tuple(packets)


def decode_flac(header: bytes, frames: Iterable[bytes], rate: int) -> np.ndarray:
    """Any run of frames of ``encode_flac`` -> int16 [S]."""
    decoder = av.CodecContext.create("flac", "r")
    decoder.extradata, decoder.sample_rate, decoder.layout = header, rate, "mono"
    blocks = [frame.to_ndarray().reshape(-1) for packet in frames for frame in decoder.decode(av.Packet(packet))]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
