"""RAVDESS: 24 actors speak and sing two statements in eight emotions.

Livingstone and Russo 2018, "The Ryerson Audio-Visual Database of Emotional Speech and Song", PLoS ONE 13(5) e0196391.
Zenodo record 1188976. Unpack any of its archives side by side, so that the files lie in ``Actor_01`` to ``Actor_24``
(at any depth below the folder that is handed in). A file's name is its label, ``MM-VV-EE-II-SS-RR-AA.mp4`` or ``.wav``:

* MM: 01 sound and picture, 02 picture only, 03 sound only; VV: 01 speech, 02 song;
* EE: 01 neutral, 02 calm, 03 happy, 04 sad, 05 angry, 06 fearful, 07 disgust, 08 surprised; the label is EE - 1;
* II: 01 normal, 02 strong (RAVDESS has no strong neutral; such a name is read all the same);
* SS: 01 "Kids are talking by the door", 02 "Dogs are sitting by the door"; RR: repetition;
* AA: actor, odd numbers male, even numbers female.

A full set of speech has 60 recordings an actor, 1,440 in all; song has six emotions and lacks actor 18.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from avjax.data.corpora import Clip, nothing_found

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
SUFFIXES = (".mp4", ".wav", ".m4a", ".flac", ".avi", ".mov", ".mkv")
_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)")
# What each of the seven codes may be: the demo corpus repeats more often than RAVDESS, which stops at 02.
_RANGES = (
    ("modality", 1, 3), ("vocal channel", 1, 2), ("emotion", 1, 8), ("intensity", 1, 2),
    ("statement", 1, 2), ("repetition", 1, 99), ("actor", 1, 24),
)  # fmt: skip

Protocol = Literal["16-4-4", "six-folds", "20-4", "14-4-6"]


@dataclasses.dataclass(frozen=True, order=True)
class Code:
    """What a file name says, as the numbers in it."""

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @classmethod
    def parse(cls, stem: str) -> Code:
        """Reads a file's name without suffix. Raises ValueError, saying what is wrong with it."""
        match = _NAME.fullmatch(stem)
        if match is None:
            raise ValueError("not of the form MM-VV-EE-II-SS-RR-AA, seven numbers of two digits")
        numbers = [int(part) for part in match.groups()]
        for number, (what, least, most) in zip(numbers, _RANGES, strict=True):
            if not least <= number <= most:
                raise ValueError(f"{what} code {number:02d}, which runs from {least:02d} to {most:02d}")
        return cls(*numbers)

    @property
    def name(self) -> str:
        return "-".join(f"{number:02d}" for number in dataclasses.astuple(self))

    @property
    def performance(self) -> tuple[int, ...]:
        """All but the modality: what the three files of one recording share."""
        return dataclasses.astuple(self)[1:]


