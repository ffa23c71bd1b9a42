"""AVE: clips of ten seconds from AudioSet, each with one of 28 events that is both heard and seen, second by second.

Tian, Shi, Li, Duan, Xu: Audio-Visual Event Localization in Unconstrained Videos, ECCV 2018. Two layouts:

* ``features``, those that nearly all work on this corpus starts from: ``audio_feature.h5`` [N, 10, 128] of VGGish,
  ``visual_feature.h5`` [N, 10, 7, 7, 512] of VGG-19, ``labels.h5`` [N, 10, 29] with the background last, and the rows
  of each split in ``train_order.h5``, ``val_order.h5``, ``test_order.h5``. Each file holds one data set, of any name.
  For weak supervision also ``mil_labels.h5`` [N, 29], and clips without an event, for training alone:
  ``audio_feature_noisy.h5``, ``visual_feature_noisy.h5`` (or ``video_feature_noisy.h5``) and ``labels_noisy.h5``.
* ``videos``: ``AVE/ID.mp4``, and lines ``Category&VideoID&Quality&StartTime&EndTime`` in ``trainSet.txt``,
  ``valSet.txt`` and ``testSet.txt``; times in seconds.

Every clip has the series ``event`` [10, 29], one-hot with the background last, and ``eventness`` [10, 1], once a
second; in the first layout also ``audio`` and ``video``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from avjax.data.corpora import Clip
from avjax.data.series import H5Row, Series, open_h5

# In the order of the labels' columns.
EVENTS = (
    "Church bell", "Male speech, man speaking", "Bark", "Fixed-wing aircraft, airplane", "Race car, auto racing",
    "Female speech, woman speaking", "Helicopter", "Violin, fiddle", "Flute", "Ukulele", "Frying (food)", "Truck",
    "Shofar", "Motorcycle", "Acoustic guitar", "Train horn", "Clock", "Banjo", "Goat", "Baby cry, infant cry", "Bus",
    "Chainsaw", "Cat", "Horse", "Toilet flush", "Rodents, rats, mice", "Accordion", "Mandolin",
)  # fmt: skip
BACKGROUND = len(EVENTS)
SECONDS = 10
FILES = {"train": ("train_order.h5", "trainSet.txt"), "validation": ("val_order.h5", "valSet.txt"),
         "test": ("test_order.h5", "testSet.txt")}  # fmt: skip
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One line of a split's list."""

    category: int
    video: str
    start: float
    end: float


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Which layout is read, and for which setting.

    A clip's label is its event; a clip without one has none, or where ``weak`` the background.

    Attributes:
      layout: features, or videos.
      weak: for learning from clips' labels alone: the background is the 29th class of a clip, and the clips without an
        event are added to training. The series are there all the same, to be evaluated on.
    """

    name: ClassVar[str] = "ave"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "features and labels for research; the videos are YouTube's (AudioSet)"

    layout: Literal["features", "videos"] = "features"
    weak: bool = False

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {"event": (*EVENTS, "background") if self.weak else EVENTS}

    def clips(self, root: Path) -> list[Clip]:
        """Every clip, split by split.

        Raises:
          FileNotFoundError: a file that the layout needs is not there.
          ValueError: files that do not belong together.
        """
        return list(self._of_features(root) if self.layout == "features" else self._of_videos(root))

    def strangers(self, root: Path) -> list[tuple[Path, str]]:
        """Videos that no list names, and lines of the lists that cannot be read."""
        if self.layout == "features":
            return []
        listed, faults = _listed(root)
        videos = {annotation.video for _, _, annotation in listed}
        files = sorted((root / "AVE").glob("*.mp4"))
        return faults + [(path, "no list of a split names it") for path in files if path.stem not in videos]

    def _of_features(self, root: Path) -> Iterator[Clip]:
        package = _Package(root)
        labels = package.labels("labels.h5", 3)
        clip_labels = package.labels("mil_labels.h5", 2) if self.weak and package.has("mil_labels.h5") else None
        audio, video = package.features("audio_feature.h5"), package.features("visual_feature.h5")
        package.check_rows(labels=len(labels), audio=audio[1], video=video[1])
        for split, (order, _) in FILES.items():
            for row in package.order(order, len(labels)):
                own = None if clip_labels is None else clip_labels[row]
                yield self._featured(f"{row:04d}", split, labels[row], own, row, audio[0], video[0])
        if self.weak:
            yield from self._without_event(package)

    def _without_event(self, package: _Package) -> Iterator[Clip]:
        """The clips of the noisy part, where it is there."""
        names = ("audio_feature_noisy.h5", package.either("visual_feature_noisy.h5", "video_feature_noisy.h5"))
        if not all(package.has(name) for name in names):
            return
        (audio, count), (video, also) = (package.features(name) for name in names)
        package.check_rows(audio_noisy=count, video_noisy=also)
        background = np.eye(BACKGROUND + 1)[BACKGROUND]
        clip_labels = np.tile(background, (count, 1))
        if package.has("labels_noisy.h5"):
            clip_labels = package.labels("labels_noisy.h5", 2)
            package.check_rows(audio_noisy=count, labels_noisy=len(clip_labels))
        for row in range(count):
            labels = np.tile(background, (SECONDS, 1))
            yield self._featured(f"noisy-{row:04d}", "train", labels, clip_labels[row], row, audio, video)

    def _featured(
        self,
        name: str,
        split: str,
        labels: np.ndarray,
        clip_label: np.ndarray | None,
        row: int,
        audio: tuple[Path, str],
        video: tuple[Path, str],
    ) -> Clip:
        series = {"audio": H5Row(*audio, row, 1.0), "video": H5Row(*video, row, 1.0)}
        event = labels if clip_label is None else clip_label[None]
        return Clip(
            name=name,
            audio=None,
            video=None,
            labels={"event": self._label(event)},
            group=name,
            split=split,
            series=series | targets(labels),
        )

    def _of_videos(self, root: Path) -> Iterator[Clip]:
        missing = [name for _, name in FILES.values() if not (root / name).is_file()]
        if missing or not (root / "AVE").is_dir():
            raise FileNotFoundError(
                f"ave: {root} lacks {', '.join(missing or ['AVE/'])}; give the folder that holds AVE/, trainSet.txt, "
                "valSet.txt and testSet.txt, or choose --corpus.layout features"
            )
        for split, name, found in _listed(root)[0]:
            path, labels = root / "AVE" / f"{found.video}.mp4", seconds_of(found)
            yield Clip(
                name=name,
                audio=path,
                video=path,
                labels={"event": self._label(labels)},
                group=found.video,
                split=split,
                series=targets(labels),
            )

    def _label(self, labels: np.ndarray) -> int | tuple[int, ...]:
        """The event that a clip [T, 29] has most often; without one the background, or no label."""
        count = (labels[:, :BACKGROUND] > 0.5).sum(axis=0)
        if count.any():
            return int(count.argmax())
        return BACKGROUND if self.weak else ()


def targets(labels: np.ndarray) -> dict[str, Series]:
    """The series ``event`` and ``eventness`` of labels [T, 29]; what has no label is background."""
    event = (labels > 0.5).astype(np.uint8)
    there = event[:, :BACKGROUND].any(axis=1, keepdims=True)
    event[:, BACKGROUND:] = ~there
    return {"event": Series(event, 1.0), "eventness": Series(there.astype(np.uint8), 1.0)}


def seconds_of(annotation: Annotation) -> np.ndarray:
    """Labels [10, 29] of each second, which has the event where that fills at least half of it."""
    second = np.arange(SECONDS)
    overlap = np.minimum(annotation.end, second + 1) - np.maximum(annotation.start, second)
    labels = np.zeros((SECONDS, BACKGROUND + 1))
    labels[second, np.where(overlap >= 0.5, annotation.category, BACKGROUND)] = 1
    return labels


class _Package:
    """The files of the feature package below a folder, or below its ``data``."""

    def __init__(self, root: Path):
        self.root = root / "data" if not (root / "labels.h5").exists() and (root / "data").is_dir() else root

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def either(self, first: str, second: str) -> str:
        return first if self.has(first) else second

    def key(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the one data set of a file."""
        if not self.has(name):
            raise FileNotFoundError(
                f"ave: {self.root} has no {name}; give the folder of the feature package (audio_feature.h5, "
                "visual_feature.h5, labels.h5, train_order.h5, val_order.h5, test_order.h5), or choose "
                "--corpus.layout videos"
            )
        try:
            with open_h5(self.root / name) as file:
                found = [(key, item.shape) for key, item in file.items() if hasattr(item, "shape")]
        except OSError as error:
            raise ValueError(f"ave: {self.root / name} cannot be read as HDF5 ({error}); fetch it again") from error
        if len(found) != 1:
            keys = ", ".join(key for key, _ in found) or "none"
            raise ValueError(f"ave: {self.root / name} should hold one data set; it holds {keys}")
        return found[0]

    def array(self, name: str) -> np.ndarray:
        key, _ = self.key(name)
        with open_h5(self.root / name) as file:
            return file[key][...]

    def features(self, name: str) -> tuple[tuple[Path, str], int]:
        """(file, its data set) of features once a second, and how many clips they are of."""
        key, shape = self.key(name)
        if len(shape) < 3 or shape[1] != SECONDS:
            raise ValueError(f"ave: {self.root / name} is {list(shape)}, not [N, {SECONDS}, ...]")
        return (self.root / name, key), shape[0]

    def labels(self, name: str, axes: int) -> np.ndarray:
        """[N, 10, 29], or with two axes [N, 29]."""
        labels = self.array(name)
        expected = (SECONDS, BACKGROUND + 1)[3 - axes :]
        if labels.ndim != axes or labels.shape[1:] != expected:
            wanted = ", ".join(map(str, expected))
            raise ValueError(f"ave: {self.root / name} is {list(labels.shape)}, not [N, {wanted}]")
        return labels

    def order(self, name: str, rows: int) -> list[int]:
        """The rows of a split."""
        found = [int(row) for row in self.array(name).reshape(-1)]
        if wrong := [row for row in found if not 0 <= row < rows]:
            raise ValueError(f"ave: {self.root / name} names row {wrong[0]}, but labels.h5 has {rows} rows")
        return found

    def check_rows(self, **rows: int) -> None:
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{what} {count}" for what, count in rows.items())
            raise ValueError(f"ave: the files in {self.root} are of different clips: {told} rows")


