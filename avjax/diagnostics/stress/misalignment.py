"""Misalignment: sound that comes too late or too early for its pictures, and sound of another clip.

Offsets are in milliseconds, above 0 where the sound is late. People notice some tens of milliseconds of sound that is
early and about a hundred of sound that is late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution.performance import across_classes, within_class
from avjax.diagnostics.fills import draws, with_others
from avjax.diagnostics.measured import Undefined

OFFSETS = (0.0, *(sign * 40.0 * 2**step for step in range(6) for sign in (-1, 1)))
RATES = (0.1, 0.2, 0.3, 0.4, 0.5)

Read = Callable[[float], Clips]
"""The same clips with the sound of so many seconds before: ``ClipReader.read(index, audio_late=seconds)``."""


def out_of_sync(clips: Clips, milliseconds: float, read: Read, *, modality: str = "audio") -> Clips:
    """The clips with the sound late, and the record's own sound around it.

    Where the record has no more, nothing is there. At 0 the clips themselves, whatever ``read`` gives.
    """
    if not milliseconds:
        return clips
    late = read(milliseconds / 1000)
    if not np.array_equal(late.index, clips.index):
        raise ValueError("the sound that was read is of other records than the clips")
    return clips.replace({modality: late.streams[modality]})


def shifted(clips: Clips, milliseconds: float, *, modality: str = "audio") -> Clips:
    """The clips with the sound moved within what is there, and silence where it has left.

    The silent edge is something that a model can see: ``out_of_sync`` has none. Both are to be shown.
    """
    stream = clips.streams[modality]
    steps = round(milliseconds * stream.rate / 1000)
    values = np.zeros_like(stream.values)
    length = values.shape[1] - abs(steps)
    if length > 0:
        source, target = (slice(length), slice(-length, None)) if steps > 0 else (slice(-length, None), slice(length))
        heard = np.where(stream.valid, stream.values, 0)
        values[:, target] = heard[:, source]
    return clips.replace({modality: stream.replace(values=np.where(stream.valid, values, stream.values))})


def mismatched(clips: Clips, rate: float, *, same_class: bool, modality: str = "audio", seed: int = 0) -> Clips:
    """The clips, of which a share ``rate`` has a modality of another clip, of its own class or of another one.

    Of the clips that have it. Undefined where a class has a single clip (same class), or more than half of all
    (another). The label stays.

    Args:
      rate: at a higher one the clips of a lower one are exchanged too, and have the same.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate lies in [0, 1]; got {rate}")
    has = np.flatnonzero(np.asarray(clips.streams[modality].valid).any(axis=1))
    # In order of record number, so that the order of rows does not matter.
    rows = has[np.argsort(clips.index[has], kind="stable")]
    random = np.random.default_rng((seed, int(same_class)))
    partner = rows[(within_class if same_class else across_classes)(clips.label[rows], random)]
    draw = draws(clips, "mismatch", seed=seed)[rows]
    first = np.argsort(draw, kind="stable")[: round(rate * len(rows))]
    order = np.arange(len(clips))
    order[rows[first]] = partner[first]
    return with_others(clips, modality, order)


def sync_sensitivity(accuracy: Mapping[float, float]) -> float:
    """Mean over ln|d| of the lost share (A(0) - A(d)) / A(0), ours.

        int (A(0) - A(d)) / A(0) d ln|d| / (ln|d|_max - ln|d|_min),   by trapezoids, the mean over late and early

    At most 1; 0 where the curve is flat, which says that the model uses no fine synchrony: a finding, and no
    robustness. No direction. Undefined where nothing is right in sync.

    Args:
      accuracy: offset in milliseconds -> accuracy, that of 0 among them.
    """
    if 0 not in accuracy:
        raise ValueError("the accuracy in sync, at offset 0, is missing")
    if not accuracy[0] > 0:
        raise Undefined("nothing is right in sync: there is nothing to lose")
    distances = sorted({abs(offset) for offset in accuracy} - {0})
    if len(distances) < 2:
        raise Undefined("a curve over the offset needs two distances from 0")
    lost = [
        np.mean([1 - accuracy[offset] / accuracy[0] for offset in accuracy if abs(offset) == distance])
        for distance in distances
    ]
    place = np.log(distances)
    return float(np.trapezoid(lost, place) / (place[-1] - place[0]))
