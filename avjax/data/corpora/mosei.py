"""CMU-MOSI and CMU-MOSEI: monologues from the web with their words, the sentiment of each from -3 to 3.

Zadeh, Zellers, Pincus, Morency 2016, "MOSI: Multimodal Corpus of Sentiment Intensity and Subjectivity Analysis in
Online Opinion Videos"; Zadeh, Liang, Poria, Cambria, Morency 2018, "Multimodal Language Analysis in the Wild: CMU-MOSEI
Dataset and Interpretable Dynamic Fusion Graph", ACL. Features of both come as one pickle, which
avjax/data/unpickle.py reads:

* MMSA's (thuiar/MMSA), ``aligned_50.pkl`` or ``unaligned_50.pkl``: train, valid, test -> text [N, T, C], audio, vision,
  id (``VIDEO$_$CLIP``), regression_labels [N]; and, in some, text_bert [N, 3, T] (numbers, mask, segments of the
  tokens), audio_lengths and vision_lengths [N];
* MulT's (yaohungt/Multimodal-Transformer), ``mosi_data.pkl``, ``mosei_senti_data_noalign.pkl`` and so on: the same
  splits -> text, audio, vision, id (video, start, end), labels [N, 1, 1].

Widths and numbers of steps are the file's. Every clip has the series ``text``, ``audio`` and ``video``, and the number
``sentiment``. A second is a step of the text: series of other lengths have a rate that makes them as long. Steps that
are padding are left out: those beyond the lengths that a file states, else those of nothing but zeros at either end;
where all three have the same number of steps, they are aligned with the words, and are cut at the same places.
Numbers that are not finite, such as the silence of some audio features, are 0, and counted in the report.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avjax.data.corpora import Clip
from avjax.data.series import Series
from avjax.data.unpickle import read_pickle

POLARITIES = ("negative", "neutral", "positive")
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
# Splits and modalities of the file -> ours.
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_MODALITIES = {"text": "text", "audio": "audio", "vision": "video"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One modality of one clip, read where the clip is prepared.

    Attributes:
      path: of the pickle.
      split, key, row: where in it.
      rate: steps a second.
      aligned: whether the three modalities share their steps.
    """

    path: Path
    split: str
    key: str
    row: int
    rate: float
    aligned: bool

    def read(self) -> Series:
        part = _parts(self.path)[self.split]
        extents = [_extent(part, key, self.row) for key in (_MODALITIES if self.aligned else (self.key,))]
        there = [(begin, end) for begin, end in extents if end > begin]
        values = np.asarray(part[self.key][self.row])
        if not there:
            nothing = np.zeros((1, *values.shape[1:]), np.float32)
            return Series(nothing, self.rate, valid=np.zeros(1, bool))
        begin, end = min(begin for begin, _ in there), max(end for _, end in there)
        return Series.of(values[begin:end], self.rate)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """CMU-MOSI or CMU-MOSEI.

    Attributes:
      file: the pickle, below the folder; empty takes the only one that is there.
      emotions: of files whose labels are [N, 1, 7], sentiment and the strengths of six emotions: a head ``emotion`` of
        those above 0.
    """

    file: str = ""
    emotions: bool = False

    name: ClassVar[str] = "mosei"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "for research, by the terms of the CMU Multimodal SDK"

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {"polarity": POLARITIES} | ({"emotion": EMOTIONS} if self.emotions else {})

    def clips(self, root: Path) -> list[Clip]:
        """Every clip whose label is a number from -3 to 3, in the file's order; ``strangers`` tells the others.

        Raises:
          FileNotFoundError: there is no pickle.
          ValueError: there are several, or what is there is not of either layout, or no sound pickle.
        """
        path = self._path(Path(root))
        return [
            self._clip(path, split, row, label)
            for split in _parts(path)
            for row, label in enumerate(self._labels(path, split))
            if _in_range(label[0])
        ]

    def strangers(self, root: Path) -> Sequence[tuple[Path, str]]:
        """Clips without a sentiment from -3 to 3."""
        path = self._path(Path(root))
        return [
            (path, f"{split}, row {row}: its sentiment is {label[0]:g}, not a number from -3 to 3")
            for split in _parts(path)
            for row, label in enumerate(self._labels(path, split))
            if not _in_range(label[0])
        ]

    def _path(self, root: Path) -> Path:
        if self.file:
            return root / self.file
        found = sorted(root.rglob("*.pkl"))
        if not found:
            raise FileNotFoundError(
                f"{root}: holds no .pkl file; put MMSA's aligned_50.pkl or unaligned_50.pkl there, or one of MulT's"
            )
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(root)) for path in found)
            raise ValueError(f"{root}: holds {names}; name one of them (--corpus.file)")
        return found[0]

    def _labels(self, path: Path, split: str) -> np.ndarray:
        """[N, 1] or, with emotions, [N, 7]."""
        part = _parts(path)[split]
        found = part.get("regression_labels", part.get("labels"))
        try:
            labels = np.asarray(found, np.float64)
            labels = labels.reshape(len(part["text"]), labels.shape[-1] if labels.ndim > 1 else 1)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {split}: no number a clip in regression_labels or labels") from error
        if self.emotions and labels.shape[1] != 1 + len(EMOTIONS):
            raise ValueError(
                f"{path}: {split}: {labels.shape[1]} labels a clip; sentiment and six emotions are 7 (leave out"
                " --corpus.emotions)"
            )
        return labels

    def _clip(self, path: Path, split: str, row: int, label: np.ndarray) -> Clip:
        part, sentiment = _parts(path)[split], float(label[0])
        identity = _identity(part["id"][row]) if "id" in part else ()
        steps = {key: part[key].shape[1] for key in _MODALITIES}
        labels: dict[str, Any] = {"polarity": 1 + int(np.sign(sentiment))}
        if self.emotions:
            labels["emotion"] = tuple(int(number) for number in np.flatnonzero(label[1:] > 0))
        name = "-".join((split, f"{row:05d}", *identity))
        return Clip(
            name=name,
            audio=None,
            video=None,
            labels=labels,
            group=re.split(r"\$_\$|\[\d+\]$", identity[0])[0] if identity else name,
            split=_SPLITS[split],
            cues={"sentiment": sentiment},
            series={
                ours: Row(path, split, key, row, steps[key] / steps["text"], len(set(steps.values())) == 1)
                for key, ours in _MODALITIES.items()
            },
        )


