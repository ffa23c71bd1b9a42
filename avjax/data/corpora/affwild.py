"""Aff-Wild2: valence and arousal of people in videos, frame by frame.

Kollias and Zafeiriou 2019, "Expression, Affect, Action Unit Recognition: Aff-Wild2, Multi-Task Learning and ArcFace",
BMVC; the ABAW challenges. A folder holds

    annotations/.../Train_Set/VIDEO.txt and Validation_Set/VIDEO.txt   header ``valence,arousal``, then a row a frame
    cropped_aligned/VIDEO/00001.jpg and so on                          the face in each frame in which one was found
    audio/VIDEO.wav                                                    its sound
    videos (or any other folder)/VIDEO.mp4                             the video itself

of which faces, sound and video may each be missing. Where two people are annotated in one video, annotations and faces
have names that end in ``_left`` or ``_right``; sound and video are shared. Values run from -1 to 1, and -5 says that a
frame has none. ``Test_Set`` annotations are kept by the organisers: without them part of the validation videos are the
test split.

Videos are cut into clips. A clip has the series ``affect`` [T, 2], valence and arousal: means over the frames of a
step.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from avjax.data import media
from avjax.data.corpora import Clip, nothing_found
from avjax.data.parts import PictureFiles, SoundPart, VideoPart
from avjax.data.series import Series

DIMENSIONS = ("valence", "arousal")
SETS = {"Train_Set": "train", "Validation_Set": "validation", "Test_Set": "test"}
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov")
_PERSON = re.compile(r"_(left|right)$")


@dataclasses.dataclass(frozen=True)
class Recording:
    """One annotated person in one video.

    Attributes:
      name: of the annotation: the video's, and whether left or right.
      video: the video's own name.
      split: by the folder of the annotation.
      affect: float32 [T, 2], a row a frame; NaN where there is none.
      faces: folder of the cropped faces, or None.
      file: the video itself, or None.
      sound: file to take the sound from, or None.
    """

    name: str
    video: str
    split: str
    affect: np.ndarray
    faces: Path | None
    file: Path | None
    sound: Path | None

    def rate(self) -> float:
        """Frames a second: the video's own, or as many as there are rows for the seconds of the sound, or 30."""
        if rate := _facts(self.file).video_rate:
            return rate
        if seconds := _facts(self.sound).seconds:
            return len(self.affect) / seconds
        return 30.0


def _facts(path: Path | None) -> media.Facts:
    """What a file says of itself; nothing where it cannot be read, which costs its clips when they are prepared."""
    try:
        return media.Facts() if path is None else media.probe(path)
    except media.MediaError:
        return media.Facts()


