"""Drift along three axes: windows of one clip, severities of a corruption, checkpoints of a training; ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.drift.divergence import drift, rank_correlation
from avjax.diagnostics.measured import Undefined
from avjax.training.metrics import roc_auc

Windows = Num[np.ndarray, "T J"]
OfClips = Float[np.ndarray, " N"]
Which = Bool[np.ndarray, " N"]

SETTLED = 0.05
MASS_BOUNDS = (0.05, 0.95)
LIFT_BOUNDS = (-3.0, 3.0)
# Masses are sums of weights in float32: what moves them by less is rounding, and its order says nothing.
MASS_RESOLUTION = 1e-6


class Following(NamedTuple):
    """How drift goes with the change of the content: see ``content_following``."""

    residual: Float[np.ndarray, " T"]
    unprovoked: float
    correlation: float


def drift_rates(states: Windows, groups: Sequence[str], names: Sequence[str]) -> Float[np.ndarray, " T-1"]:
    """d_t = CMSD(pi_t, pi_{t+1}) of windows of equal support; their mean is the rate of drift, in [0, 1]."""
    _windows(states)
    return drift(states[:-1], states[1:], groups, names).total


def path_length(rates: Float[np.ndarray, " T"]) -> float:
    """L = sum_t sqrt(d_t), in [0, T - 1]: the length of the way in the metric sqrt(CMSD)."""
    return float(np.sqrt(rates).sum())


def wander(states: Windows, groups: Sequence[str], names: Sequence[str]) -> float:
    """1 - sqrt(CMSD(pi_1, pi_T)) / L, in [0, 1]: 0 where every step leads on, 1 where the way ends where it began.

    Undefined where nothing moves.
    """
    length = path_length(drift_rates(states, groups, names))
    if not length:
        raise Undefined("the state never moves: there is no way to compare its ends with")
    net = float(np.sqrt(drift(states[0], states[-1], groups, names).total))
    # The triangle inequality keeps it from below 0, up to rounding.
    return max(1 - net / length, 0.0)


def shuffled_rate(states: Windows, groups: Sequence[str], names: Sequence[str]) -> float:
    """Expected rate of drift of the same windows in random order: the mean of CMSD over all pairs, exactly.

    CMSD_time = ``calibrated(rate, floor, shuffled_rate)``: 0 as of a re-encoding, 1 as if time did not matter.
    """
    _windows(states)
    one, other = np.triu_indices(len(states), 1)
    return float(drift(states[one], states[other], groups, names).total.mean())


def content_following(rates: Float[np.ndarray, " T"], change: Float[np.ndarray, " T"]) -> Following:
    """Whether drift follows the content: least squares d_t = a + b c_t, with what it leaves.

    residual: d_t - a - b c_t, whose mean is 0 by construction, so it is a series to look at and no score. unprovoked:
    a, the drift where the input does not change, which is the defect; 0 is best, and it may fall below. correlation:
    Spearman(d, c), in [-1, 1], higher is better. Undefined where either is constant.

    Args:
      change: c_t, how much the input changes from a window to the next, 0 where it does not: percentile of the
        spectral flux, or of the mean difference of frames.
    """
    correlation = float(rank_correlation(rates, change))
    slope, intercept = np.polyfit(change, rates, 1)
    return Following(rates - intercept - slope * change, float(intercept), correlation)


def severity_drift(scores: Float[np.ndarray, "S N"]) -> float:
    """CMSD_sev(k) = 1/S sum_s E_x CMSD*(pi^0, pi^{k,s}), S = 5 severities of one corruption; in [0, 1].

    A mean and no area from severity 0, which could not reach 1. Its mean over corruptions is the headline.
    """
    if not scores.size:
        raise Undefined("no clips")
    return float(np.mean(scores, dtype=np.float64))


def reliability_following(
    clean: OfClips, corrupted: Float[np.ndarray, "S N"], *, resolution: float = MASS_RESOLUTION
) -> float:
    """RFI = -Spearman_s(s, mean_x(m_c^s - m_c^0)), s = 1 .. S, of the mass m_c on the corrupted modality c.

    In [-1, 1], higher is better: 1 where the model leaves the modality as it gets worse, -1 where noise captures it.
    Undefined where the mean mass is the same at every severity: the model ignores the modality, or left it at once.
    Pitfall: five points; it says which way, and not how far (``calibrated`` drift does).

    Args:
      corrupted: masses by severity, mildest first.
    """
    moved = np.mean(corrupted - clean, axis=1, dtype=np.float64)
    if len(moved) < 2 or np.ptp(moved) <= resolution:
        raise Undefined("the mass on the corrupted modality is the same at every severity")
    return -float(rank_correlation(np.arange(len(moved)), moved))


def unexplained_drift(scores: OfClips, unchanged: Which) -> float:
    """E[CMSD* | prediction unchanged], in [0, 1]: the saliency moved and the answer did not. No direction."""
    return _mean_of(scores, unchanged, "keeps its prediction")


def harmful_drift(scores: OfClips, before: Which, after: Which) -> float:
    """E[CMSD* | right before, wrong after], in [0, 1]: drift of the clips that the corruption cost. No direction."""
    return _mean_of(scores, before & ~after, "turns from right to wrong")


def drift_separation(scores: OfClips, before: Which, after: Which, unchanged: Which) -> float:
    """AUROC of CMSD* between clips that turn from right to wrong and those that keep their prediction.

    In [0, 1]: 0.5 where drift says nothing of harm, 1 where it tells all. Undefined where either has no clips.
    """
    harmed = before & ~after
    if not harmed.any() or not unchanged.any():
        raise Undefined("no clip turns from right to wrong, or none keeps its prediction")
    rows = harmed | unchanged
    return roc_auc(scores[rows], harmed[rows])


def training_drift(between: Float[np.ndarray, " I"], steps: Int[np.ndarray, " K"]) -> Float[np.ndarray, " I"]:
    """D_step(k) = E CMSD(pi^k, pi^{k+1}) / log2(step_{k+1} / step_k): drift for each doubling of the steps.

    Args:
      between: mean drift from each checkpoint to the next, on one set of clips.
      steps: of the checkpoints, rising, from 1 on: the ratio to step 0 has no logarithm.
    """
    if steps[0] < 1 or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps of checkpoints rise from 1 on; got {steps.tolist()}")
    return between / np.diff(np.log2(steps))


def settle_step(final: Float[np.ndarray, " K"], steps: Int[np.ndarray, " K"], *, threshold: float = SETTLED) -> int:
    """First step from which on D_final(k) = E CMSD(pi^k, pi^K) stays within the threshold.

    Undefined where that is the last checkpoint, whose distance to itself is 0: the state had not settled.
    """
    moving = np.flatnonzero(final > threshold)
    first = int(moving[-1]) + 1 if len(moving) else 0
    if first >= len(steps) - 1:
        raise Undefined("the state moves until the last checkpoint")
    return int(steps[first])


def collapsed_since(
    values: Float[np.ndarray, " K"], steps: Int[np.ndarray, " K"], *, bounds: tuple[float, float] = MASS_BOUNDS
) -> int | None:
    """Step at which a modality's mass (or lift, with ``LIFT_BOUNDS``) left the bounds for good; None where it did not.

    An alarm, and no verdict: a modality may deserve no attention.
    """
    inside = np.flatnonzero((values >= bounds[0]) & (values <= bounds[1]))
    first = int(inside[-1]) + 1 if len(inside) else 0
    return int(steps[first]) if first < len(steps) else None


def _windows(states: np.ndarray) -> None:
    if len(states) < 2:
        raise Undefined("drift over time needs two windows")


def _mean_of(scores: np.ndarray, rows: np.ndarray, what: str) -> float:
    if not rows.any():
        raise Undefined(f"no clip {what}")
    return float(scores[rows].mean(dtype=np.float64))