def split_of(actor: int, protocol: Protocol, fold: int = 0) -> str:
    """The split of an actor (1 to 24); by number, so an incomplete folder changes no split.

    All protocols keep actors apart, and every split is half male and half female:

    * ``16-4-4``: actors 1-4 test, 5-8 validation, 9-24 training. Chumachenko et al. 2022, one fold.
    * ``six-folds``: fold f of 0 to 5 tests the four actors from 4f + 1 on, validates on the next four (around the
      end), trains on the other 16. Six folds of four actors are MSAF's (Su et al. 2020) and CFN-SR's (Fu et al.
      2021); which actors share a fold and the validation actors are ours.
    * ``20-4``: actors 21-24 test. The literature trains on 1-20 without validation; here 19 and 20 validate.
    * ``14-4-6``: actors 1-14 training, 15-18 validation, 19-24 test: the demo corpus's.
    """
    if not 1 <= actor <= 24:
        raise ValueError(f"actor {actor}: RAVDESS's actors are numbered 1 to 24")
    if protocol == "six-folds" and not 0 <= fold <= 5:
        raise ValueError(f"fold {fold}: protocol six-folds has folds 0 to 5")
    if protocol != "six-folds" and fold != 0:
        raise ValueError(f"fold {fold}: protocol {protocol} has one fold, 0")
    if protocol == "16-4-4":
        return "test" if actor <= 4 else "validation" if actor <= 8 else "train"
    if protocol == "six-folds":
        block = ((actor - 1) // 4 - fold) % 6
        return {0: "test", 1: "validation"}.get(block, "train")
    if protocol == "20-4":
        return "train" if actor <= 18 else "validation" if actor <= 20 else "test"
    if protocol == "14-4-6":
        return "train" if actor <= 14 else "validation" if actor <= 18 else "test"
    raise ValueError(f"no protocol {protocol!r}; choose 16-4-4, six-folds, 20-4 or 14-4-6")


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds.

    Attributes:
      files: code -> file.
      malformed: (file, what is wrong) of each media file whose name or folder is not RAVDESS's.
    """

    files: Mapping[Code, Path]
    malformed: Sequence[tuple[Path, str]]


def scan(root: Path) -> Scan:
    """Reads the names of all media files below ``root``."""
    files: dict[Code, Path] = {}
    malformed: list[tuple[Path, str]] = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        try:
            code = Code.parse(path.stem)
        except ValueError as error:
            malformed.append((path, str(error)))
            continue
        folder = re.fullmatch(r"Actor_(\d\d)", path.parent.name)
        if folder and int(folder.group(1)) != code.actor:
            malformed.append((path, f"actor {code.actor:02d} in folder {path.parent.name}"))
        elif code in files:
            malformed.append((path, f"the same recording as {files[code]}"))
        else:
            files[code] = path
    return Scan(files, malformed)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """RAVDESS, or a folder laid out like it.

    Attributes:
      protocol: who trains and who tests: 16-4-4, six-folds, 20-4 or 14-4-6 (``split_of`` says which actors).
      fold: of protocol six-folds, 0 to 5.
      song: take the sung recordings too.
      faces: a folder that receives copies of the videos cut to the face, made where they are missing; the clips then
        take their frames from there (squares, each of its own size: prepare them with ``size``). Needs the extra
        ``faces``. None keeps the whole picture.
    """

    protocol: Protocol = "16-4-4"
    fold: int = 0
    song: bool = False
    faces: Path | None = None

    name: ClassVar[str] = "ravdess"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY-NC-SA 4.0"

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {"emotion": EMOTIONS}

    def clips(self, root: Path) -> list[Clip]:
        """Every recording once, by name: the full file where there is one, else picture (02) and sound (03) joined.

        A recording of which only picture or only sound is there is a clip without the other. Files of other names are
        left out (``strangers`` tells them). Raises FileNotFoundError where nothing is left.
        """
        found = scan(Path(root))
        recordings = _recordings(code for code in found.files if self.song or code.channel == 1)
        if not recordings:
            raise FileNotFoundError(_nothing(Path(root), found, self.song))
        clips = [self._clip(codes, found.files) for codes in recordings]
        if self.faces is not None:
            from avjax.data import faces

            cut = faces.cut_all([clip.video for clip in clips if clip.video], Path(root), Path(self.faces))
            clips = [dataclasses.replace(c, video=cut[c.video]) if c.video else c for c in clips]
        return clips

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Media files whose name or folder is not RAVDESS's, and what is wrong with each."""
        return scan(Path(root)).malformed

    def _clip(self, codes: Mapping[int, Code], files: Mapping[Code, Path]) -> Clip:
        first = codes[min(codes)]
        audio, video = (files[codes[k]] if k in codes else None for k in (3, 2))
        if 1 in codes:
            audio = video = files[codes[1]]
        return Clip(
            name=first.name,
            audio=audio,
            video=video,
            labels={"emotion": first.emotion - 1},
            group=f"Actor_{first.actor:02d}",
            split=split_of(first.actor, self.protocol, self.fold),
        )


def _recordings(codes: Iterable[Code]) -> list[dict[int, Code]]:
    """Modality code -> code, for each recording; by actor and then by name."""
    found: dict[tuple[int, ...], dict[int, Code]] = {}
    for code in codes:
        found.setdefault(code.performance, {})[code.modality] = code
    return [found[key] for key in sorted(found, key=lambda key: (key[-1], key))]


def _nothing(root: Path, found: Scan, song: bool) -> str:
    if root.is_dir() and found.files and not song:
        return f"{root}: holds sung recordings only; ask for them with song=True (--song)"
    return nothing_found(
        root,
        hand_in="the folder that holds RAVDESS's Actor_01 to Actor_24",
        refused=[(path.name, reason) for path, reason in found.malformed],
        refusal="media files has a RAVDESS name",
        expected="holds no media files; unpack RAVDESS's archives (Zenodo record 1188976) there, so that it holds "
        "Actor_01/01-01-01-01-01-01-01.mp4 and so on, or make the demo corpus, which has the same layout",
    )
