"""Faces: what moves is what was asked to move, and it can be seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.data.synthesis import actors, face
from avjax.data.synthesis.emotions import Knobs


def still(frames: int = 3, **changes: np.ndarray) -> face.Performance:
    calm = face.Performance(
        expression=np.zeros((frames, 4)),
        mouth_opening=np.zeros(frames),
        mouth_rounding=np.zeros(frames),
        lids=np.ones(frames),
        shift=np.zeros((frames, 2)),
        turn=np.zeros(frames),
    )
    return dataclasses.replace(calm, **changes)


def looks(rng: np.random.Generator) -> face.Appearance:
    return actors.look(Knobs(seed=int(rng.integers(1 << 30)), appearance_range=1.0), int(rng.integers(1, 25)))


@pytest.mark.parametrize("pixels", [64, 96])
def test_frames_are_independent(pixels: int, rng: np.random.Generator) -> None:
    look = looks(rng)
    show = still(2, mouth_opening=np.array([0.0, 1.0]), turn=np.array([0.1, -0.1]), lids=np.array([1.0, 0.2]))
    both = face.draw(look, show, pixels)
    assert both.shape == (2, pixels, pixels, 3)
    assert both.dtype == np.uint8
    for k in range(2):
        one = face.Performance(**{f.name: getattr(show, f.name)[k : k + 1] for f in dataclasses.fields(show)})
        np.testing.assert_array_equal(face.draw(look, one, pixels)[0], both[k])


def changed(look: face.Appearance, **changes: np.ndarray) -> np.ndarray:
    """Which pixels two values of one thing tell apart [64, 64]."""
    images = face.draw(look, still(2, **changes), 64).astype(int)
    return np.abs(images[0] - images[1]).max(-1) > 25


def test_each_thing_moves_where_it_is(rng: np.random.Generator) -> None:
    for _ in range(5):
        look = looks(rng)
        rows = np.arange(64)[:, None] * np.ones((1, 64), int)
        eye_row = 32 * (1 - look.eyes[1])
        mouth = changed(look, mouth_opening=np.array([0.0, 1.0]))
        assert mouth.sum() > 20
        assert rows[mouth].min() > eye_row + 8
        lids = changed(look, lids=np.array([1.0, 0.0]))
        assert lids.sum() > 40
        assert np.abs(rows[lids] - eye_row).max() < 8
        for parameter, above in ((0, True), (1, True), (2, False), (3, True)):
            expression = np.zeros((2, 4))
            expression[:, parameter] = (-1, 1)
            moved = changed(look, expression=expression)
            assert moved.sum() > 15, parameter
            middle = np.median(rows[moved])
            assert middle < eye_row + 3 if above else middle > eye_row + 8


def test_no_shape_is_cut_off(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes are painted into windows; windows of the whole picture give the same, as far as heads ever move."""
    part = face._Canvas.part

    def whole_part(canvas: face._Canvas, *edges: float) -> face._Part:
        return part(canvas, -9.0, -9.0, 9.0, 9.0)

    times = np.arange(40) / face.RATE
    for _ in range(4):
        motion = np.array([actors._sway(times, rng) for _ in range(3)])
        motion *= 1.6 / np.abs(motion).max(1, keepdims=True)  # the farthest that two waves can add up to
        show = still(
            40,
            expression=rng.uniform(-1.2, 1.2, (40, 4)),
            mouth_opening=rng.random(40),
            shift=np.stack([actors.SHIFT[0] * motion[0], actors.SHIFT[1] * motion[1]], axis=1),
            turn=actors.TURN * motion[2],
        )
        look = looks(rng)
        windows = face.draw(look, show, 64)
        with monkeypatch.context() as patch:
            patch.setattr(face._Canvas, "part", whole_part)
            whole = face.draw(look, show, 64)
        assert np.abs(windows.astype(int) - whole).max() <= 1


def test_the_mouth_opens_for_vowels_and_shuts_for_lips() -> None:
    phonemes = ((0.0, "m"), (0.15, "'A:"), (0.35, "b"), (0.5, "u:"), (0.65, ""))
    times = np.arange(0, 1.2, 0.01)
    opening, rounding = face.mouth_track(phonemes, 0.2, times)

    def at(seconds: float) -> int:
        return round(seconds * 100)

    assert opening[at(0.05)] < 0.1  # before it speaks
    assert opening[at(0.28)] < 0.15
    assert opening[at(0.45)] > 0.85
    assert opening[at(0.62)] < 0.15
    assert rounding[at(0.78)] > 0.8
    assert opening[at(1.1)] < 0.1
    later, _ = face.mouth_track(phonemes, 0.3, times + 0.1)
    np.testing.assert_allclose(later, opening, atol=0.05)


@pytest.mark.parametrize(
    ("mnemonic", "opening", "rounding"), [("'O:", 0.8, 0.6), ("aI", 0.9, -0.2), ("b", 0.0, 0.0), ("", 0.05, 0.0)]
)
def test_mnemonics(mnemonic: str, opening: float, rounding: float) -> None:
    assert face.viseme(mnemonic) == (opening, rounding)
