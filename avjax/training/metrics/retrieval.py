"""Metrics of finding the right one among several."""

from __future__ import annotations

import numpy as np
from jaxtyping import Num


def identification_accuracy(scores: Num[np.ndarray, "N M"]) -> float:
    """1:M identification: share of queries whose own candidate, the first, scores above all others.

    A tie with c others counts as 1 / (1 + c), what guessing among them would give; 1 / M where all are alike.
    """
    best = scores.max(axis=1, keepdims=True)
    tied = (scores == best).sum(axis=1)
    return float(np.mean((scores[:, 0] == best[:, 0]) / tied)) if len(scores) else 0.0


def recall_at(similarity: Num[np.ndarray, "N M"], k: int) -> float:
    """R@k: share of queries i whose match, candidate i, is among the k of highest similarity.

    The match ranks behind all that tie with it, so that a constant similarity finds nothing.
    """
    own = np.diagonal(similarity)[:, None]
    ahead = (similarity[: len(own)] >= own).sum(axis=1) - 1
    return float((ahead < k).mean()) if len(own) else 0.0
