"""The pictures of a report: curves as inline SVG in the page's own colours, frames and spectrograms as inline PNG.

Figures are made without pyplot, so no state is shared; the same inputs give the same bytes.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import io
import re
from collections.abc import Callable, Sequence

import jax
import matplotlib
import numpy as np
from jaxtyping import Float, Shaped, UInt8
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, PercentFormatter

from avjax.data.logmel import LogMel
from avjax.data.records import Audio, Record
from avjax.streams import Stream

COLOURS = 8
"""Colours that the page has for runs; later runs take them again, with another dash."""

SECONDS_SHOWN = 20.0
FRAMES_SHOWN = 6

# Drawn in these, then replaced: the page's variables follow the reader's light or dark scheme.
_INK, _QUIET, _GRID = "#010101", "#020202", "#030303"
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_PIXELS = 128  # height of a frame at most: four times that of a strip on a phone
_NATS_SHOWN = 12.0  # 52 dB below the loudest cell


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a plot; ``place`` is the run's among all, and gives colour and dash."""

    place: int
    steps: Sequence[int]
    values: Sequence[float]


def plot(curves: Sequence[Curve], label: str, *, share: bool = False, name: str = "plot") -> str:
    """Curves over training steps, as an <svg> element without a word of the user's in it.

    Args:
      label: what the plot shows, for readers who do not see it.
      share: values are shares, shown as percentages from 0 to 100.
      name: unique within the page; begins every id.
    """
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.8, 2.9))
        axes = figure.add_axes((0.125, 0.13, 0.84, 0.845))
        for curve in curves:
            colour = f"#0404{curve.place % COLOURS + 1:02x}"
            dash = _DASHES[curve.place // COLOURS % len(_DASHES)]
            marker = "o" if len(curve.steps) <= 30 else ""
            (line,) = axes.plot(curve.steps, curve.values, color=colour, linestyle=dash, linewidth=1.7)
            line.set(marker=marker, markersize=3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(color=_GRID, labelcolor=_QUIET, length=0, pad=5)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        last = max(curve.steps[-1] for curve in curves)
        axes.set_xlim(0, max(last, 1) * 1.01)
        if share:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _for_page(buffer.getvalue(), label, name)


def _for_page(svg: str, label: str, name: str) -> str:
    """An SVG file as an element of the page: own ids, the page's fonts and colours, no style that leaks out."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r"font(?:-family)?: ?[^;\"]*?'[^;\"]*;?", lambda m: _font_size(m.group()), svg)
    svg = re.sub(r' xmlns(?::xlink)?="[^"]*"| version="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{html.escape(label)}">', svg)
    for drawn, variable in ((_INK, "ink"), (_QUIET, "quiet"), (_GRID, "line")):
        svg = svg.replace(drawn, f"var(--{variable})")
    return re.sub("#0404(0[1-9])", lambda m: f"var(--series-{int(m.group(1), 16)})", svg)


def _font_size(style: str) -> str:
    """The size out of a font's style: the family is the page's."""
    size = re.search(r"[\d.]+px", style)
    return f"font-size: {size.group()};" if size else ""


def png(image: UInt8[np.ndarray, "H W C"]) -> str:
    """An image of 1 or 3 channels as a data URI."""
    return _data_uri(image.repeat(3, axis=2) if image.shape[2] == 1 else image)


def _data_uri(pixels: np.ndarray, **options: object) -> str:
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", metadata={"Software": None}, **options)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shrink(image: UInt8[np.ndarray, "H W C"], most: int = _PIXELS) -> UInt8[np.ndarray, "h w C"]:
    """The image, by whole blocks of pixels, until it is not higher than ``most``."""
    block = -(-image.shape[0] // most)
    if block == 1 or image.shape[1] < block:
        return image
    height, width = image.shape[0] // block, image.shape[1] // block
    blocks = image[: height * block, : width * block].reshape(height, block, width, block, -1)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class ClipPicture:
    """What a clip looks and sounds like.

    Attributes:
      seconds: along the common time axis of frames and spectrogram.
      cut: whether the clip goes on after them.
      frames: data URIs, at even distances in time; None where no frame is on the screen.
      still: whether the clip is one picture.
      coarse: whether pixels are to be shown as squares.
      spectrogram: data URI; None without sound.
      heard: share of the time axis that the spectrogram takes.
      mels: its bins.
      band: its lowest and highest frequency in Hz.
      ticks: (share of the time axis, seconds).
    """

    seconds: float
    cut: bool
    frames: tuple[str | None, ...]
    still: bool
    coarse: bool
    spectrogram: str | None
    heard: float
    mels: int
    band: tuple[int, int]
    ticks: tuple[tuple[float, str], ...]


def picture_clip(record: Record) -> ClipPicture:
    """Frames and spectrogram of a record, at most its first ``SECONDS_SHOWN``."""
    audio, video = record.audio, record.video
    heard = audio.samples / audio.rate if audio is not None else 0.0
    seen = 0.0
    if video is not None and len(video) > 1:
        seen = float(video.times[-1] + (video.times[-1] - video.times[-2]))
    whole = max(heard, seen)
    seconds = min(whole, SECONDS_SHOWN)
    still = video is not None and len(video) == 1
    frames: tuple[str | None, ...] = ()
    if still:
        frames = (png(shrink(video.read([0])[0])),)
    elif video is not None and len(video):
        times = (np.arange(FRAMES_SHOWN) + 0.5) / FRAMES_SHOWN * seconds
        shown = np.searchsorted(video.times, times, side="right") - 1
        visible = (shown >= 0) & (times < seen - 1e-6)
        images = iter(video.read(shown[visible]))
        frames = tuple(png(shrink(next(images))) if there else None for there in visible)
    log_mel = _spectrogram(audio)
    spectrogram, band = None, (0, 0)
    if log_mel is not None:
        top = float(log_mel.max())
        limits = {"vmin": top - _NATS_SHOWN, "vmax": top, "cmap": "magma", "origin": "lower"}
        spectrogram = _data_uri(log_mel.T, **limits)
        way = _log_mel(audio.rate)
        band = (round(way.low), round(way.high))
    return ClipPicture(
        seconds=seconds,
        cut=whole > SECONDS_SHOWN,
        frames=frames,
        still=still,
        coarse=video is not None and video.height <= 48,
        spectrogram=spectrogram,
        heard=min(heard / seconds, 1.0) if seconds else 0.0,
        mels=0 if log_mel is None else log_mel.shape[1],
        band=band,
        ticks=ticks(seconds),
    )


@functools.cache
def _log_mel(rate: int) -> LogMel:
    """Natural logarithms, not normalised; 64 bins leave no filter empty at 16 kHz."""
    return LogMel(mels=64, rate=rate, high=min(8_000.0, rate / 2), mean=0.0, std=1.0)


@functools.cache
def _jitted(rate: int) -> Callable[[Stream], Stream]:
    return jax.jit(_log_mel(rate))


def _spectrogram(audio: Audio | None) -> Float[np.ndarray, "T F"] | None:
    """The log-mel spectrogram by the front end itself; None without sound, or with less than a frame of it."""
    if audio is None:
        return None
    samples = audio.read(0, round(SECONDS_SHOWN * audio.rate))
    frames = _log_mel(audio.rate).frames(len(samples))
    if not frames:
        return None
    # Whole seconds, so that clips share what was compiled.
    length = -(-len(samples) // audio.rate) * audio.rate
    valid = np.arange(length)[None] < len(samples)
    padded = np.pad(samples, (0, length - len(samples)))[None]
    stream = Stream(padded, valid, np.zeros(1, np.float32), float(audio.rate))
    return np.asarray(_jitted(audio.rate)(stream).values)[0, :frames]


def ticks(seconds: float) -> tuple[tuple[float, str], ...]:
    """At most seven round times from 0 on, and where they stand."""
    if seconds <= 0:
        return ()
    step = next((step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if seconds / step <= 6), 10)
    return tuple((k * step / seconds, f"{k * step:g}") for k in range(int(seconds / step + 1e-9) + 1))


def normalised(matrix: Shaped[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """A confusion matrix as shares of each true class (row); 0 in the row of a class that does not occur."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