@functools.lru_cache(maxsize=2)
def _parts(path: Path) -> dict[str, dict[str, Any]]:
    """Split -> what the file has of it, checked; the arrays are read when they are touched."""
    whole = read_pickle(path)
    if not isinstance(whole, dict) or not _SPLITS.keys() <= whole.keys():
        found = ", ".join(map(str, whole)) if isinstance(whole, dict) else f"a {type(whole).__name__}"
        raise ValueError(f"{path}: has not the parts {', '.join(_SPLITS)} but {found[:200]}")
    parts = {split: whole[split] for split in _SPLITS}
    for split, part in parts.items():
        if not isinstance(part, dict) or not _MODALITIES.keys() <= part.keys():
            found = ", ".join(map(str, part)) if isinstance(part, dict) else f"a {type(part).__name__}"
            raise ValueError(f"{path}: {split} has not {', '.join(_MODALITIES)} but {found[:200]}")
        for key in _MODALITIES:
            array = part[key]
            if (
                not isinstance(array, np.ndarray)
                or array.ndim != 3
                or array.dtype.kind not in "fiu"
                or 0 in array.shape[1:]
            ):
                what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise ValueError(f"{path}: {split}, {key}: {what}, not numbers [clips, steps, features]")
        rows = {key: len(part[key]) for key in (*_MODALITIES, "id") if key in part}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"{number} of {key}" for key, number in rows.items())
            raise ValueError(f"{path}: {split} has rows that do not belong together: {counts}")
    return parts


def _extent(part: Mapping[str, Any], key: str, row: int) -> tuple[int, int]:
    """First step that is no padding, and the one behind the last; equal where there is nothing."""
    values = np.asarray(part[key][row])
    there, steps = np.flatnonzero((values != 0).any(axis=1)), len(values)
    if not len(there):
        return 0, 0
    length = _length(part, key, row, steps)
    if length is None:
        return int(there[0]), int(there[-1]) + 1
    # Padded in front, where nothing but zeros precedes the last ``length`` steps.
    in_front = there[-1] >= length and there[0] >= steps - length
    return (steps - length, steps) if in_front else (0, length)


def _length(part: Mapping[str, Any], key: str, row: int, steps: int) -> int | None:
    """Steps that the file says a clip has; None where it does not."""
    mask = part.get("text_bert") if key == "text" else None
    if isinstance(mask, np.ndarray) and mask.ndim == 3 and mask.shape[1:] == (3, steps):
        length = int(np.count_nonzero(mask[row, 1]))
    elif f"{key}_lengths" in part:
        length = int(np.asarray(part[f"{key}_lengths"][row]).ravel()[0])
    else:
        return None
    return length if 0 < length <= steps else None


def _in_range(sentiment: float) -> bool:
    return bool(abs(sentiment) <= 3)


def _identity(entry: Any) -> tuple[str, ...]:
    """What a file says of who a clip is: one text, or several; the video comes first."""
    items = entry.tolist() if isinstance(entry, np.ndarray | np.generic) else entry
    several = items if isinstance(items, list | tuple) else [items]
    return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in several)
