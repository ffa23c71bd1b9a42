"""Whether saliency depends on what the model has learned, and whether a contribution says what its absence costs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.faithfulness.complexity import entropy
from avjax.diagnostics.measured import Undefined

Maps = Num[np.ndarray, "N H W"]
Cascade = Num[np.ndarray, "L N H W"]

WINDOW = 7
"""Cells along each side of the windows of SSIM."""


def rank_cascade(original: Maps, randomised: Cascade) -> Float[np.ndarray, "L N"]:
    """Spearman's rho of each map and that of the model with its top 1, 2 .. L layers randomised (MPRT, Adebayo et al.
    2018).

    In [-1, 1]; it must fall towards ``random_floor``: saliency that stays depends on the input alone. Signed
    attributions and their magnitudes are two numbers. Undefined where a map is constant.
    """
    return rank_correlation(_flat(np.broadcast_to(original, randomised.shape)), _flat(randomised))


def similarity_cascade(original: Maps, randomised: Cascade, *, window: int = WINDOW) -> Float[np.ndarray, "L N"]:
    """``structural_similarity`` of the same maps; SSIM sees edges that the input alone makes, so both are shown."""
    return structural_similarity(np.broadcast_to(original, randomised.shape), randomised, window=window)


def random_floor(original: Maps, *, seed: int = 0) -> Float[np.ndarray, " N"]:
    """Spearman's rho of each map and the same cells in random order: 0 on average, with the spread of its cells.

    Pitfall: maps of two models share the centre of the image, so that a cascade may end above it in all honesty.
    """
    flat = _flat(original)
    return rank_correlation(flat, np.random.default_rng(seed).permuted(flat, axis=-1))


def structural_similarity(
    one: Num[np.ndarray, "*rows H W"], other: Num[np.ndarray, "*rows H W"], *, window: int = WINDOW
) -> Float[np.ndarray, "*rows"] | float:
    """SSIM = mean over windows of (2 mu mu' + c1)(2 cov + c2) / ((mu^2 + mu'^2 + c1)(var + var' + c2))   (Wang et al.
    2004), c1 = 0.01^2, c2 = 0.03^2, of maps in [0, 1].

    In [-1, 1], 1 where equal. Windows are square and uniform, without padding, variances over their cells; the window
    is part of the number's name. Pitfall: two maps of next to nothing are alike, because of c1 and c2.
    """
    if window > min(one.shape[-2:]):
        raise Undefined(f"a window of {window} does not fit maps of {one.shape[-2]} by {one.shape[-1]}")
    if not all(((side >= 0) & (side <= 1)).all() for side in (one, other)):
        raise ValueError("the constants of SSIM are for maps in [0, 1]")

    def windows(side: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(np.asarray(side, np.float64), (window, window), axis=(-2, -1))

    x, y = windows(one), windows(other)
    inside = (-2, -1)
    mean_x, mean_y = x.mean(axis=inside), y.mean(axis=inside)
    covariance = (x * y).mean(axis=inside) - mean_x * mean_y
    spread = x.var(axis=inside) + y.var(axis=inside)
    light = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (light * (2 * covariance + 0.03**2) / (spread + 0.03**2)).mean(axis=inside)


def entropy_rise(
    original: Num[np.ndarray, "*rows N"], randomised: Num[np.ndarray, "*rows N"]
) -> Float[np.ndarray, "*rows"] | float:
    """(H(phi') - H(phi)) / H(phi), phi' of the fully randomised model (efficient MPRT, Hedstroem et al. 2023).

    Higher is better: a model that knows nothing should have the most complex saliency. H is the entropy of |phi| over
    its sum (ours: no bins to choose). Undefined where H(phi) is 0, all on one cell.
    """
    before, after = entropy(np.abs(original)), entropy(np.abs(randomised))
    if not before.all():
        raise Undefined(f"{int((before == 0).sum())} of {before.size} maps have all their saliency on one cell")
    return (after - before) / before


def share_drop_agreement(shares: Float[np.ndarray, " N"], drops: Float[np.ndarray, " N"]) -> float:
    """Spearman over clips of a modality's contribution and the drop of p_c when it is removed, ours: faithfulness of
    modality attributions, in [-1, 1], higher is better, null baseline 0.

    Undefined where either is constant, as of a model that ignores the modality. Pitfall: a Shapley value holds its own
    drop, so that its agreement is above that of an attribution which has not seen the removal.

    Args:
      drops: p_c(x) - p_c(x without the modality), of the class and by the fill that the contribution was measured with.
    """
    return float(rank_correlation(shares, drops))


def _flat(maps: np.ndarray) -> np.ndarray:
    return np.asarray(maps, np.float64).reshape(*maps.shape[:-2], -1)
