"""Kinetics-Sounds: actions of Kinetics that are both seen and heard, ten seconds each.

Arandjelovic and Zisserman 2017, "Look, Listen and Learn", ICCV. A subset of Kinetics' classes, of which the literature
uses several: which they are here, the folders say, or the field ``actions``. Kinetics names a video by its number on
YouTube and the seconds that are cut from it, ``YOUTUBEID_SSSSSS_EEEEEE.mp4``. The splits stand in folders,

    train/CLASS/YOUTUBEID_000010_000020.mp4     and val (or validate, validation) and test likewise,

or in tables, any ``*.csv`` in the folder or its ``annotations`` with Kinetics' columns ``label``, ``youtube_id``,
``time_start``, ``time_end``, ``split``; the videos then lie anywhere below the folder. Blanks in the name of a class
may be underscores. Where there is no test split, the validation split is what is tested, as most of the literature
does, and videos drawn from the training split validate.
"""

from __future__ import annotations

import csv
import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from avjax.data.corpora import SPLITS, Clip, nothing_found

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
_NAME = re.compile(r"(.+)_(\d{6})_(\d{6})")
_SPLIT_OF = {
    "train": "train",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclasses.dataclass(frozen=True)
class Video:
    """One video: where it lies, and what folder or table say of it."""

    path: Path
    action: str
    youtube: str
    split: str


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
      videos: by path.
      strangers: (file, what is wrong) of all other video files.
    """

    videos: Sequence[Video]
    strangers: Sequence[tuple[Path, str]]


def scan(root: Path) -> Scan:
    """Finds all videos below ``root``, and the split and class of each."""
    table = read_tables(root)
    videos: list[Video] = []
    strangers: list[tuple[Path, str]] = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        match = _NAME.fullmatch(path.stem)
        if match is None:
            strangers.append((path, "the name is not YOUTUBEID_SSSSSS_EEEEEE, with seconds of six digits"))
            continue
        youtube, begin, end = match.group(1), int(match.group(2)), int(match.group(3))
        if table:
            action, split = table.get((youtube, begin, end), ("", ""))
            reason = "no table has a row with its number and seconds"
        else:
            action, split = _plain(path.parent.name), _SPLIT_OF.get(path.parent.parent.name.lower(), "")
            reason = "it is not in train/CLASS, val/CLASS or test/CLASS, and there is no table of splits"
        if split:
            videos.append(Video(path, action, youtube, split))
        else:
            strangers.append((path, reason))
    kept, crossing = _apart(videos)
    return Scan(kept, sorted(strangers + crossing))


def read_tables(root: Path) -> dict[tuple[str, int, int], tuple[str, str]]:
    """(number on YouTube, first second, last second) -> (class, split), of all tables with Kinetics' columns."""
    rows: dict[tuple[str, int, int], tuple[str, str]] = {}
    for path in sorted([*root.glob("*.csv"), *(root / "annotations").glob("*.csv")]):
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                continue
            for row in reader:
                split = _SPLIT_OF.get((row["split"] or "").strip().lower(), "")
                try:
                    key = (row["youtube_id"], int(float(row["time_start"])), int(float(row["time_end"])))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: time_start {row['time_start']!r} and time_end"
                        f" {row['time_end']!r} are to be seconds"
                    ) from error
                if split and row["label"]:
                    rows[key] = (_plain(row["label"]), split)
    return rows


def _plain(name: str) -> str:
    return name.strip().replace("_", " ")


def _apart(videos: Sequence[Video]) -> tuple[list[Video], list[tuple[Path, str]]]:
    """Without the videos whose source is in a split that counts for more: test before validation before training."""
    strongest: dict[str, int] = {}
    for video in videos:
        strongest[video.youtube] = max(SPLITS.index(video.split), strongest.get(video.youtube, 0))
    kept, left = [], []
    for video in videos:
        other = SPLITS[strongest[video.youtube]]
        if video.split == other:
            kept.append(video)
        else:
            left.append((video.path, f"split {video.split}, but its source {video.youtube} is in split {other} too"))
    return kept, left


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Kinetics-Sounds, or any part of Kinetics laid out like it.

    Attributes:
      actions: the classes to take, in the order of their numbers; none for all, by name.
      validation_share: of the sources of training videos, where validation or test has no split of its own.
      known: the classes that ``clips`` found; not to be set.
    """

    actions: tuple[str, ...] = ()
    validation_share: float = 0.1
    known: list[str] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    name: ClassVar[str] = "kinetics_sounds"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY 4.0 (annotations)"

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it is a share, from 0 to below 1")

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Known once ``clips`` has seen the folder, unless ``actions`` names them."""
        return {"action": tuple(self.known) or self.actions}

    def clips(self, root: Path) -> list[Clip]:
        """Every video of the classes, training first. Files of other names are left out (``strangers`` tells them).

        Raises:
          FileNotFoundError: nothing is there, or none of a class that ``actions`` names.
        """
        root = Path(root)
        found = scan(root)
        if not found.videos:
            raise FileNotFoundError(_nothing(root, found))
        there = sorted({video.action for video in found.videos}, key=lambda name: (name.casefold(), name))
        actions = [_plain(name) for name in self.actions] or there
        if missing := [name for name in actions if name not in there]:
            raise FileNotFoundError(f"{root}: no video of {', '.join(missing)}; it has {', '.join(there)}")
        self.known[:] = actions
        videos = self._split([video for video in found.videos if video.action in actions])
        videos.sort(key=lambda video: SPLITS.index(video.split))
        return [
            Clip(
                name=f"{video.action}/{video.path.stem}",
                audio=video.path,
                video=video.path,
                labels={"action": actions.index(video.action)},
                group=video.youtube,
                split=video.split,
            )
            for video in videos
        ]

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Videos that are no clip, and why."""
        return scan(Path(root)).strangers

    def _split(self, videos: list[Video]) -> list[Video]:
        """The splits as they are; where one of validation and test is missing, the other is test."""
        there = {video.split for video in videos}
        if {"validation", "test"} <= there or there == {"train"}:
            return videos
        return [dataclasses.replace(video, split=self._one_held_out(video)) for video in videos]

    def _one_held_out(self, video: Video) -> str:
        if video.split != "train":
            return "test"
        # crc32, since Python's own hash of a string changes from run to run.
        drawn = zlib.crc32(video.youtube.encode()) / 2**32
        return "validation" if drawn < self.validation_share else "train"


def _nothing(root: Path, found: Scan) -> str:
    return nothing_found(
        root,
        hand_in="the one that holds Kinetics' train, val and test",
        refused=[(path.name, reason) for path, reason in found.strangers],
        refusal="videos is a clip",
        expected="holds no videos; it should hold train/CLASS/YOUTUBEID_SSSSSS_EEEEEE.mp4 and so on, or Kinetics'"
        " tables beside the videos",
    )