def _listed(root: Path) -> tuple[list[tuple[str, str, Annotation]], list[tuple[Path, str]]]:
    """(split, name, annotation) of every clip of the lists, and (file, what is wrong) of lines that make none.

    A video that stands twice in a list is two clips; one that a list before has is left out.
    """
    found, faults, splits, times = [], [], {}, Counter()
    for split, (_, name) in FILES.items():
        lines = (
            (root / name).read_text(encoding="utf-8", errors="replace").splitlines() if (root / name).exists() else []
        )
        for number, line in enumerate(lines, 1):
            if line.strip() in ("", HEADER):
                continue
            one = _annotation(line.strip())
            if isinstance(one, Annotation) and splits.setdefault(one.video, split) != split:
                one = f"{one.video} is in {FILES[splits[one.video]][1]} too"
            if isinstance(one, str):
                faults.append((root / name, f"line {number}: {one}"))
                continue
            times[one.video] += 1
            again = f"-{times[one.video]}" if times[one.video] > 1 else ""
            found.append((split, f"{one.video}{again}", one))
    return found, faults


def _annotation(line: str) -> Annotation | str:
    """What a line says, or why it cannot be read."""
    parts = line.split("&")
    if len(parts) != 5:
        return f"{len(parts)} fields, not the five of {HEADER}"
    category, video, _, start, end = parts
    if category not in EVENTS:
        near = difflib.get_close_matches(category, EVENTS, n=1)
        return f"no category {category!r}" + (f"; did they mean {near[0]!r}?" if near else "")
    try:
        return Annotation(EVENTS.index(category), video, float(start), float(end))
    except ValueError:
        return f"start {start!r} and end {end!r} are not seconds"
