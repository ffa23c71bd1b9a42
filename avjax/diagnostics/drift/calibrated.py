"""CMSD between two measured ends: the drift of a change nobody perceives, and that between different clips.

Raw values of a model with peaked states and of one with diffuse states do not compare; these do, and the raw value,
the floor and the ceiling are shown beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num

from avjax.diagnostics.drift.divergence import OfRows, drift
from avjax.diagnostics.measured import Undefined


def drift_floor(
    clean: Num[np.ndarray, "N J"], encoded: Num[np.ndarray, "S N J"], groups: Sequence[str], names: Sequence[str]
) -> Float[np.ndarray, " N"]:
    """Mean CMSD of each clip's state to those of its imperceptible re-encodings, one a seed; D_floor is its mean.

    The re-encoding of version 1: dither of the audio at 60 dB signal-to-noise ratio, noise of +-1/255 in the pixels,
    four seeds.
    """
    if not encoded.size:
        raise Undefined("no re-encoded states to measure the floor with")
    return drift(np.broadcast_to(clean, encoded.shape), encoded, groups, names).total.mean(axis=0)


def drift_ceiling(
    clean: Num[np.ndarray, "N J"], groups: Sequence[str], names: Sequence[str], *, draws: int = 8, seed: int = 0
) -> Float[np.ndarray, " N"]:
    """Mean CMSD of each clip's state to those of ``draws`` other random clips; D_ceil is its mean.

    Every clip is another's partner equally often, and never its own. Pitfall: clips of one source video are alike;
    pass one a video.
    """
    if len(clean) < 2:
        raise Undefined("one clip has no other to compare its state with")
    order = np.random.default_rng(seed).permutation(len(clean))
    shuffled = clean[order]
    shifts = range(1, 1 + min(draws, len(clean) - 1))
    apart = np.mean(
        [drift(shuffled, np.roll(shuffled, shift, axis=0), groups, names).total for shift in shifts], axis=0
    )
    return apart[np.argsort(order)]


def calibrated(drifts: OfRows, floor: float, ceiling: float) -> OfRows:
    """CMSD* = clip((CMSD - D_floor) / (D_ceil - D_floor), 0, 1) of each row, ours: 0 as of an imperceptible change, 1
    as of another clip.

    In [0, 1], no direction. Undefined where the ceiling is not above the floor: the states do not tell clips apart.
    Pitfall: rows below the floor are cut and those above it are not, so that the mean over clips of an imperceptible
    change is a little above 0.

    Args:
      floor, ceiling: means of ``drift_floor`` and ``drift_ceiling`` over the same clips, on the same grid.
    """
    if not ceiling > floor:
        raise Undefined(f"states of different clips differ by {ceiling:.3g}, re-encodings of one by {floor:.3g}")
    return np.clip((np.asarray(drifts, np.float64) - floor) / (ceiling - floor), 0, 1)
