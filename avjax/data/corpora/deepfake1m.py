"""AV-Deepfake1M and AV-Deepfake1M++: talking faces of which some say, in places, what nobody said.

Cai et al. 2024, "AV-Deepfake1M: A Large-Scale LLM-Driven Audio-Visual Deepfake Dataset", ACM Multimedia. Unpack the
archives so that the folder holds ``train_metadata.json`` and ``val_metadata.json``, lists of

    {"file": "id00012/21Uxsk56VDQ/00001/fake_audio.mp4", "original": "id00012/21Uxsk56VDQ/00001/real.mp4",
     "split": "train", "modify_type": "audio_modified", "fake_segments": [[1.2, 1.8]], "audio_fake_segments": ...,
     "visual_fake_segments": ..., "video_frames": 120, "audio_frames": 76800}

with times in seconds, and the files below ``train`` and ``val`` (or beside the lists). ``modify_type`` is real,
audio_modified, visual_modified or both_modified; the segments may be named ``fake_periods``.

The test labels are not public. Whom a clip shows, the identity folder of its original, never crosses splits: with
protocol "lists" an identity of ``val`` is tested or validated, by a hash of its name; where ``train`` has it as well,
its clips of ``val`` are left out (``strangers`` tells them). With "identities" the clips of both lists train, validate
and test by the hash of their identity alone.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from avjax.data.corpora import Clip
from avjax.data.series import Series

KINDS = ("real", "audio_modified", "visual_modified", "both_modified")
FRAMES, SAMPLES = 25.0, 16_000.0  # a second, as the lists count them
SERIES = "fake"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One clip of a list.

    Attributes:
      file, original: below the folder of the split; the original of a real clip is itself.
      kind: one of ``KINDS``.
      segments: float64 [M, 2], begin and end of what is forged, in seconds.
      seconds: of the clip, as far as the list tells: at least until the last segment ends.
    """

    file: str
    original: str
    kind: str
    segments: np.ndarray
    seconds: float

    @classmethod
    def of(cls, item: Any) -> Entry:
        """Reads an item of a list. Raises ValueError, saying what is wrong with it."""
        if not isinstance(item, Mapping) or not isinstance(item.get("file"), str):
            raise ValueError("an item without a file")
        kind = str(item.get("modify_type")).replace("-", "_")
        if kind not in KINDS:
            raise ValueError(f"modify_type {item.get('modify_type')!r}, which is none of {', '.join(KINDS)}")
        segments = _segments(item)
        if (kind == "real") == bool(len(segments)):
            raise ValueError(f"{kind}, with {len(segments)} forged segments")
        frames = float(item.get("video_frames") or 0) / FRAMES, float(item.get("audio_frames") or 0) / SAMPLES
        original = item.get("original") if isinstance(item.get("original"), str) else item["file"]
        return cls(item["file"], original, kind, segments, max(*frames, *segments[:, 1], 0.0))

    @property
    def name(self) -> str:
        return str(Path(self.file).with_suffix(""))

    @property
    def identity(self) -> str:
        """The folder ``idNNNNN`` of the original, else its first folder."""
        parts = Path(self.original).parts
        return next((part for part in parts if re.fullmatch(r"id\d+", part)), parts[0])

    def forged(self, rate: float) -> np.ndarray:
        """Float32 [T, 1]: 1 where at least half of an element, of which there are ``rate`` a second, is forged."""
        begin = np.arange(max(1, int(np.ceil(self.seconds * rate - 1e-6)))) / rate
        shared = np.zeros(len(begin))
        for start, end in self.segments:
            shared += np.clip(np.minimum(end, begin + 1 / rate) - np.maximum(start, begin), 0, None)
        return (shared * rate >= 0.5 - 1e-6).astype(np.float32)[:, None]


def _segments(item: Mapping[str, Any]) -> np.ndarray:
    found = item.get("fake_segments", item.get("fake_periods"))
    if found is None:
        found = [*(item.get("audio_fake_segments") or ()), *(item.get("visual_fake_segments") or ())]
    try:
        segments = np.asarray(found, np.float64).reshape(-1, 2)
    except (ValueError, TypeError) as error:
        raise ValueError(f"segments {found!r}, which are no pairs of seconds") from error
    if not np.isfinite(segments).all() or (segments[:, 0] < 0).any() or (segments[:, 1] < segments[:, 0]).any():
        raise ValueError(f"segments {found!r}, which do not begin before they end")
    return segments


