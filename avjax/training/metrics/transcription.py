"""Metrics of transcripts: word and character error rates by edit distance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Sequence

from avjax.training.metrics.estimate import Measure


@dataclasses.dataclass(frozen=True)
class Edits:
    """What turns the true sequence into the predicted one, at the least.

    Attributes:
      substituted, deleted, inserted: numbers of edits.
      length: of the true sequence.
    """

    substituted: int
    deleted: int
    inserted: int
    length: int

    @property
    def count(self) -> int:
        return self.substituted + self.deleted + self.inserted


def edits(predicted: Sequence[Hashable], true: Sequence[Hashable]) -> Edits:
    """The fewest edits (Levenshtein 1966); among those, the most substitutions."""
    # Edits, then kinds of edit: a tuple's order prefers few edits, then few deletions.
    row = [(j, 0, j, 0) for j in range(len(predicted) + 1)]
    for i, wanted in enumerate(true, start=1):
        above, row = row, [(i, i, 0, 0)]
        for j, got in enumerate(predicted, start=1):
            hit = wanted == got
            total, deleted, inserted, substituted = above[j - 1]
            choices = [(total + (not hit), deleted, inserted, substituted + (not hit))]
            total, deleted, inserted, substituted = above[j]
            choices.append((total + 1, deleted + 1, inserted, substituted))
            total, deleted, inserted, substituted = row[j - 1]
            choices.append((total + 1, deleted, inserted + 1, substituted))
            row.append(min(choices))
    _, deleted, inserted, substituted = row[-1]
    return Edits(substituted, deleted, inserted, len(true))


def word_errors(predicted: str, true: str) -> Edits:
    """Edits of words between white space."""
    return edits(predicted.split(), true.split())


def character_errors(predicted: str, true: str) -> Edits:
    """Edits of characters, with runs of white space as one space."""
    return edits(" ".join(predicted.split()), " ".join(true.split()))


def error_rate(found: Sequence[Edits]) -> float:
    """Edits of all sentences over the length of all, WER of words, CER of characters; more than 1 is possible."""
    length = sum(each.length for each in found)
    return sum(each.count for each in found) / length if length else float(any(each.count for each in found))


def transcription_measures(predicted: Callable[[], Sequence[str]], true: Sequence[str]) -> dict[str, Measure]:
    """wer and cer, with intervals over resampled sentences.

    Args:
      predicted: called where a measure is asked for, since a search takes its time.
    """

    def of(errors: Callable[[str, str], Edits]) -> Measure:
        found = functools.cache(lambda: [errors(*pair) for pair in zip(predicted(), true, strict=True)])
        return Measure(lambda rows: error_rate([found()[row] for row in rows]), len(true))

    return {"wer": of(word_errors), "cer": of(character_errors)}
