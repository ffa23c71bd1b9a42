"""What modalities say only together: InterSHAP's share of interactions, EMAP's additive projection.

Both compare a model with the sum of what it says of each modality; they agree in what that is. Where a modality is
made absent by averaging over those of all samples (the fill "marginal"), the interaction of two modalities at a
sample is what EMAP takes away from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Num

from avjax.diagnostics.contribution.shapley import coalitions, players_of, shapley
from avjax.diagnostics.measured import Undefined


def interactions(values: Num[np.ndarray, "S *rows"]) -> Float[np.ndarray, "*rows n n"]:
    """Shapley interaction values of a table of all coalitions, each pair's divided between its two entries.

        phi_ij = sum_{S without i, j} |S|! (n - |S| - 2)! / (2 (n - 1)!) (v(S + ij) - v(S + i) - v(S + j) + v(S))
        phi_ii = phi_i - sum_{j != i} phi_ij

    In the value's unit; symmetric; row i sums to the Shapley value phi_i and all to v(all) - v(none). Two players:
    phi_ij = (v(ij) - v(i) - v(j) + v(none)) / 2.

    Args:
      values: in the order of ``coalitions``.
    """
    values, players = np.asarray(values, np.float64), players_of(values)
    kept, index = coalitions(players), np.arange(2**players)
    found = np.zeros((*values.shape[1:], players, players))
    # |S|! (n - |S| - 2)! / (2 (n - 1)!) = 1 / (2 (n - 1) C(n - 2, |S|)).
    weight = np.array([1 / (2 * (players - 1) * math.comb(players - 2, size)) for size in range(players - 1)])
    for i in range(players):
        for j in range(i):
            without = index[~kept[:, i] & ~kept[:, j]]
            one, other = without | 1 << i, without | 1 << j
            surplus = values[one | other] - values[one] - values[other] + values[without]
            pair = np.tensordot(weight[kept[without].sum(axis=1)], surplus, 1)
            found[..., i, j] = found[..., j, i] = pair
    own = np.arange(players)
    found[..., own, own] = shapley(values) - found.sum(axis=-1)
    return found


def intershap(values: Num[np.ndarray, "S N"], *, local: bool) -> float:
    """sum_{i != j} Phi_ij / sum_ij Phi_ij of whole modalities   (InterSHAP, Wenderoth et al., AAAI 2025).

    Phi_ij = |mean over samples of phi_ij|, or with ``local`` mean over samples of |phi_ij|; phi of ``interactions``.
    In [0, 1], 0 for an additive model, 1 for pure interaction, no direction. Undefined where all effects are 0.
    Pitfalls: needs no label, and so says nothing of whether interactions help; averages of probabilities are additive
    where averages of logits are, but their softmax is not; effects that change sign over samples cancel in the global
    version.

    Args:
      values: v(S) of each sample, such as p_c with absent modalities replaced by those of other samples.
    """
    phi = interactions(values)
    size = np.abs(phi).mean(axis=0) if local else np.abs(phi.mean(axis=0))
    return share_between(size, rounding(values))


def share_between(size: Float[np.ndarray, "M M"], resolution: float) -> float:
    """``intershap`` of the sizes Phi; Undefined where all of them together are not above ``resolution``."""
    total = size.sum()
    if total <= resolution:
        raise Undefined("no coalition changes the value: there are no effects to share")
    return float((total - np.trace(size)) / total)


def rounding(values: Num[np.ndarray, "S N"]) -> float:
    """What values in float32 have by rounding, which is no effect."""
    return float(np.finfo(np.float32).eps * len(values) * np.abs(values).max(initial=0))


def additive(values: Num[np.ndarray, "A V *K"]) -> Float[np.ndarray, "A V *K"]:
    """fhat(a_i, v_j) = mean_j f(a_i, v_j) + mean_i f(a_i, v_j) - mean_ij f(a_i, v_j)   (Hessel & Lee, EMNLP 2020).

    Of all sums g(a) + h(v) the one nearest to f over the product of all a and all v; f itself where f is such a sum.
    f - fhat has mean 0 along each axis.
    """
    values = np.asarray(values, np.float64)
    both = values.mean(axis=(0, 1))
    return values.mean(axis=1)[:, None] + values.mean(axis=0)[None] - both


def emap(logits: Num[np.ndarray, "N N K"]) -> Float[np.ndarray, "N K"]:
    """fhat(a_i, v_i) of ``additive``, for the N samples themselves, in float64.

    Args:
      logits: f(a_i, v_j) of every audio with every video of the same N samples. Logits, not probabilities, which are
        not additive for late fusion.
    """
    whole = logits.mean(axis=(0, 1), dtype=np.float64)
    return logits.mean(axis=1, dtype=np.float64) + logits.mean(axis=0, dtype=np.float64) - whole


def emap_gap(logits: Num[np.ndarray, "N N K"], measure: Callable[[Float[np.ndarray, "N K"]], float]) -> float:
    """measure(f) - measure(fhat) of ``emap``: performance that is owed to interactions.

    In the measure's unit; 0 where the model behaves additively on these samples (exactly so for late fusion of
    logits), below 0 where interactions hurt; no direction. Pitfalls: needs N^2 runs of the fusion, so that N is a
    subsample (500 is usual) that belongs to the number; of the data as much as of the model.
    """
    own = np.arange(len(logits))
    return measure(logits[own, own].astype(np.float64)) - measure(emap(logits))