@dataclasses.dataclass(frozen=True)
class Corpus:
    """AV-Deepfake1M, or a folder laid out like it.

    Attributes:
      head: what is classified: ``fake`` (real or fake), or ``modify_type`` (which of sound and picture is forged).
      rate: elements a second of the series ``fake`` [T, 1], which is 1 where a clip is forged.
      protocol: who trains and who tests: lists or identities.
      test: share of the identities that are tested: of those of ``val``, whose rest validates, or of all, of whom as
        many validate.
    """

    head: Literal["fake", "modify_type"] = "fake"
    rate: float = 10.0
    protocol: Literal["lists", "identities"] = "lists"
    test: float = 0.5

    name: ClassVar[str] = "deepfake1m"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY-NC 4.0"

    def __post_init__(self) -> None:
        most = 0.5 if self.protocol == "identities" else 1.0
        if not self.rate > 0 or not 0 <= self.test <= most:
            raise ValueError(f"rate is above 0 and test a share, from 0 to {most}; they are {self.rate}, {self.test}")

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {self.head: ("real", "fake") if self.head == "fake" else KINDS}

    def clips(self, root: Path) -> list[Clip]:
        """Every clip of the two lists whose file is there, in their order.

        Raises FileNotFoundError where there is no list, or no file of one.
        """
        found, out = self._scan(Path(root))
        if not found:
            reason = f"; the first is {out[0][0]}: {out[0][1]}" if out else ""
            raise FileNotFoundError(f"{root}: none of the clips that its lists name can be used{reason}")
        return found

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """(file, reason) of each item of a list that is no clip, and of each media file that no list names."""
        root = Path(root)
        found, out = self._scan(root)
        known = {clip.audio for clip in found} | {path for path, _ in out}
        rest = (path for path in sorted(root.rglob("*.mp4")) if path not in known and not path.name.startswith("."))
        return [*out, *((path, "no list names it") for path in rest)]

    def _scan(self, root: Path) -> tuple[list[Clip], list[tuple[Path, str]]]:
        clips: dict[str, Clip] = {}
        out: list[tuple[Path, str]] = []
        training: set[str] = set()
        for split in ("train", "val"):
            for item in _list(root, split):
                try:
                    entry = Entry.of(item)
                    clip = self._clip(root, split, entry)
                    if clip.name in clips:
                        raise ValueError("named twice")
                    if split == "train":
                        training.add(entry.identity)
                    elif self.protocol == "lists" and entry.identity in training:
                        raise ValueError(f"of {entry.identity}, who is in training as well (see protocol identities)")
                    clips[clip.name] = clip
                except ValueError as error:
                    name = item.get("file") if isinstance(item, Mapping) else None
                    out.append((root / split / str(name or f"item {item!r:.40}"), str(error)))
        return list(clips.values()), out

    def _clip(self, root: Path, split: str, entry: Entry) -> Clip:
        path = next((p for p in (root / split / entry.file, root / entry.file) if p.is_file()), None)
        if path is None:
            raise ValueError("there is no such file")
        label = KINDS.index(entry.kind) if self.head == "modify_type" else int(entry.kind != "real")
        return Clip(
            name=f"{split}/{entry.name}",
            audio=path,
            video=path,
            labels={self.head: label},
            group=entry.identity,
            split=self.split_of(entry.identity, split),
            series={SERIES: Series(entry.forged(self.rate), self.rate)},
        )

    def split_of(self, identity: str, given: str) -> str:
        """The split of an identity that the list ``given``, train or val, names."""
        if self.protocol == "lists" and given == "train":
            return "train"
        # By name, so that an incomplete folder changes no split.
        place = zlib.crc32(identity.encode()) / 2**32
        if place < self.test:
            return "test"
        return "train" if self.protocol == "identities" and place >= 2 * self.test else "validation"


def _list(root: Path, split: str) -> list[Any]:
    path = root / f"{split}_metadata.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such list; hand in the folder that holds AV-Deepfake1M's train_metadata.json and "
            "val_metadata.json, with the archives unpacked beside them"
        )
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); fetch it anew") from error
    if not isinstance(items, list):
        raise ValueError(f"{path}: is {type(items).__name__}, not a list of clips")
    return items
