"""GRID: 34 speakers say 1,000 sentences each, all of one grammar of six words.

Cooke, Barker, Cunningham and Shao 2006, "An audio-visual corpus for speech perception and automatic speech
recognition", Journal of the Acoustical Society of America 120(5) 2421. A sentence's file is named by six letters, one a
word, as ``bbaf2n``, "bin blue at f two now":

* command: b bin, l lay, p place, s set; colour: b blue, g green, r red, w white;
* preposition: a at, b by, i in, w with; letter: a to z without w;
* digit: z zero, 1 one to 9 nine; adverb: a again, n now, p please, s soon.

Files lie below a folder ``s1`` to ``s34``, the speaker's, at any depth: videos (``s1/bbaf2n.mpg``; 3 s, 25 frames a
second), sound by itself (``audio_25k/s1/bbaf2n.wav``), and what is said when (``s1/align/bbaf2n.align`` or
``align/s1/bbaf2n.align``: ``start end word`` a line, in 1/25,000 s, with sil and sp for silence). Sound is taken from
a file of its own where there is one, else from the video. Speaker 21 has no video.

The target is the sentence, the head ``transcript``: the words of the alignment where there is one, else of the name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from avjax.data.corpora import Clip, nothing_found

HEAD = "transcript"
SLOTS: Mapping[str, Mapping[str, str]] = {
    "command": {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    "colour": {"b": "blue", "g": "green", "r": "red", "w": "white"},
    "preposition": {"a": "at", "b": "by", "i": "in", "w": "with"},
    "letter": {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    "digit": {"z": "zero", "1": "one", "2": "two", "3": "three", "4": "four"}
    | {"5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine"},
    "adverb": {"a": "again", "n": "now", "p": "please", "s": "soon"},
}
WORDS = tuple(word for slot in SLOTS.values() for word in slot.values())
CHARACTERS = (" ", *"abcdefghijklmnopqrstuvwxyz")
SPEAKERS, UNITS = 34, 25_000  # units of an alignment's times: a second
SILENCE = ("sil", "sp")
UNSEEN = {"test": (1, 2, 20, 22), "validation": (3, 4)}
TEST, VALIDATION = 255, 45  # of a speaker's 1,000 sentences, where speakers overlap
VIDEO, AUDIO = (".mpg", ".mpeg", ".mp4", ".avi", ".mov", ".mkv"), (".wav", ".flac")
_FOLDER = re.compile(r"s(\d{1,2})")

Protocol = Literal["unseen", "overlapped"]
Key = tuple[int, str]


def words_of(code: str) -> tuple[str, ...]:
    """The six words of a file's name without suffix. Raises ValueError, saying what is wrong with it."""
    if len(code) != len(SLOTS):
        raise ValueError(f"not a name of {len(SLOTS)} letters, one a word, such as bbaf2n")
    for (slot, words), letter in zip(SLOTS.items(), code, strict=True):
        if letter not in words:
            raise ValueError(f"{letter!r} stands for no {slot}, which is one of {''.join(words)}")
    return tuple(words[letter] for words, letter in zip(SLOTS.values(), code, strict=True))


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One word of an alignment: ``begin`` to ``end`` in seconds; ``word`` may be one of ``SILENCE``."""

    begin: float
    end: float
    word: str


def read_alignment(path: Path) -> list[Spoken]:
    """The lines of an .align file. Raises ValueError, saying which of them is none."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match line.split():
            case []:
                continue
            case [begin, end, word] if begin.isdecimal() and end.isdecimal():
                found.append(Spoken(int(begin) / UNITS, int(end) / UNITS, word.lower()))
            case _:
                raise ValueError(f"line {number} is {line!r} and not `start end word`")
    return found