def read_affect(path: Path) -> np.ndarray | None:
    """An annotation file as float32 [T, 2], NaN where a row has no value; None for other annotations.

    Raises:
      ValueError: no row has a value.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    header = [name.strip().lower() for name in lines[0].split(",")] if lines else []
    if header != list(DIMENSIONS):
        return None
    affect = np.full((len(lines) - 1, 2), np.nan, np.float32)
    for row, line in zip(affect, lines[1:], strict=True):
        try:
            valence, arousal = (float(value) for value in line.split(","))
        except ValueError:
            continue
        if max(abs(valence), abs(arousal)) <= 1:
            row[:] = valence, arousal
    if np.isnan(affect).all():
        raise ValueError("no frame has values from -1 to 1")
    return affect


def scan(root: Path) -> tuple[list[Recording], list[tuple[Path, str]]]:
    """All recordings by name, and (annotation, what is wrong) of those that cannot be used."""
    found: list[Recording] = []
    strangers: list[tuple[Path, str]] = []
    sounds = _by_stem(root / "audio", (".wav", ".mp3", ".m4a", ".flac"))
    apart = {"annotations", "audio", "cropped_aligned"}
    videos: dict[str, Path] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.name not in apart and folder.is_dir():
            videos |= _by_stem(folder, VIDEOS)
    for path in sorted((root / "annotations").rglob("*.txt")):
        split = SETS.get(path.parent.name)
        if split is None:
            continue
        try:
            affect = read_affect(path)
        except ValueError as error:
            strangers.append((path, str(error)))
            continue
        if affect is None:
            continue
        name, video = path.stem, _PERSON.sub("", path.stem)
        faces = root / "cropped_aligned" / name
        file = videos.get(video)
        recording = Recording(
            name=name,
            video=video,
            split=split,
            affect=affect,
            faces=faces if faces.is_dir() else None,
            # Of two people in a video the whole picture does not say who is meant.
            file=file if name == video else None,
            sound=sounds.get(video, file),
        )
        if recording.faces is None and recording.file is None and recording.sound is None:
            strangers.append((path, f"there is neither cropped_aligned/{name} nor audio nor video of {video}"))
        else:
            found.append(recording)
    return sorted(found, key=lambda recording: recording.name), strangers


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes}


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Aff-Wild2, or a folder laid out like it.

    Attributes:
      seconds: length of the clips that videos are cut into; what is left over at the end is a shorter one.
      rate: steps of affect a second.
      frame_rate: frames a second; 0 for the video's own, or as many as rows of annotation for the seconds of its sound.
      test_share: of the validation videos, that are the test split where the test videos have no annotations.
    """

    seconds: float = 8.0
    rate: float = 4.0
    frame_rate: float = 0.0
    test_share: float = 0.5

    name: ClassVar[str] = "affwild"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "non-commercial research, by agreement"

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rate <= 0 or self.frame_rate < 0 or self.seconds * self.rate < 1:
            raise ValueError(
                f"seconds {self.seconds:g}, rate {self.rate:g}, frame_rate {self.frame_rate:g}: a clip has to have a"
                " step"
            )
        if not 0 <= self.test_share <= 1:
            raise ValueError(f"test_share is {self.test_share}; it is a share, from 0 to 1")

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {}

    def clips(self, root: Path) -> list[Clip]:
        """Every clip with a labelled frame, by recording and time.

        Raises:
          FileNotFoundError: no annotation of valence and arousal that has faces, sound or video.
        """
        root = Path(root)
        recordings, strangers = scan(root)
        if not recordings:
            raise FileNotFoundError(_nothing(root, strangers))
        return [clip for recording in self._split(recordings) for clip in self._cut(recording)]

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Annotations that cannot be used, and why."""
        return scan(Path(root))[1]

    def _split(self, recordings: list[Recording]) -> list[Recording]:
        if any(recording.split == "test" for recording in recordings):
            return recordings
        videos = {recording.video for recording in recordings if recording.split == "validation"}
        # By a hash of the name: few videos change sides where some are missing.
        drawn = sorted(videos, key=lambda video: (zlib.crc32(video.encode()), video))
        tested = set(drawn[: round(self.test_share * len(drawn))])
        return [dataclasses.replace(each, split="test") if each.video in tested else each for each in recordings]

    def _cut(self, recording: Recording) -> list[Clip]:
        rate, count = self.frame_rate or recording.rate(), len(recording.affect)
        seen = np.zeros(count, bool)
        if recording.faces is not None:
            numbers = [int(path.stem) for path in recording.faces.glob("*.jpg") if path.stem.isdecimal()]
            seen[[number - 1 for number in numbers if 1 <= number <= count]] = True
        bounds = [round(k * self.seconds * rate) for k in range(int(np.ceil(count / rate / self.seconds - 1e-6)) + 1)]
        clips = []
        for place, (first, last) in enumerate(zip(bounds, [*bounds[1:-1], count], strict=False)):
            affect = recording.affect[first:last]
            if not np.isnan(affect).all():
                clips.append(
                    Clip(
                        name=f"{recording.name}/{place:04d}",
                        audio=recording.sound and SoundPart(recording.sound, first / rate, last / rate),
                        video=_pictures(recording, seen, first, last, rate),
                        labels={},
                        group=recording.video,
                        split=recording.split,
                        series={"affect": averaged(affect, rate, self.rate)},
                    )
                )
        return clips


def _pictures(
    recording: Recording, seen: np.ndarray, first: int, last: int, rate: float
) -> PictureFiles | VideoPart | None:
    """Faces where they were cut out; the video itself where none were."""
    if recording.faces is not None:
        return PictureFiles(recording.faces, first, last, rate) if seen[first:last].any() else None
    return None if recording.file is None else VideoPart(recording.file, first, last, rate)


def averaged(affect: np.ndarray, frame_rate: float, rate: float) -> Series:
    """Values [T, 2] of frames, NaN where there are none, as means over steps; a step without any is not valid."""
    place = ((np.arange(len(affect)) + 0.5) / frame_rate * rate).astype(int)
    there = ~np.isnan(affect[:, 0])
    count = np.bincount(place, there)
    sums = np.stack([np.bincount(place, np.where(there, values, 0)) for values in affect.T], axis=1)
    return Series.of((sums / np.maximum(count, 1)[:, None]).astype(np.float32), rate, valid=count > 0)


def _nothing(root: Path, strangers: Sequence[tuple[Path, str]]) -> str:
    return nothing_found(
        root,
        hand_in="the one that holds Aff-Wild2's annotations and cropped_aligned",
        refused=[(path.name, reason) for path, reason in strangers],
        refusal="annotations can be used",
        expected="holds no annotations of valence and arousal; there should be annotations/Train_Set/VIDEO.txt and"
        " annotations/Validation_Set/VIDEO.txt with the header valence,arousal",
    )
