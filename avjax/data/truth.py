"""Where in a clip what tells its label is, as far as a corpus knows: what an explanation can be held against."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from avjax.data.record import Record
from avjax.data.synthesis.emotions import CLASSES
from avjax.data.synthesis.face import EXPRESSIVE

SPOKEN = ("onset", "speaking", "delay")
"""Cues of the demo corpus that say when its actor is heard."""
EVENTNESS = "eventness"
"""Series of a corpus that says at which moments the clip's event is there."""


@dataclasses.dataclass(frozen=True)
class Region:
    """Where in a modality.

    Attributes:
      seconds: (begin, end) of every part of the clip; None: at every moment.
      box: left, top, right, bottom as shares of the picture; None: everywhere in it.
    """

    seconds: tuple[tuple[float, float], ...] | None = None
    box: tuple[float, float, float, float] | None = None

    def moments(self, times: Float[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
        """Which of these moments, in seconds from the clip's start, are inside."""
        if self.seconds is None:
            return np.ones(len(times), bool)
        return np.any([(begin <= times) & (times < end) for begin, end in self.seconds], axis=0)

    def later(self, seconds: float) -> Region:
        """Of the same modality, moved in time."""
        if self.seconds is None:
            return self
        return dataclasses.replace(self, seconds=tuple((b + seconds, e + seconds) for b, e in self.seconds))

    def pixels(self, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        """Which pixels have their middle inside."""
        if self.box is None:
            return np.ones((height, width), bool)
        left, top, right, bottom = self.box
        rows, columns = ((np.arange(side) + 0.5) / side for side in (height, width))
        return ((top <= rows) & (rows < bottom))[:, None] & ((left <= columns) & (columns < right))


def regions(record: Record, head: str) -> dict[str, Region]:
    """Modality -> where what tells the label of ``head`` is; without those of which the record does not know it.

    The demo corpus: the voice while it speaks, and the part of the face that wears the expression. Of its head
    "order" nothing is kept, since its clips begin anywhere in their own circle. A corpus with the series "eventness"
    (AVE): its event is heard and seen in the same seconds.
    """
    told = {CLASSES[interaction][0] for interaction in ("none", "congruence")}
    if head in told and set(SPOKEN) <= set(record.cues):
        onset, speaking, delay = (float(record.cues[name]) for name in SPOKEN)
        box = tuple((edge + 1) / 2 for edge in EXPRESSIVE)
        return {"audio": Region(seconds=((onset + delay, onset + delay + speaking),)), "video": Region(box=box)}
    if EVENTNESS in record.series:
        series = record.series[EVENTNESS]
        there = np.asarray(series.values).reshape(len(series.values), -1).max(axis=1) > 0
        begins = series.start + np.flatnonzero(there) / series.rate
        seconds = tuple((float(begin), float(begin + 1 / series.rate)) for begin in begins)
        return {"audio": Region(seconds=seconds), "video": Region(seconds=seconds)} if seconds else {}
    return {}
