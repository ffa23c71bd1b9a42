"""VoxCeleb1 and VoxCeleb2: who speaks, in interviews from the web; here with voices and faces to be matched.

Nagrani, Chung, Zisserman 2017, "VoxCeleb: a large-scale speaker identification dataset", and Chung, Nagrani, Zisserman
2018, "VoxCeleb2: Deep Speaker Recognition", Interspeech. Unpack sound and pictures anywhere below one folder, so that
every file's path ends with its person, its video and its number:

    wav/id10001/1zcIwhmdeo4/00001.wav    or    dev/aac/id00012/21Uxsk56VDQ/00001.m4a
    mp4/id10001/1zcIwhmdeo4/00001.mp4    or    dev/mp4/id00012/21Uxsk56VDQ/00001.mp4

Nobody is in two splits, as matching of unseen persons has it: where ``vox1_meta.csv`` or ``vox2_meta.csv`` lies in the
folder, those of its set ``test`` are tested, else a share by a hash of the name.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from avjax.data.corpora import Clip, nothing_found

SOUND, PICTURES = (".wav", ".m4a", ".flac"), (".mp4",)
Key = tuple[str, str, str]  # person, video, number


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
      sound, pictures: (person, video, number) -> file.
      malformed: (file, what is wrong) of the others.
    """

    sound: Mapping[Key, Path]
    pictures: Mapping[Key, Path]
    malformed: Sequence[tuple[Path, str]]

    @cached_property
    def people(self) -> list[str]:
        """Everybody of whom there is something, in order."""
        return sorted({key[0] for key in (*self.sound, *self.pictures)})


def scan(root: Path) -> Scan:
    """Reads the names of all media files below ``root``."""
    sound: dict[Key, Path] = {}
    pictures: dict[Key, Path] = {}
    malformed: list[tuple[Path, str]] = []
    for path in sorted(root.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in SOUND + PICTURES or path.name.startswith(".") or not path.is_file():
            continue
        parts = path.relative_to(root).parts
        if len(parts) < 3 or not re.fullmatch(r"id\d+", parts[-3]):
            malformed.append((path, "not of the form idNNNNN/VIDEO/NUMBER"))
            continue
        found, key = sound if suffix in SOUND else pictures, (parts[-3], parts[-2], path.stem)
        if key in found:
            malformed.append((path, f"the same as {found[key]}"))
        else:
            found[key] = path
    return Scan(sound, pictures, malformed)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """VoxCeleb, or a folder laid out like it.

    Attributes:
      test: share of the persons who are tested, where no list says who is.
      validation: share of the rest who validate.
      across: every voice comes with the face of another video of the person, where there is one: then nothing but
        the person is common to both.
    """

    test: float = 0.2
    validation: float = 0.1
    across: bool = True

    name: ClassVar[str] = "voxceleb"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY 4.0 (metadata; the videos are their owners')"

    def __post_init__(self) -> None:
        if not (0 <= self.test <= 1 and 0 <= self.validation <= 1):
            raise ValueError(f"test and validation are shares, from 0 to 1; they are {self.test}, {self.validation}")

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """Everybody; known once ``clips`` has seen the folder."""
        return {"identity": getattr(self, "_people", ())}

    def clips(self, root: Path) -> list[Clip]:
        """Every utterance that has a file, the first of everybody, then the second of everybody, and so on.

        In that order neighbours are different people, among whom a batch can match. Raises FileNotFoundError where
        there is nothing.
        """
        root = Path(root)
        found = scan(root)
        if not found.people:
            raise FileNotFoundError(_nothing(root, found))
        object.__setattr__(self, "_people", tuple(found.people))
        numbers, tested = {person: n for n, person in enumerate(found.people)}, _tested(root)
        utterances: dict[str, list[Key]] = {}
        for key in sorted({*found.sound, *found.pictures}):
            utterances.setdefault(key[0], []).append(key)
        clips = [
            (place, self._clip(key, own, found, numbers[person], tested))
            for person, own in utterances.items()
            for place, key in enumerate(own)
        ]
        return [clip for _, clip in sorted(clips, key=lambda each: (each[0], each[1].group))]

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Media files whose place is not VoxCeleb's, and what is wrong with each."""
        return scan(Path(root)).malformed

    def _clip(self, key: Key, own: Sequence[Key], found: Scan, number: int, tested: Mapping[str, bool]) -> Clip:
        picture = self._partner(key, [k for k in own if k in found.pictures])
        # Without a file of its own the sound is that of the video.
        audio = found.sound.get(key, found.pictures.get(key))
        return Clip(
            name="/".join(key),
            audio=audio,
            video=None if picture is None else found.pictures[picture],
            labels={"identity": number},
            group=key[0],
            split=self.split_of(key[0], tested.get(key[0])),
        )

    def _partner(self, key: Key, seen: Sequence[Key]) -> Key | None:
        """Whose picture goes with a voice: of the person's next video, by its number within its own."""
        videos = sorted({video for _, video, _ in seen})
        if not self.across or len({*videos, key[1]}) < 2:
            return key if key in seen else None
        following = [video for video in videos if video > key[1]] or [v for v in videos if v != key[1]]
        there = [k for k in seen if k[1] == following[0]]
        same = sum(k < key and k[1] == key[1] for k in seen)
        return there[same % len(there)]

    def split_of(self, person: str, tested: bool | None = None) -> str:
        """The split of a person, of whom a list says that he is tested, or not; None where none does."""
        # By name, so that an incomplete folder changes no split.
        place = zlib.crc32(person.encode()) / 2**32
        if tested is None:
            tested = place < self.test
            place = (place - self.test) / max(1 - self.test, 1e-9)
        if tested:
            return "test"
        return "validation" if place < self.validation else "train"


def _tested(root: Path) -> dict[str, bool]:
    """Person -> whether in the set ``test``, from the lists that lie in the folder."""
    found: dict[str, bool] = {}
    for path in sorted(root.glob("vox*_meta.csv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            fields = [field.strip() for field in re.split(r"[\t,]", line)]
            if re.fullmatch(r"id\d+", fields[0]) and fields[-1] in ("dev", "test"):
                found[fields[0]] = fields[-1] == "test"
    return found


def _nothing(root: Path, found: Scan) -> str:
    return nothing_found(
        root,
        hand_in="the one that holds VoxCeleb's wav and mp4",
        refused=found.malformed,
        refusal="media files is VoxCeleb's",
        expected="holds no media files; unpack VoxCeleb's archives there, so that it holds "
        "wav/id10001/1zcIwhmdeo4/00001.wav and mp4/id10001/1zcIwhmdeo4/00001.mp4",
    )
