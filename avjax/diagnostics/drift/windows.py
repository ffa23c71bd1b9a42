"""A clip cut into windows of equal support: saliency on the cells of each, and how much the content changes.

Times are seconds from the clip's start. A window's cells are those of all states (``grid``), with time counted from
the window's own begin, so that a window that shows the same as the one before has the same state.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from avjax.diagnostics.drift.grid import AUDIO_GRID, VISUAL_GRID, pooled
from avjax.diagnostics.measured import Undefined

WINDOW = 1.0
"""Seconds of a window; the next one begins half of it later."""
FEWEST = 7
"""Windows of a clip that is too short for so many of a second: 4 s have just as many."""
SPECTRUM_SECONDS, SPECTRUM_HOP = 0.025, 0.010

Span = tuple[float, float]
Edges = Float[np.ndarray, "V 2"]


def windows(span: Span) -> Edges:
    """Begin and end of each window: all of one length, each half a length after the one before, together the span.

    Of a span shorter than 4 s there are 7, of a quarter of it each; of a longer one as many as are a second long, or a
    little more, so that nothing is left at the end.
    """
    length = span[1] - span[0]
    if not length > 0:
        raise Undefined("the modalities share no time")
    count = max(FEWEST, int(2 * length / WINDOW + 1e-9) - 1)
    step = length / (count + 1)
    begin = span[0] + step * np.arange(count)
    return np.stack([begin, begin + 2 * step], axis=1)


def in_windows(mass: Num[np.ndarray, "T ..."], span: Span, edges: Edges) -> Float[np.ndarray, "V J"]:
    """Saliency of each window on its cells, not normalised: what lies across an edge is split by time.

    Sound [T, F] has 4 cells of frequency by 4 of time, pictures [T, H, W] 7 by 7 over all of the window, features [T]
    16 cells of time.

    Args:
      mass: 0 or more.
      span: what the T steps fill, evenly.
    """
    mass = np.asarray(mass, np.float64)
    if mass.ndim == 3:
        seen = np.tensordot(_inside(edges, span, len(mass)), mass, axes=1)
        return pooled(seen, VISUAL_GRID).reshape(len(edges), -1)
    steps = AUDIO_GRID[1] if mass.ndim == 2 else AUDIO_GRID[0] * AUDIO_GRID[1]
    heard = _inside(_parts(edges, steps), span, len(mass)) @ mass
    if mass.ndim == 1:
        return heard.reshape(len(edges), steps)
    heard = heard.reshape(len(edges), steps, -1).swapaxes(1, 2)
    return pooled(heard, AUDIO_GRID).reshape(len(edges), -1)


def content_change(values: Num[np.ndarray, "T ..."], span: Span, edges: Edges) -> Float[np.ndarray, " V-1"]:
    """How much the input changes from each window to the next: the mean of its change between their middles.

    Of a waveform [T] the spectral flux, the sum of the magnitudes' rises from one short spectrum to the next; of
    pictures and features the mean absolute difference of neighbours. 0 where nothing changes, and of a single step.

    Args:
      values: of the steps that are there.
      span: what they fill, evenly.
    """
    values = np.asarray(values, np.float32)
    if values.ndim == 1:
        series = _spectral_flux(values, len(values) / (span[1] - span[0]))
    else:
        series = np.abs(np.diff(values, axis=0)).mean(axis=tuple(range(1, values.ndim)), dtype=np.float64)
    middle = edges.mean(axis=1)
    if not len(series):
        return np.zeros(len(edges) - 1)
    # The k-th change lies between the middles of steps k and k + 1; its integral is read off at the windows' middles.
    step = (span[1] - span[0]) / (len(series) + 1)
    borders = span[0] + step * (np.arange(len(series) + 1) + 0.5)
    integral = np.interp(middle, borders, np.concatenate([[0.0], np.cumsum(series) * step]))
    # An integral is never below the one before but by rounding.
    return np.maximum(np.diff(integral), 0) / np.diff(middle)


def _inside(edges: Float[np.ndarray, "V 2"], span: Span, count: int) -> Float[np.ndarray, "V T"]:
    """Share of each of ``count`` even steps of the span that lies in each window."""
    borders = np.linspace(*span, count + 1)
    shared = np.minimum(edges[:, 1:], borders[1:]) - np.maximum(edges[:, :1], borders[:-1])
    return np.clip(shared, 0, None) * count / (span[1] - span[0])


def _parts(edges: Float[np.ndarray, "V 2"], count: int) -> Float[np.ndarray, "VP 2"]:
    """Each window cut into even parts, one after another."""
    borders = np.linspace(edges[:, 0], edges[:, 1], count + 1, axis=1)
    return np.stack([borders[:, :-1], borders[:, 1:]], axis=-1).reshape(-1, 2)


def _spectral_flux(wave: Float[np.ndarray, " S"], rate: float) -> Float[np.ndarray, " K"]:
    size, hop = (max(2, round(seconds * rate)) for seconds in (SPECTRUM_SECONDS, SPECTRUM_HOP))
    if len(wave) < size + hop:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))
    return np.maximum(np.diff(magnitude, axis=0), 0).sum(axis=1)
