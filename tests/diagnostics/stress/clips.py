"""Clips made of sines, for tests of what is done to clips, and a fast way to do it."""

from __future__ import annotations

import functools

import numpy as np

from avjax.diagnostics.stress import corruption
from avjax.streams import Stream
from tests.models import tiny

ROWS = 32
RATE, SAMPLES = 16_000, 8000
FRAMES_A_SECOND, FRAMES, HEIGHT, WIDTH = 10.0, 20, 32, 16

corrupt_rows = tiny.jit(corruption._rows.__wrapped__, static_argnames="name")
"""``corruption._rows``, compiled without optimisation."""


def scatter(count: int, first: int = 0) -> np.ndarray:
    """Numbers in [-1, 1) without order, the same with every version of NumPy."""
    at = np.sin(12.9898 * (np.arange(count) + first + 1)) * 43758.5453
    return 2 * (at - np.floor(at)) - 1


def stream(values: np.ndarray, rate: float) -> Stream:
    """All of it valid, from the start of the clip."""
    return Stream(values, np.ones(values.shape[:2], bool), np.zeros(len(values), np.float32), rate)


@functools.cache
def clips(rows: int = ROWS) -> dict[str, Stream]:
    """A voice of harmonics in syllables, at -24 dB of full scale; a coloured blob that wanders over stripes."""
    audio = np.stack([_voice(row) for row in range(rows)]).astype(np.float32)
    video = np.stack([_film(row) for row in range(rows)]).astype(np.float32)
    return {"audio": stream(audio, float(RATE)), "video": stream(video, FRAMES_A_SECOND)}


def _voice(row: int) -> np.ndarray:
    seconds = np.arange(SAMPLES) / RATE
    pitch = 100 * 2 ** (0.618 * row % 1)
    harmonic = np.arange(1, int(7000 / pitch))[:, None]
    tones = np.sin(2 * np.pi * pitch * harmonic * seconds + 0.7 * harmonic**2 + row)
    wave = (tones / (1 + (harmonic * pitch / 500) ** 1.5)).sum(0)
    wave *= 0.3 + 0.7 * np.sin(np.pi * (4 * seconds + 0.3 * row)) ** 2
    return 0.06 * wave / wave.std() + 0.003 * scatter(SAMPLES, row * SAMPLES)


def _film(row: int) -> np.ndarray:
    down, across = np.meshgrid(*((np.arange(size) + 0.5) / size for size in (HEIGHT, WIDTH)), indexing="ij")
    grain = 0.08 * scatter(HEIGHT * WIDTH * 3, 7919 * row).reshape(HEIGHT, WIDTH, 3)
    stripes = np.sin(2 * np.pi * ((1 + row % 3) * across + 0.3 * (row % 5) * down))[..., None]
    ground = 0.45 + 0.25 * stripes * [1, 0.6, -0.7] + grain
    frames = []
    for second in np.arange(FRAMES) / FRAMES_A_SECOND:
        middle = 0.5 + 0.35 * np.sin(2.6 * second + row), 0.5 + 0.35 * np.cos(1.8 * second + 2 * row)
        blob = np.exp(-((down - middle[0]) ** 2 + (across - middle[1]) ** 2) / 0.02)[..., None]
        frames.append(ground * (1 - blob) + blob * [0.9, 0.3, 0.15])
    return np.clip(frames, 0, 1)
