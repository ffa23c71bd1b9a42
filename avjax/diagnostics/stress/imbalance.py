"""Injected imbalance: a modality that says less, of all clips or of some classes.

What a model makes of it is for the ablation matrix and for ``contribution.imbalance`` to say.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.fills import others
from avjax.streams import beside

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def diluted(clips: Clips, modality: str, weight: float, *, seed: int = 0) -> Clips:
    """(1 - w) x_m + w x_m of another clip: less of the signal, and the same range; ours.

    0 leaves the clips as they are; 1 is the fill "marginal" by the same seed. Where only one of the two clips has
    something, it is there alone, in its own strength.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"a weight lies in [0, 1]; got {weight}")
    if not weight:
        return clips
    stream, order = clips.streams[modality], others(clips, modality, seed=seed)
    mine, theirs = np.asarray(stream.valid), np.asarray(stream.valid)[order]
    if weight == 1:
        values, valid = stream.values[order], theirs
    else:
        # What is not there may be anything, and must not reach a sum.
        own = np.where(beside(mine, stream.values), stream.values, 0)
        other = own[order]
        mixed = np.where(beside(mine & theirs, own), (1 - weight) * own + weight * other, own + other)
        values = mixed.astype(stream.values.dtype)
        valid = mine | theirs
    return clips.replace({modality: stream.replace(values=values, valid=valid)})


def in_classes(clips: Clips, stressed: Clips, classes: Collection[int]) -> Clips:
    """The stressed clips where the label is among the classes, and the clips as they are elsewhere.

    A modality that is bad for some classes and good for others: a model that weighs modalities once for all loses.
    """
    chosen = np.isin(clips.label, list(classes))

    def choose(name: str) -> object:
        clean, other = clips.streams[name], stressed.streams[name]
        values = np.where(beside(chosen, clean.values), other.values, clean.values)
        return clean.replace(values=values, valid=np.where(chosen[:, None], other.valid, clean.valid))

    return clips.replace({name: choose(name) for name in clips.streams})
