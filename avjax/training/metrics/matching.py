"""Metrics of embeddings of two modalities that are to be near each other where they are of one identity."""

from __future__ import annotations

import statistics

import numpy as np
from jaxtyping import Float, Int

from avjax.training.metrics.estimate import Measure
from avjax.training.metrics.retrieval import identification_accuracy
from avjax.training.metrics.verification import d_prime, equal_error_rate, roc_auc

# Candidates of other identities that each clip is told from.
OTHERS = 9


def matching_measures(
    first: Float[np.ndarray, "N C"], second: Float[np.ndarray, "N C"], identity: Int[np.ndarray, " N"]
) -> dict[str, Measure]:
    """Of cosine similarities, resampled by clip.

    eer, auc and d_prime tell pairs of one clip from pairs with a clip of another identity, nine of which are drawn for
    each clip, the same every time. accuracy_1_of_2, _4 and _10 choose the own partner among those. recall_1, _5 and
    _10 find a partner of the same identity among those of all clips, by the first embedding.
    """
    similarity = _unit(first) @ _unit(second).T
    scores = np.take_along_axis(similarity, _candidates(identity), axis=1)
    same = identity[:, None] == identity[None]
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    # A partner ranks behind all others that tie with it.
    ahead = (~same & (similarity >= best)).sum(axis=1)
    return _candidate_measures(scores) | {f"recall_{k}": Measure.mean(ahead < k) for k in (1, 5, 10)}


def score_measures(scores: Float[np.ndarray, "N M"]) -> dict[str, Measure]:
    """The same of scores of clips with candidates: the own one first, -inf where there is none.

    Of each gallery the first candidates of other identities are those that pairs and choices are made with, nine where
    every clip has so many, else three, or one; recall_1, _5 and _10 find the own one in all of it.
    """
    scores = np.asarray(scores, np.float64)
    scores = scores[np.isfinite(scores[:, 0])]
    if not len(scores):
        return {}
    own, others = scores[:, :1], scores[:, 1:]
    there = np.isfinite(others)
    kept = next((number for number in (OTHERS, 3, 1) if number <= there.sum(axis=1).min()), 0)
    order = np.argsort(~there, axis=1, kind="stable")[:, :kept]
    ahead = (there & (others >= own)).sum(axis=1)
    found = _candidate_measures(np.concatenate([own, np.take_along_axis(others, order, axis=1)], axis=1))
    return found | {f"recall_{k}": Measure.mean(ahead < k) for k in (1, 5, 10)}


def _candidate_measures(scores: Float[np.ndarray, "N _"]) -> dict[str, Measure]:
    """eer, auc, d_prime and accuracies of scores with the own candidate, then with 9, 3, 1 or no others."""
    count, others = len(scores), scores.shape[1] - 1

    def of_pairs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return scores[rows].ravel(), np.tile(np.arange(others + 1) == 0, len(rows))

    measures = {
        "eer": Measure(lambda rows: equal_error_rate(*of_pairs(rows)), count),
        "auc": Measure(lambda rows: roc_auc(*of_pairs(rows)), count),
        "d_prime": Measure(lambda rows: _finite_d_prime(*of_pairs(rows)), count),
    }
    for number in (2, 4, 10):
        if others >= number - 1:
            # As many choices as the candidates make: nine of one other, three of three, one of nine.
            groups = np.split(scores[:, 1:], others // (number - 1), axis=1)
            choices = [np.concatenate([scores[:, :1], group], axis=1) for group in groups]
            measures[f"accuracy_1_of_{number}"] = Measure(
                lambda rows, c=choices: float(np.mean([identification_accuracy(each[rows]) for each in c])), count
            )
    return measures


def _candidates(identity: Int[np.ndarray, " N"]) -> Int[np.ndarray, "N _"]:
    """Of each clip itself, then clips of other identities; itself alone where there is no other identity."""
    random = np.random.default_rng(0)
    rows = []
    for row, own in enumerate(identity):
        others = np.flatnonzero(identity != own)
        if not len(others):
            return np.arange(len(identity))[:, None]
        rows.append([row, *random.choice(others, OTHERS, replace=len(others) < OTHERS)])
    return np.array(rows)


def _finite_d_prime(scores: np.ndarray, positive: np.ndarray) -> float:
    """d', where the order is perfect that of half a pair in the wrong one (Macmillan and Kaplan 1985)."""
    limit = np.sqrt(2) * statistics.NormalDist().inv_cdf(1 - 0.5 / max(int(positive.sum() * (~positive).sum()), 2))
    return float(np.clip(d_prime(scores, positive), -limit, limit))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
