"""The pictures of a report: pixels, times, frequencies and colours are the clip's and the page's."""

from __future__ import annotations

import base64
import io
import re

import matplotlib.image
import numpy as np
import pytest

from avjax.data.media import Frames, Waveform
from avjax.data.records import Audio, Record, Video
from avjax.diagnostics import figures

RATE = 16_000


def decode(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return (matplotlib.image.imread(io.BytesIO(data))[..., :3] * 255).round().astype(np.uint8)


def record(images: np.ndarray | None, samples: np.ndarray | None, rate: int = RATE, step: float = 0.1) -> Record:
    video = None if images is None else Video.encode(Frames(images, np.arange(len(images)) * step), "raw")
    audio = None if samples is None else Audio.encode(Waveform(samples, rate))
    return Record("clip", "test", "", {}, {}, audio, video)


def test_frames_keep_their_pixels_and_stand_at_their_times(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (30, 24, 32, 3), dtype=np.uint8)
    picture = figures.picture_clip(record(images, np.zeros(4 * RATE, np.int16)))
    assert picture.seconds == 4.0
    # Six frames over four seconds, of which the picture fills three: at 1/3, 1, 5/3, 7/3, 3 and 11/3 seconds.
    shown = [None if uri is None else decode(uri) for uri in picture.frames]
    for place, number in enumerate([3, 10, 16, 23]):
        np.testing.assert_array_equal(shown[place], images[number])
    assert shown[4:] == [None, None]
    assert picture.ticks == tuple((k / 4, str(k)) for k in range(5))


def test_a_grey_picture_stays_grey_and_large_ones_are_averaged(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (1, 8, 8, 1), dtype=np.uint8)
    picture = figures.picture_clip(record(grey, None))
    assert picture.still
    assert picture.spectrogram is None
    np.testing.assert_array_equal(decode(picture.frames[0]), grey[0].repeat(3, axis=2))
    large = rng.integers(0, 256, (301, 415, 3), dtype=np.uint8)
    small = figures.shrink(large)
    assert small.shape == (100, 138, 3)
    assert small[7, 9, 1] == round(float(large[21:24, 27:30, 1].astype(float).mean()))


@pytest.mark.parametrize("rate", [16_000, 8_000])
def test_a_tone_is_bright_at_its_own_height(rate: int) -> None:
    hertz = 1000.0
    tone = (12_000 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype(np.int16)
    picture = figures.picture_clip(record(None, tone, rate))
    rows = decode(picture.spectrogram).astype(int).sum(axis=(1, 2))
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(rate / 2), 66)
    # Low frequencies are at the bottom, the last row of the picture.
    expected = 63 - int(np.abs(edges[1:-1] - mel(hertz)).argmin())
    assert abs(int(rows.argmax()) - expected) <= 1
    assert (picture.mels, picture.band) == (64, (20, rate // 2))


def test_plots_take_the_colours_of_the_page() -> None:
    curves = [figures.Curve(place, (0, 10), (1.0, float(place))) for place in range(9)]
    svg = figures.plot(curves, "a <label>", name="here")
    assert svg.startswith("<svg viewBox=")
    assert {f"var(--series-{k})" for k in range(1, 9)} <= set(re.findall(r"var\(--series-\d\)", svg))
    assert "#0404" not in svg
    assert "font-family" not in svg
    assert "<style" not in svg
    assert 'aria-label="a &lt;label&gt;"' in svg
