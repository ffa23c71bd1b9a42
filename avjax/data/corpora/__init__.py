"""Corpora: one file each, from a folder layout and its labels to clips.

A corpus file defines a dataclass named ``Corpus`` (its fields become flags of ``avjax prepare``) with

* ``name: ClassVar[str]``, ``synthetic: ClassVar[bool]``, ``licence: ClassVar[str]``,
* ``classes``: head name -> class names in label order,
* ``clips(root) -> list[Clip]``: every clip below the folder ``root``, in a stable order.

It may have

* ``video_codec``: the codec of its records unless told ("raw" for arrays),
* ``vocabulary``: head -> names of the tokens of its sequences, in the order of their numbers; number 0 is "",
* ``facts()``: what is known of the whole corpus, kept in the records' description (the demo's ceilings, say),
* ``strangers(root)``: (file, reason) of every media file below ``root`` that is no clip of it, and of files that do not
  say what their names say, for the report.

A file SYNTHETIC in the folder (text: what wrote it, with which seed) marks the clips as generated, whatever
``synthetic`` says.

That is the whole contract: ``avjax prepare path/to/my_corpus.py --data FOLDER`` takes any such file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from avjax.data.media import Frames, Waveform
from avjax.data.parts import Part
from avjax.data.record import Label
from avjax.data.series import Series, Source

SPLITS = ("train", "validation", "test")

# In a corpus's folder: what wrote the corpus. It is then labelled as generated whatever its reader says.
SYNTHETIC = "SYNTHETIC"


@dataclasses.dataclass(frozen=True)
class Clip:
    """One labelled clip, before anything is decoded. It has sound, pictures or a series at least.

    Attributes:
      name: unique in the corpus and stable from run to run.
      audio: file to take the sound from, a ``Part`` of one, or the sound itself; None where the clip has none.
      video: file to take the frames from, a ``Part`` of one, or the frames themselves; None where the clip has none.
        The same path as ``audio`` is opened once.
      labels: head name -> class number; or several numbers, or none, where a clip may have any number of classes.
        Every clip has a label for every head.
      group: speaker, actor or source video; a group never crosses splits.
      split: one of ``SPLITS``.
      cues: numbers of the whole clip, recorded as they are: values to predict (a sentiment), true facts about a
        synthetic clip.
      series: name -> numbers over time, features or labels that change along the clip: as they are, or a ``Source``
        such as NpyFile or H5Row, which is read where the clip is prepared.
      sequences: head -> numbers of tokens, from 1 on, such as the letters of a transcript.
    """

    name: str
    audio: Path | Waveform | Part | None
    video: Path | Frames | Part | None
    labels: Mapping[str, Label]
    group: str
    split: str
    cues: Mapping[str, float] = dataclasses.field(default_factory=dict)
    series: Mapping[str, Series | Source] = dataclasses.field(default_factory=dict)
    sequences: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


@runtime_checkable
class CorpusProtocol(Protocol):
    """What ``avjax prepare`` asks of a ``Corpus``."""

    name: ClassVar[str]
    synthetic: ClassVar[bool]
    licence: ClassVar[str]

    @property
    def classes(self) -> Mapping[str, Sequence[str]]: ...

    def clips(self, root: Path) -> list[Clip]: ...


def mark_synthetic(folder: Path, note: str) -> None:
    """Makes the folder, and marks it as one of a generated corpus; before anything else is written into it.

    Args:
      note: what writes it, and with which seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SYNTHETIC).write_text(f"{note}\n", encoding="utf-8")


def nothing_found(
    root: Path, *, hand_in: str, refused: Sequence[tuple[Path | str, str]], refusal: str, expected: str
) -> str:
    """Why a corpus finds no clip below ``root``.

    Args:
      hand_in: which folder is wanted.
      refused: (file, reason) of each that was looked at.
      refusal: what none of these is.
      expected: what is missing where there were none.
    """
    if not root.is_dir():
        return f"{root}: no such folder; hand in {hand_in}"
    if refused:
        file, reason = refused[0]
        return f"{root}: none of its {len(refused)} {refusal}; the first is {file}: {reason}"
    return f"{root}: {expected}"
