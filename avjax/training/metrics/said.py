"""What the predictions for one clip say, in words and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avjax.data.pipeline import VALUES
from avjax.data.records import Description
from avjax.objectives.decoding import greedy
from avjax.objectives.rows import VALID
from avjax.training.metrics.events import intervals, proposals
from avjax.training.metrics.tasks import search, text


@dataclasses.dataclass(frozen=True)
class Saying:
    """Puts predictions of a task into words.

    Attributes:
      task: one of ``TASKS`` but matching, which says nothing of one clip.
      description: of the records, for names.
      values: names of the numbers of the head ``values``.
      top: classes and moments in words; JSON has all.
    """

    task: str
    description: Description
    values: Sequence[str] = ()
    top: int = 3

    @property
    def over_time(self) -> bool:
        """Whether something is said of every step."""
        return self.task in ("series", "segments", "moments", "transcripts")

    def __call__(self, predicted: Mapping[str, np.ndarray], start: float, seconds: float) -> dict[str, tuple[str, Any]]:
        """Head, or ``head/modality`` -> words, and what JSON has.

        Args:
          predicted: as of a batch, of one clip.
          start, seconds: where in the file the predictions begin, and for how long they are.
        """
        found = {}
        for name, values in predicted.items():
            head, _, part = name.partition("/")
            if part == VALID:
                continue
            valid = predicted.get(f"{head}/{VALID}", np.ones(len(values), bool))
            step = seconds / len(values)
            if self.task in ("values", "sentiment"):
                found[name] = self._values(head, values)
            elif self.task == "series":
                found[name] = self._series(head, values, valid, start, step)
            elif self.task == "transcripts":
                found[name] = self._transcript(head, values, valid)
            elif values.ndim == 2 and values.shape[1] == 1:
                found[name] = self._moments(values[:, 0] * valid, start, step)
            elif values.ndim == 2:
                found[name] = self._segments(head, values, valid, start, step)
            else:
                found[name] = self._classes(head, values)
        return found

    def _names(self, head: str, count: int) -> list[str]:
        for known in (self.description.classes, self.description.vocabulary):
            if len(known.get(head, ())) == count:
                return list(known[head])
        return [str(place) for place in range(count)]

    def _classes(self, head: str, values: np.ndarray) -> tuple[str, Any]:
        named = zip(self._names(head, len(values)), map(float, values), strict=True)
        ranked = sorted(named, key=lambda pair: -pair[1])
        return ", ".join(f"{name} {value:.0%}" for name, value in ranked[: self.top]), dict(ranked)

    def _values(self, head: str, values: np.ndarray) -> tuple[str, Any]:
        names = self.values if head == VALUES else self._names(head, len(values))
        named = dict(zip(names, map(float, values), strict=True))
        return ", ".join(f"{name} {value:.3g}" for name, value in named.items()), named

    def _series(self, head: str, values: np.ndarray, valid: np.ndarray, start: float, step: float) -> tuple[str, Any]:
        whole = {"start": start, "step": step, "valid": valid.tolist()}
        if not valid.any():
            return "nothing", whole
        seen, names = values[valid], self._names(head, values.shape[1])
        words = [
            f"{name} {x.mean():.3g} on average, from {x.min():.3g} to {x.max():.3g}"
            for name, x in zip(names, seen.T, strict=True)
        ]
        return "; ".join(words), whole | {"values": dict(zip(names, values.T.tolist(), strict=True))}

    def _transcript(self, head: str, values: np.ndarray, valid: np.ndarray) -> tuple[str, Any]:
        vocabulary = self.description.vocabulary.get(head, ())
        said = text(greedy(values[None], valid[None])[0], vocabulary)
        return said, {"greedy": said, "beam": text(search(values[valid]), vocabulary)}

    def _moments(self, values: np.ndarray, start: float, step: float) -> tuple[str, Any]:
        runs, scores = proposals(values)
        found = [
            {"start": start + begin * step, "end": start + end * step, "score": score}
            for (begin, end), score in zip(runs.tolist(), scores.tolist(), strict=True)
        ]
        # In words those that are more likely than not, where proposals may lie inside one another.
        words = [_interval(*run, start, step) for run in intervals(values > 0.5)][: self.top]
        whole = {"start": start, "step": step, "probabilities": values.tolist(), "moments": found}
        return ", ".join(words) or "nowhere", whole

    def _segments(self, head: str, values: np.ndarray, valid: np.ndarray, start: float, step: float) -> tuple[str, Any]:
        names, classes = self._names(head, values.shape[1]), np.where(valid, values.argmax(axis=1), -1)
        found = []
        for k in np.unique(classes[valid]).tolist():
            for begin, end in intervals(classes == k).tolist():
                found.append({"start": start + begin * step, "end": start + end * step, "class": names[k]})
        found.sort(key=lambda each: each["start"])
        words = [f"{each['class']} {each['start']:.2f}–{each['end']:.2f} s" for each in found]
        probabilities = dict(zip(names, values.T.tolist(), strict=True))
        whole = {"start": start, "step": step, "probabilities": probabilities, "segments": found}
        return ", ".join(words) or "nothing", whole


def _interval(begin: float, end: float, start: float, step: float) -> str:
    return f"{start + begin * step:.2f}–{start + end * step:.2f} s"
