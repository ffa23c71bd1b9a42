"""Saliency against where things are: boxes and masks in images, intervals in time.

Plausibility, the agreement with people, in columns apart from faithfulness. Maps are [N, ...] with one mask each, over
an image or over time; every number stands beside that of ``centre_prior`` and of random saliency.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.special import gammaln

from avjax.diagnostics.drift.divergence import top
from avjax.diagnostics.measured import Undefined

Maps = Num[np.ndarray, "N *cells"]
Masks = Bool[np.ndarray, "N *cells"]
PerClip = Float[np.ndarray, " N"]

THRESHOLDS = tuple(step / 20 for step in range(21))


def pointing_game(saliency: Maps, inside: Masks, *, tolerance: float = 0.0) -> PerClip:
    """1 where the most salient cell is inside, or within the tolerance of it (Zhang et al. 2016); higher is better.

    In [0, 1]: of cells that tie for the maximum, the share that hits, which is what a fair draw among them has. The
    published tolerance is 15 pixels, and the published score the mean over classes (``mean_over_classes``). Pitfall: a
    Gaussian at the centre can win.

    Args:
      tolerance: greatest Euclidean distance to a cell inside, in cells of the map.
    """
    _somewhere(inside)
    hits = np.empty(len(saliency))
    for row, (shown, there) in enumerate(zip(saliency, inside, strict=True)):
        peaks, targets = np.argwhere(shown == shown.max()), np.argwhere(there)
        distance = np.linalg.norm(peaks[:, None] - targets[None], axis=-1).min(axis=1)
        hits[row] = (distance <= tolerance).mean()
    return hits


def mean_over_classes(values: PerClip, classes: Int[np.ndarray, " N"]) -> float:
    """Mean over classes of their means over clips."""
    if not len(values):
        raise Undefined("no clips")
    _, place = np.unique(classes, return_inverse=True)
    return float((np.bincount(place, weights=values) / np.bincount(place)).mean())


def unit_range(saliency: Maps) -> Float[np.ndarray, "N *cells"]:
    """(a - min) / (max - min) of each map: what ``consensus_iou``'s threshold is taken on. Undefined where constant."""
    flat = np.asarray(saliency, np.float64).reshape(len(saliency), -1)
    low, span = flat.min(axis=1, keepdims=True), np.ptp(flat, axis=1)[:, None]
    if not span.all():
        raise Undefined(f"{int((span == 0).sum())} of {len(flat)} maps are constant and have no range")
    return ((flat - low) / span).reshape(saliency.shape)


def consensus_iou(saliency: Float[np.ndarray, "N *cells"], truth: Maps | Masks, *, threshold: float = 0.5) -> PerClip:
    """cIoU = sum_{i in A} g_i / (sum_i g_i + |A - G|),   A = {a_i > tau},   G = {g_i > 0}   (Senocak et al. 2018).

    In [0, 1], higher is better; IoU where g is a mask, else g is the agreement of annotators, in [0, 1]. Undefined
    where a clip has no truth and nothing above the threshold.

    Args:
      saliency: in [0, 1]: ``unit_range``.
    """
    shown = (saliency > threshold).reshape(len(saliency), -1)
    truth = np.asarray(truth, np.float64).reshape(shown.shape)
    below = truth.sum(axis=1) + (shown & (truth == 0)).sum(axis=1)
    if not below.all():
        raise Undefined(f"{int((below == 0).sum())} of {len(below)} clips have no truth and no saliency")
    return np.where(shown, truth, 0).sum(axis=1) / below


def success_rate(overlaps: PerClip, threshold: float = 0.5) -> float:
    """Share of clips with cIoU >= threshold, in [0, 1], higher is better."""
    if not len(overlaps):
        raise Undefined("no clips")
    return float((overlaps >= threshold).mean())


def success_area(overlaps: PerClip) -> float:
    """Area under ``success_rate`` over the thresholds 0, 0.05 .. 1, by trapezoids, in [0, 1], higher is better.

    At least 0.025, for every clip passes 0.
    """
    if not len(overlaps):
        raise Undefined("no clips")
    return float(success_areas(overlaps).mean())


def success_areas(overlaps: PerClip) -> PerClip:
    """``success_area`` of each clip alone, whose mean that of all is."""
    return np.trapezoid((overlaps[:, None] >= np.array(THRESHOLDS)).astype(np.float64), THRESHOLDS, axis=1)


