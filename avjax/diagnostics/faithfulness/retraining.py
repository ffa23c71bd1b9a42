"""What the measures take away that train again: the top of an explanation (ROAR), and what the labels say.

Training is the caller's (experiments/retraining.py): a diagnosis is of one model as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.drift.divergence import top


def counts(groups: Sequence[str], share: float) -> dict[str, int]:
    """Players of each modality that a share of it is, rounded: 2 of 16 are the nearest to 10 %."""
    if not 0 <= share <= 1:
        raise ValueError(f"a share is in [0, 1], not {share}")
    return {name: round(share * list(groups).count(name)) for name in dict.fromkeys(groups)}


def without_top(saliency: Num[np.ndarray, "B n"], groups: Sequence[str], share: float) -> Bool[np.ndarray, "B n"]:
    """Which players are left where the most salient share of each modality is gone (ROAR, Hooker et al. 2019).

    Ranked within each modality, so that the same share of each goes (ours): a joint ranking may finish one modality
    first, and a model that is trained again would be asked about the other alone. Of equal players the earlier goes.

    Args:
      groups: modality of each player.
      share: of each modality's players, rounded to whole ones (``counts``).
    """
    kept = np.ones(np.shape(saliency), bool)
    for name, count in counts(groups, share).items():
        own = np.flatnonzero([group == name for group in groups])
        kept[:, own] = ~top(saliency[:, own], count)
    return kept


def permuted(label: Int[np.ndarray, " N"], *, seed: int = 0) -> Int[np.ndarray, " N"]:
    """The labels in random order: every class as often as before, and nothing to learn of it (Adebayo et al. 2018).

    Some clips get their own class back by chance, of K equally frequent ones 1 / K.
    """
    return np.random.default_rng(seed).permutation(label)


def pooled(
    amounts: Float[np.ndarray, "B T *rest"], where: Int[np.ndarray, "..."], players: int
) -> Float[np.ndarray, "B n"]:
    """Saliency summed over what each player holds.

    Args:
      where: player of each element. Where it has another number of steps in time than the saliency, as samples of a
        waveform have than frames of a spectrogram, a frame is its middle's; saliency has further axes summed.
      players: n, of all modalities.
    """
    steps = amounts.shape[1]
    if where.shape != amounts.shape[1 : 1 + where.ndim]:
        if where.ndim != 1:
            raise ValueError(f"saliency of {amounts.shape[1:]} does not lie on players of {where.shape}")
        where = where[((np.arange(steps) + 0.5) / steps * len(where)).astype(int)]
    flat = np.asarray(amounts, np.float64).reshape(len(amounts), where.size, -1).sum(axis=2)
    return np.stack([np.bincount(where.ravel(), row, minlength=players) for row in flat])
