"""A small synthetic corpus in the layout of AVE's feature package: ``python experiments/synthetic/ave.py FOLDER``.

A clip has ten seconds and one of 8 events. It is heard for six seconds in a row and seen for six, each beginning at a
second of its own choice, 0 to 4; the event is where it is both. The sound of a second is noise [128], and where it is
heard a pattern that two events share; the picture is noise in 7 x 7 cells [32], and where it is seen one cell, which
moves to a neighbour from second to second, has a pattern that two other events share. So the sound tells which pair of
events it is, the picture which other pair, and only both tell which event and where.

What an observer who knows all patterns, and sees no noise, reaches in accuracy of segments (``ceilings``): 0.692 by
sound alone or picture alone, 1.000 by both; 0.560 is the background's share. The mean of all cells hides the picture:
there a pattern stands 0.7 deviations out of the noise, in its cell 5 (``strength``).

The noisy part, for weak supervision, are clips in which the sound ends before the picture begins, or the other way
round: no event.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import tyro

from avjax.data.corpora import mark_synthetic

SECONDS, EVENTS, COLUMNS = 10, 8, 29
LENGTH, STARTS = 6, 5
CELLS, VISUAL, AUDIO = 7, 32, 128
SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the corpus.

    Attributes:
      folder: where to.
      clips: of the three splits together.
      noisy: clips without an event, beside them.
      strength: length of a pattern, in deviations of the noise of one number.
      seed: of everything.
    """

    folder: tyro.conf.Positional[Path]
    clips: int = 1000
    noisy: int = 400
    strength: float = 5.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is heard and seen of one event, and when: bool [10] each."""

    event: int
    heard: np.ndarray
    seen: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """[10, 29], the background last."""
        return np.eye(COLUMNS)[np.where(self.heard & self.seen, self.event, COLUMNS - 1)]


class Patterns:
    """Of sound [4, 128] and picture [4, 32]: what pairs of events share, at right angles to one another."""

    def __init__(self, random: np.random.Generator, strength: float = 5.0):
        bases = [np.linalg.qr(random.normal(size=(width, EVENTS // 2)))[0] for width in (AUDIO, VISUAL)]
        self.audio, self.video = (strength * basis.T for basis in bases)

    def features(self, clip: Clip, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sound [10, 128] and picture [10, 7, 7, 32] of a clip."""
        audio = random.normal(size=(SECONDS, AUDIO)).astype(np.float32)
        video = random.normal(size=(SECONDS, CELLS, CELLS, VISUAL)).astype(np.float32)
        audio[clip.heard] += self.audio[clip.event // 2]
        rows, columns = _path(random).T
        there = np.flatnonzero(clip.seen)
        video[there, rows[there], columns[there]] += self.video[clip.event % 4]
        return audio, video


def _path(random: np.random.Generator) -> np.ndarray:
    """The cell of each second [10, 2]: a neighbour of the one before, or the same."""
    cells = [random.integers(0, CELLS, 2)]
    for _ in range(SECONDS - 1):
        cells.append(np.clip(cells[-1] + random.integers(-1, 2, 2), 0, CELLS - 1))
    return np.stack(cells)


def _window(start: int, length: int) -> np.ndarray:
    second = np.arange(SECONDS)
    return (second >= start) & (second < start + length)


def draw(random: np.random.Generator) -> Clip:
    """A clip with an event."""
    heard, seen = (_window(start, LENGTH) for start in random.integers(0, STARTS, 2))
    return Clip(int(random.integers(EVENTS)), heard, seen)


def draw_without_event(random: np.random.Generator) -> Clip:
    """A clip in which what is heard and what is seen never meet."""
    cut = int(random.integers(3, 8))
    parts = [_window(0, cut), _window(cut, SECONDS)]
    if random.random() < 0.5:
        parts.reverse()
    return Clip(int(random.integers(EVENTS)), *parts)


def ceilings() -> dict[str, float]:
    """Accuracy of segments that the background alone, one modality and both allow, by counting all windows."""
    windows = np.stack([_window(start, LENGTH) for start in range(STARTS)])
    also = windows.mean(axis=0)  # How likely the other modality has the event at a second.
    # One of two events where it is, or the background.
    by_one = np.where(windows, np.maximum(also / 2, 1 - also), 1.0).mean()
    return {"background": 1 - float((windows * also).mean()), "one modality": float(by_one), "both": 1.0}


def write(options: Options) -> None:
    folder, random = options.folder, np.random.default_rng(options.seed)
    mark_synthetic(folder, f"experiments/synthetic/ave.py, {options.clips} clips, seed {options.seed}")
    patterns = Patterns(random, options.strength)
    clips = [draw(random) for _ in range(options.clips)]
    noisy = [draw_without_event(random) for _ in range(options.noisy)]
    _write_features(folder, "", clips, patterns, random)
    _write_features(folder, "_noisy", noisy, patterns, random)
    labels = np.stack([clip.labels for clip in clips])
    one_hot = np.eye(COLUMNS)
    _save(folder / "labels.h5", "avadataset", labels)
    _save(folder / "mil_labels.h5", "avadataset", one_hot[[clip.event for clip in clips]])
    _save(folder / "labels_noisy.h5", "avadataset", np.tile(one_hot[-1], (options.noisy, 1)))
    bounds = np.rint(np.cumsum([0, *SPLITS.values()]) * options.clips).astype(int)
    order = random.permutation(options.clips)
    for split, first, last in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        _save(folder / f"{split}_order.h5", "order", np.sort(order[first:last]))
    print(f"wrote {options.clips} clips and {options.noisy} without an event into {folder}")


def _write_features(folder: Path, suffix: str, clips: list[Clip], patterns: Patterns, random) -> None:
    """Clip by clip, so that a corpus of any length fits into memory."""
    shapes = {"audio": (SECONDS, AUDIO), "visual": (SECONDS, CELLS, CELLS, VISUAL)}
    with (
        h5py.File(folder / f"audio_feature{suffix}.h5", "w") as audio,
        h5py.File(folder / f"visual_feature{suffix}.h5", "w") as video,
    ):
        files = [
            file.create_dataset("avadataset", (len(clips), *shape), np.float32, chunks=(1, *shape) if clips else None)
            for file, shape in zip((audio, video), shapes.values(), strict=True)
        ]
        for row, clip in enumerate(clips):
            for file, values in zip(files, patterns.features(clip, random), strict=True):
                file[row] = values


def _save(path: Path, name: str, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file[name] = values


if __name__ == "__main__":
    write(tyro.cli(Options, description=__doc__))
