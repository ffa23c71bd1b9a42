"""What modalities are worth to performance: SHAPE, the ablation matrix, the perceptual score, valuation of clips.

Performance (accuracy, macro-F1 ...) of a trained model with only some modalities present, the rest made absent by a
fill that belongs to the number's name. "mu", modality confusion, is ``consistency.agreement.modality_confusion``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.diagnostics.contribution.shapley import coalitions, shapley
from avjax.diagnostics.measured import Undefined
from avjax.training.metrics import accuracy, confusion

Subset = frozenset[str]
Performance = Mapping[Subset, float]
"""Present modalities -> performance; the ablation matrix under one fill."""
Labels = Int[np.ndarray, " N"]

# Below this a denominator is what chance leaves of one, and the quotient says nothing.
LEAST = 0.01


def subsets(modalities: Sequence[str]) -> tuple[Subset, ...]:
    """All subsets of modalities, in the order of ``coalitions``."""
    kept = coalitions(len(modalities))
    return tuple(frozenset(m for m, there in zip(modalities, row, strict=True) if there) for row in kept)


def majority(true: Labels, classes: int, measure: Callable[[Int[np.ndarray, "K K"]], float] = accuracy) -> float:
    """Performance of always saying the most common class of these rows: what SHAPE and Z take for V(none).

    Args:
      measure: of a confusion matrix.
    """
    if not len(true):
        raise Undefined("no rows")
    return measure(confusion(np.full_like(true, np.bincount(true).argmax()), true, classes))


def commonest_right(true: Labels) -> Bool[np.ndarray, " N"]:
    """Which rows ``majority`` gets right: their mean over a draw of rows is its accuracy in a bootstrap.

    The class is chosen once, of all rows: a commonest class of each draw would be the greatest of several random
    counts, and the interval would lie above the value.
    """
    if not len(true):
        raise Undefined("no rows")
    return true == np.bincount(true).argmax()


def shape(performance: Performance, modalities: Sequence[str]) -> dict[str, float]:
    """phi_m = sum_{S without m} |S|! (|M| - |S| - 1)! / |M|! (V(S + m) - V(S))   (SHAPE, Hu, Li & Zhou, IJCAI 2022).

    In the performance's unit, in [-1, 1], no direction; the sum over m is V(M) - V(none). V(none) is ``majority``
    there; a model run without input gives another number, under another name. Pitfalls: of a data set and its labels;
    and of the fill, since zeros may be unlike anything that the model was trained on.
    """
    values = shapley(np.array([performance[subset] for subset in subsets(modalities)]))
    return dict(zip(modalities, values.tolist(), strict=True))


def cooperation(performance: Performance, modalities: Sequence[str]) -> float:
    """C = V(M) - V(none) - sum_m (V({m}) - V(none)), as restated by Wenderoth et al. (AAAI 2025).

    Above 0 synergy, below 0 redundancy: one modality is enough. In the performance's unit, no direction, null 0.
    """
    none, everything = performance[frozenset()], performance[frozenset(modalities)]
    return everything - none - sum(performance[frozenset((m,))] - none for m in modalities)


def denominator(performance: Performance, modalities: Sequence[str], norm: Literal["none", "range", "acc"]) -> float:
    """What SHAPE's numbers are divided by: 1, V(M) - V(none), or V(M). The choice is part of a number's name.

    Undefined below 0.01: a model that does not beat the majority has no share of its gain to give.
    """
    everything = performance[frozenset(modalities)]
    value = {"none": 1.0, "range": everything - performance[frozenset()], "acc": everything}[norm]
    if value < LEAST:
        raise Undefined(f"performance to share is {value:.4f}, below {LEAST}")
    return value


def necessity(performance: Performance, modalities: Sequence[str]) -> dict[str, float]:
    """N_m = V(M) - V(M without m): what is lost without m; in [-1, 1], 0 where the others replace it."""
    everything = frozenset(modalities)
    return {m: performance[everything] - performance[everything - {m}] for m in modalities}


def sufficiency(performance: Performance, modalities: Sequence[str]) -> dict[str, float]:
    """S_m = V({m}) - V(none): what m gives alone; in [-1, 1]."""
    return {m: performance[frozenset((m,))] - performance[frozenset()] for m in modalities}


def utilisation_gap(separate: Mapping[str, float], joint: Mapping[str, float]) -> dict[str, float]:
    """Accuracy of a model trained on m alone - that of the jointly trained model on m; above 0: m is under-used.

    U_m, the unimodal gap, where ``joint`` is the whole model given m only; the probe gap (Peng et al. 2022) where
    both are linear probes on the two encoders of m. In [-1, 1], lower is better.
    """
    return {m: separate[m] - joint[m] for m in separate}


def derangement(count: int, random: np.random.Generator) -> Int[np.ndarray, " N"]:
    """Uniform among the permutations that leave no row in its place."""
    if count < 2:
        raise Undefined("a single row has no other row to take a modality from")
    while True:
        # One permutation in e has no fixed point.
        order = random.permutation(count)
        if (order != np.arange(count)).all():
            return order


def within_class(true: Labels, random: np.random.Generator) -> Int[np.ndarray, " N"]:
    """``derangement`` in each class. It changes nothing where a modality says the class and nothing else."""
    order = np.empty(len(true), int)
    for k in np.unique(true):
        rows = np.flatnonzero(true == k)
        if len(rows) < 2:
            raise Undefined(f"class {k} has a single row: no other row of it to take a modality from")
        order[rows] = rows[derangement(len(rows), random)]
    return order


def across_classes(true: Labels, random: np.random.Generator) -> Int[np.ndarray, " N"]:
    """A random permutation in which every row gets a row of another class (not uniform among them).

    Rows sorted by class, shifted around by a random number of places between the largest class's size and the rest's.
    """
    largest = int(np.bincount(true).max(initial=0))
    if not 0 < 2 * largest <= len(true):
        raise Undefined("one class has more than half of the rows: not all can get a row of another class")
    shuffled = random.permutation(len(true))
    label = random.permutation(true.max() + 1)[true]
    rows = shuffled[np.argsort(label[shuffled], kind="stable")]
    order = np.empty(len(true), int)
    order[rows] = np.roll(rows, random.integers(largest, len(true) - largest + 1))
    return order


def perceptual_differences(right: Bool[np.ndarray, " N"], permuted: Bool[np.ndarray, "P N"]) -> Float[np.ndarray, " N"]:
    """1[f(x) right] - mean over permutations of 1[f(x with m of another row) right], of each row.

    In [-1, 1]; their mean over ``perceptual_norm`` is the perceptual score.
    """
    return right - permuted.mean(axis=0)


def perceptual_score(right: Bool[np.ndarray, " N"], permuted: Bool[np.ndarray, "P N"], *, z: float) -> float:
    """P_m = E_perm[Acc(f; x) - Acc(f; x_m permuted across rows)] / Z   (Gat, Schwartz & Schwing, NeurIPS 2021).

    At most 1 / Z, 0 for a modality that is ignored; no direction. Z is Acc(f), model-normalised, or 1 - ``majority``,
    task-normalised: it belongs to the number's name. Undefined where it is below 0.01. Pitfall: within a class a
    modality that only says the class has 0; rows of one source video are alike, and permute among themselves.

    Args:
      permuted: five ``derangement``s are usual.
    """
    if z < LEAST:
        raise Undefined(f"the score's Z is {z:.4f}, below {LEAST}")
    if not len(right):
        raise Undefined("no rows")
    return float(perceptual_differences(right, permuted).mean()) / z


def valuation(right: Bool[np.ndarray, "S N"]) -> Float[np.ndarray, "N n"]:
    """Shapley values of each row under v(S) = |S| 1[f(x_S) right] (Wei et al., CVPR 2024).

    Two modalities: phi_a = (v(a) + v(av) - v(v)) / 2, in [-0.5, 1.5]; no direction. Pitfall: being right with both
    counts twice as much as with one.

    Args:
      right: which rows are right with each of ``coalitions``; that of none does not count.
    """
    size = coalitions(len(right).bit_length() - 1).sum(axis=1)
    return shapley(size[:, None] * right)
