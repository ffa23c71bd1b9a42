"""Videos cut to the face, by a detector that needs no download (optional extra ``faces``).

The detector is dlib's frontal face detector (King 2015, "Max-Margin Object Detection": HOG and a linear classifier,
compiled into the library), from the package ``dlib-bin``. It finds upright faces that look at the camera, as in
RAVDESS and CREMA-D; for others, hand in a detector of your own.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avjax.data import media, parallel

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Detector = Callable[[np.ndarray], Sequence[Box]]

LOOKS = 9  # frames of a clip in which the face is looked for
MARGIN = 1.5  # the cut's side over the detected box's: dlib's box runs from brows to chin
_HEIGHT = 360  # detection is done at about this height: RAVDESS's faces are large, and 720 lines take four times longer


def dlib_faces(image: np.ndarray) -> list[Box]:
    """Boxes of the faces in uint8 [H, W, 3], surest first. Small pictures are enlarged first."""
    step = max(1, image.shape[0] // _HEIGHT)
    enlarge = int(image.shape[0] <= 240) + int(image.shape[0] <= 120)
    found, scores, _ = _dlib_detector().run(np.ascontiguousarray(image[::step, ::step]), enlarge, 0.0)
    order = np.argsort([-score for score in scores], kind="stable")
    boxes = [found[int(k)] for k in order]
    return [tuple(float(step * edge) for edge in (b.left(), b.top(), b.right() + 1, b.bottom() + 1)) for b in boxes]


def find_square(images: np.ndarray, detector: Detector = dlib_faces) -> tuple[int, int, int] | None:
    """Where a clip's face is: (left, top, side) of one square for all frames, or None where no face is found.

    The median over ``LOOKS`` frames of the surest face, widened by ``MARGIN`` and moved into the picture; one square
    a clip, so that the head's motion is kept and no jitter is added.

    Args:
      images: uint8 [T, H, W, 3].
      detector: gives boxes (left, top, right, bottom), surest first.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, LOOKS).round().astype(int))
    boxes = [found[0] for found in (detector(images[k]) for k in chosen) if len(found)]
    if not boxes:
        return None
    left, top, right, bottom = np.median(np.array(boxes, np.float64), axis=0)
    height, width = images.shape[1:3]
    side = int(min(MARGIN * max(right - left, bottom - top), height, width)) // 2 * 2
    begin_x = round(float(np.clip((left + right - side) / 2, 0, width - side)))
    begin_y = round(float(np.clip((top + bottom - side) / 2, 0, height - side)))
    return begin_x, begin_y, side


def cut(source: Path, target: Path, detector: Detector = dlib_faces) -> str:
    """Writes the face of ``source`` to ``target``, without sound. Returns "cut", or why not, in one line."""
    try:
        frames = media.decode(source, audio=False).video
    except media.MediaError as error:
        return error.reason
    if frames is None:
        return "has no picture"
    square = find_square(frames.images, detector)
    if square is None:
        return "no face found"
    left, top, side = square
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.stem}.{os.getpid()}.mp4")
    media.encode(partial, media.Frames(frames.images[:, top : top + side, left : left + side], frames.times), None)
    os.replace(partial, target)
    return "cut"


def cut_all(
    sources: Sequence[Path], root: Path, out: Path, *, detector: Detector = dlib_faces, workers: int | None = None
) -> dict[Path, Path]:
    """Cuts every video below ``root`` into the same place below ``out``, where that is not done yet.

    Returns:
      For each source the file to take frames from: the cut one, or the source itself where no face was found or it
      cannot be read (counted in a warning).
    """
    if detector is dlib_faces:
        _dlib_detector()  # says at once what is not installed
    if out.resolve() == root.resolve():
        raise ValueError(f"{out}: the cut videos would replace the originals; choose another folder for them")
    targets = {source: (out / source.relative_to(root)).with_suffix(".mp4") for source in dict.fromkeys(sources)}
    tasks = [(source, target, detector) for source, target in targets.items() if not target.is_file()]
    if tasks:
        for _ in parallel.run(cut, tasks, workers=workers, description="cutting faces"):
            continue
    left_whole = [source for source, target in targets.items() if not target.is_file()]
    if left_whole:
        warnings.warn(
            f"{root}: {len(left_whole)} of {len(targets)} videos stay whole, such as {left_whole[0].name}: no face was "
            "found, or they cannot be read",
            stacklevel=3,
        )
    return {source: source if source in left_whole else target for source, target in targets.items()}


@functools.cache
def _dlib_detector() -> Any:
    try:
        import dlib
    except ImportError as error:
        raise ImportError(
            "cutting videos to the face takes dlib, which is not installed: pip install avjax[faces]"
        ) from error
    return dlib.get_frontal_face_detector()
