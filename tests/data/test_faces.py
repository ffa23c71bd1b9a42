"""Cutting videos to the face: where the square lies, what is kept, what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avjax.data import faces, media
from avjax.data.corpora import demo


def film(corner: tuple[int, int], frames: int = 12) -> np.ndarray:
    """A bright square of 20 pixels at ``corner`` (x, y) on grey."""
    images = np.full((frames, 90, 120, 3), 60, np.uint8)
    x, y = corner
    images[:, y : y + 20, x : x + 20] = 250
    return images


def bright(image: np.ndarray) -> list[faces.Box]:
    """A detector of bright squares."""
    rows, columns = np.nonzero(image[..., 0] > 200)
    if not len(rows):
        return []
    return [(float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))]


def test_the_square_surrounds_the_face() -> None:
    assert faces.find_square(film((50, 30)), bright) == (45, 25, 30)
    assert faces.find_square(film((0, 0)), bright) == (0, 0, 30)  # moved into the picture
    assert faces.find_square(film((100, 70)), bright) == (90, 60, 30)


def test_one_frame_astray_moves_nothing(rng: np.random.Generator) -> None:
    images = film((50, 30))
    images[rng.integers(len(images))] = film((5, 5), 1)[0]
    images[rng.integers(len(images))] = 60
    assert faces.find_square(images, bright) == (45, 25, 30)
    assert faces.find_square(images * 0, bright) is None


def test_cut_files_are_the_same_pixels(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "cut"
    times = np.arange(12) / 30
    for name, corner in (("a/one.mp4", (50, 30)), ("two.mp4", (10, 40))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        media.encode(root / name, media.Frames(film(corner), times), None)
    media.encode(root / "none.mp4", media.Frames(film((50, 30)) // 4, times), None)
    (root / "broken.mp4").write_bytes(b"not a film")
    sources = [root / name for name in ("a/one.mp4", "two.mp4", "none.mp4", "broken.mp4")]
    with pytest.warns(UserWarning, match="2 of 4 videos stay whole, such as none.mp4"):
        found = faces.cut_all(sources, root, out, detector=bright, workers=1)
    assert found[root / "none.mp4"] == root / "none.mp4"
    assert found[root / "broken.mp4"] == root / "broken.mp4"
    assert found[root / "a/one.mp4"] == out / "a/one.mp4"
    cut = media.decode(out / "a/one.mp4").video
    whole = media.decode(root / "a/one.mp4").video
    assert cut is not None
    assert whole is not None
    np.testing.assert_allclose(cut.times, whole.times, atol=1e-6)
    left, top, side = faces.find_square(whole.images, bright) or (0, 0, 0)
    expected = whole.images[:, top : top + side, left : left + side].astype(int)
    assert np.abs(cut.images.astype(int) - expected).mean() < 4

    def refuse(image: np.ndarray) -> list[faces.Box]:
        raise AssertionError("what is cut is not cut again")

    again = faces.cut_all(sources[:2], root, out, detector=refuse, workers=1)
    assert again == {source: found[source] for source in sources[:2]}


def test_originals_are_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another folder"):
        faces.cut_all([tmp_path / "a.mp4"], tmp_path, tmp_path, detector=bright)


def test_dlib_finds_a_drawn_face() -> None:
    pytest.importorskip("dlib", reason="needs the extra: pip install avjax[faces]")
    knobs = demo.Knobs(pixels=128, actors=3, clips_per_actor=2)
    performed = demo.perform(knobs, demo.plan(knobs)[0])
    left, top, side = faces.find_square(performed.images) or (0, 0, 0)
    assert 60 <= side <= 128
    assert abs(left + side / 2 - 64) < 20
    assert abs(top + side / 2 - 64) < 25
