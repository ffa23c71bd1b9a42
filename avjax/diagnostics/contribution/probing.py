"""Linear probes: how much of the label can be read off a representation by a linear function of it (1.10).

Alain & Bengio, "Understanding intermediate layers using linear classifier probes", ICLR 2017 workshop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int, Num

from avjax.diagnostics.consistency.calibration import log_probabilities
from avjax.diagnostics.measured import Undefined

FOLDS = 5
EXACT = {"maxiter": 10_000, "ftol": 1e-15, "gtol": 1e-9}


def probe_hits(
    features: Num[np.ndarray, "N C"],
    label: Int[np.ndarray, " N"],
    source: Sequence[str],
    *,
    folds: int = FOLDS,
    decay: float = 1.0,
    seed: int = 0,
) -> Bool[np.ndarray, " N"]:
    """Which rows a linear probe gets right that was fitted to the rows of other videos.

    Videos are divided at random into ``folds`` parts of as many each as can be, and each part is told by a probe of the
    others. Features are taken relative to mean and deviation of the rows that a probe is fitted to.

    Args:
      source: video of each row.
      decay: of the probe, as in ``linear_probe``.
      seed: of the division.

    Raises:
      Undefined: where all rows are of one video: a probe would be fitted to what it is asked.
    """
    names, video = np.unique(np.array(source), return_inverse=True)
    if len(names) < 2:
        raise Undefined("a linear probe is fitted to other videos than it is asked about, and there is one")
    rows = np.asarray(features, np.float64)
    part = (np.random.default_rng(seed).permutation(len(names)) % min(folds, len(names)))[video]
    right = np.zeros(len(rows), bool)
    for fold in np.unique(part):
        asked = part == fold
        mean, deviation = rows[~asked].mean(axis=0), rows[~asked].std(axis=0)
        # A feature that is the same in all rows says nothing.
        scaled = (rows - mean) / np.where(deviation > 0, deviation, 1.0)
        classes, known = np.unique(label[~asked], return_inverse=True)
        weights, bias = linear_probe(scaled[~asked], known, len(classes), decay=decay)
        right[asked] = classes[(scaled[asked] @ weights + bias).argmax(axis=1)] == label[asked]
    return right


def linear_probe(
    features: Float[np.ndarray, "N C"], label: Int[np.ndarray, " N"], classes: int, *, decay: float = 1.0
) -> tuple[Float[np.ndarray, "C K"], Float[np.ndarray, " K"]]:
    """W, b of min sum_i -log softmax(x_i W + b)[y_i] + decay / 2 ||W||^2, multinomial logistic regression."""
    count, width = features.shape
    true = np.eye(classes)[label]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[:-classes].reshape(width, classes), flat[-classes:]
        logits = features @ weights + bias
        told = log_probabilities(logits)
        error, value = np.exp(told) - true, -told[np.arange(count), label].sum()
        slope = np.concatenate([(features.T @ error + decay * weights).ravel(), error.sum(axis=0)])
        return (value + decay / 2 * (weights**2).sum()) / count, slope / count

    start = np.zeros((width + 1) * classes)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=EXACT)
    return found.x[:-classes].reshape(width, classes), found.x[-classes:]