def write_alignment(path: Path, spoken: Iterable[Spoken]) -> None:
    """As ``read_alignment`` reads it."""
    lines = [f"{round(each.begin * UNITS)} {round(each.end * UNITS)} {each.word}\n" for each in spoken]
    path.write_text("".join(lines), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a folder holds, by speaker and name of the sentence.

    Attributes:
      video, audio, alignment: files.
      malformed: (file, what is wrong) of each that is none of GRID's, or one too many.
    """

    video: Mapping[Key, Path]
    audio: Mapping[Key, Path]
    alignment: Mapping[Key, Path]
    malformed: Sequence[tuple[Path, str]]


def scan(root: Path) -> Scan:
    """Reads the names of all media files and alignments below ``root``."""
    kinds: dict[str, dict[Key, Path]] = {"video": {}, "audio": {}, "alignment": {}}
    of_suffix = dict.fromkeys(VIDEO, "video") | dict.fromkeys(AUDIO, "audio") | {".align": "alignment"}
    malformed: list[tuple[Path, str]] = []
    for path in sorted(root.rglob("*")):
        kind = of_suffix.get(path.suffix.lower())
        if kind is None or path.name.startswith(".") or not path.is_file():
            continue
        try:
            key = (_speaker(path.relative_to(root)), path.stem.lower())
            words_of(key[1])
        except ValueError as error:
            malformed.append((path, str(error)))
            continue
        if key in kinds[kind]:
            malformed.append((path, f"the same {kind} as {kinds[kind][key].relative_to(root)}"))
        else:
            kinds[kind][key] = path
    return Scan(**kinds, malformed=malformed)


def _speaker(path: Path) -> int:
    for folder in reversed(path.parts[:-1]):
        if (found := _FOLDER.fullmatch(folder)) and 1 <= int(found.group(1)) <= SPEAKERS:
            return int(found.group(1))
    raise ValueError(f"lies in no folder s1 to s{SPEAKERS}, by which a speaker is known")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """GRID, or a folder laid out like it.

    Attributes:
      protocol: unseen: speakers 1, 2, 20 and 22 test, as in LipNet (Assael et al. 2016); that 3 and 4 validate is
        ours. overlapped: of every speaker 255 sentences of 1,000 test, as many as in LipNet, and 45 validate; which
        ones is ours, drawn by a hash of their names.
      tokens: of transcripts: the grammar's 51 words, or 26 letters and the space.
    """

    protocol: Protocol = "unseen"
    tokens: Literal["words", "characters"] = "words"

    name: ClassVar[str] = "grid"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {}

    @property
    def vocabulary(self) -> Mapping[str, Sequence[str]]:
        return {HEAD: ("", *(WORDS if self.tokens == "words" else CHARACTERS))}

    def clips(self, root: Path) -> list[Clip]:
        """Every sentence of which there is a video or sound, by speaker and name.

        Raises:
          FileNotFoundError: there is none.
        """
        found = scan(Path(root))
        keys = sorted(found.video.keys() | found.audio.keys())
        if not keys:
            raise FileNotFoundError(_nothing(Path(root), found))
        splits = split_of(keys, self.protocol)
        return [self._clip(key, found, splits[key]) for key in keys]

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Files that are none of GRID's, and alignments that do not say what their names say."""
        found = scan(Path(root))
        keys = found.video.keys() | found.audio.keys()
        read = [(path, _sentence(key, path)[1]) for key, path in sorted(found.alignment.items()) if key in keys]
        return [*found.malformed, *((path, problem) for path, problem in read if problem)]

    def numbers(self, words: Sequence[str]) -> tuple[int, ...]:
        """A sentence as tokens of the vocabulary."""
        number = {token: place for place, token in enumerate(self.vocabulary[HEAD])}
        return tuple(number[token] for token in (words if self.tokens == "words" else " ".join(words)))

    def _clip(self, key: Key, found: Scan, split: str) -> Clip:
        speaker, code = key
        name = f"s{speaker}_{code}"
        video = found.video.get(key)
        words, _ = _sentence(key, found.alignment.get(key))
        return Clip(
            name=name,
            audio=found.audio.get(key, video),
            video=video,
            labels={},
            # Where speakers overlap a sentence is a group of its own.
            group=f"s{speaker}" if self.protocol == "unseen" else name,
            split=split,
            sequences={HEAD: self.numbers(words)},
        )


def split_of(keys: Sequence[Key], protocol: Protocol) -> dict[Key, str]:
    """The split of each sentence; see ``Corpus.protocol``."""
    if protocol == "unseen":
        splits = {speaker: split for split, speakers in UNSEEN.items() for speaker in speakers}
        return {key: splits.get(key[0], "train") for key in keys}
    found = {}
    for speaker in {speaker for speaker, _ in keys}:
        own = [key for key in keys if key[0] == speaker]
        own.sort(key=lambda key: hashlib.sha256(f"s{key[0]}_{key[1]}".encode()).digest())
        test, validation = (round(len(own) * share / 1000) for share in (TEST, VALIDATION))
        for place, key in enumerate(own):
            found[key] = "test" if place < test else "validation" if place < test + validation else "train"
    return found


def _sentence(key: Key, alignment: Path | None) -> tuple[tuple[str, ...], str]:
    """The words that are said, and what is wrong with the alignment."""
    named = words_of(key[1])
    if alignment is None:
        return named, ""
    try:
        words = tuple(each.word for each in read_alignment(alignment) if each.word not in SILENCE)
    except (OSError, ValueError) as error:
        return named, f"{error}; the sentence is taken from the name"
    if unknown := [word for word in words if word not in WORDS]:
        return named, f"GRID has no word {unknown[0]!r}; the sentence is taken from the name"
    if not words:
        return named, "has no word; the sentence is taken from the name"
    problem = f"says {' '.join(words)!r}, its name {' '.join(named)!r}; the alignment is believed"
    return words, "" if words == named else problem


def _nothing(root: Path, found: Scan) -> str:
    return nothing_found(
        root,
        hand_in=f"the folder that holds GRID's s1 to s{SPEAKERS}",
        refused=[(path.name, reason) for path, reason in found.malformed],
        refusal="files is one of GRID's",
        expected="holds no media files; unpack GRID's archives there, so that it holds s1/bbaf2n.mpg and so on, or"
        " write a small corpus of the same layout with experiments/synthetic/grid.py",
    )