def relevance_mass(saliency: Maps, inside: Masks) -> PerClip:
    """Saliency inside over all of it, in [0, 1], higher is better (relevance mass accuracy, Arras et al. 2022).

    Over time: the mass within an event's interval. Null baseline: the share of the cells that are inside. Undefined
    where a map has no mass, or no cell is inside.
    """
    _somewhere(inside)
    flat = np.asarray(saliency, np.float64).reshape(len(saliency), -1)
    if not (flat >= 0).all():
        raise ValueError("saliency is not negative: take the magnitudes of a signed attribution, and say so")
    total = flat.sum(axis=1)
    if not total.all():
        raise Undefined(f"{int((total == 0).sum())} of {len(total)} maps have no mass")
    return np.where(inside.reshape(flat.shape), flat, 0).sum(axis=1) / total


def relevance_rank(saliency: Maps, inside: Masks) -> PerClip:
    """|top K cells and inside| / K, K the cells inside; in [0, 1], higher is better (Arras et al. 2022).

    Null baseline: the share of the cells that are inside. Of equal cells the earlier comes first.
    """
    return _top_inside(saliency, inside) / inside.reshape(len(inside), -1).sum(axis=1)


def top_iou_with(saliency: Maps, inside: Masks) -> PerClip:
    """|A and G| / |A or G| of the top K cells A and the K cells inside G, in [0, 1]; r / (2 - r) of r, the rank
    accuracy."""
    shared = _top_inside(saliency, inside)
    return shared / (2 * inside.reshape(len(inside), -1).sum(axis=1) - shared)


def segment_f1(predicted: Bool[np.ndarray, "N T"], true: Bool[np.ndarray, "N T"]) -> PerClip:
    """F1 = 2 TP / (2 TP + FP + FN) over each clip's segments, in [0, 1], higher is better.

    1 where no segment is predicted and none is true.
    """
    right, marked = (predicted & true).sum(axis=1), predicted.sum(axis=1) + true.sum(axis=1)
    return np.where(marked > 0, 2 * right / np.maximum(marked, 1), 1.0)


def overlap(shared: PerClip, marked: int, inside: int) -> PerClip:
    """IoU of so many marked cells and so many inside, by how many of them are the same: ``of`` of ``by_chance``."""
    return shared / (marked + inside - shared)


def harmonic(shared: PerClip, marked: int, inside: int) -> PerClip:
    """F1 of the same, as ``overlap``."""
    return 2 * shared / (marked + inside)


def by_chance(marked: Masks, inside: Masks, of: Callable[[PerClip, int, int], PerClip]) -> float:
    """Null baseline of what counts marked cells: its mean over clips, each map's cells in random order.

    How many marked cells are inside is hypergeometric then, so that the mean is exact and nothing is drawn.

    Args:
      of: from |A and G| of every case, |A| and |G| to the number; A the cells marked, G those inside.
    """
    cells, total = marked[0].size, 0.0
    sizes = np.stack([one.reshape(len(one), -1).sum(axis=1) for one in (marked, inside)], axis=1)
    pairs, counts = np.unique(sizes, axis=0, return_counts=True)
    for (own, there), times in zip(pairs.tolist(), counts.tolist(), strict=True):
        shared = np.arange(max(own + there - cells, 0), min(own, there) + 1, dtype=np.float64)
        logarithm = _choices(there, shared) + _choices(cells - there, own - shared)
        chance = np.exp(logarithm - logarithm.max())
        total += times * float(chance @ of(shared, own, there) / chance.sum())
    return total / len(sizes)


def _choices(cells: int, chosen: PerClip) -> PerClip:
    """ln C(n, k)."""
    return gammaln(cells + 1) - gammaln(chosen + 1) - gammaln(cells - chosen + 1)


def centre_prior(height: int, width: int, spread: float = 0.25) -> Float[np.ndarray, "H W"]:
    """A Gaussian at the image's centre, of sum 1, whose deviation is ``spread`` of each side (ours): the map that
    knows of photographers and nothing of the model."""
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    bell = np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * spread**2))
    return bell / bell.sum()


def _somewhere(inside: Masks) -> None:
    none = int((~inside.reshape(len(inside), -1).any(axis=1)).sum())
    if none:
        raise Undefined(f"{none} of {len(inside)} clips have nothing to be found")


def _top_inside(saliency: Maps, inside: Masks) -> Int[np.ndarray, " N"]:
    _somewhere(inside)
    flat, there = saliency.reshape(len(saliency), -1), inside.reshape(len(inside), -1)
    rows = zip(flat, there, there.sum(axis=1), strict=True)
    return np.asarray([int((top(shown, int(count)) & truth).sum()) for shown, truth, count in rows], np.int64)
