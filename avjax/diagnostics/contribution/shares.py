"""Shares of modalities in attention and in any attribution to tokens.

Four estimators of one layer's attention, in order of what they see: mass (weights), value-weighted mass (and how long
the values are), output share (and which way they point), and lift (mass beyond what the number of tokens gives). They
are to be shown side by side: where they disagree, attention mass does not say what the layer takes.

Groups are named one a token; the groups' order is the caller's ``names``. The functions keep leading axes (sample,
layer, head), so that a mean over samples or quantiles over heads are the caller's last step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num

from avjax.diagnostics.measured import Undefined

HEAD_QUANTILES = (0.05, 0.5, 0.95)


def members(groups: Sequence[str], names: Sequence[str]) -> Bool[np.ndarray, "G N"]:
    """Which tokens belong to each name; every token to one."""
    if set(groups) - set(names) or len(set(names)) < len(names):
        raise ValueError(f"groups {sorted(set(groups))} are not all among the different names {tuple(names)}")
    return np.asarray(names)[:, None] == np.asarray(groups)


def group_sums(
    values: Num[np.ndarray, "*rows N"], groups: Sequence[str], names: Sequence[str]
) -> Float[np.ndarray, "*rows G"]:
    """sum_{j in g} x_j: of attention weights the mass m_ig, of a signed attribution the net effect of each group."""
    return values @ members(groups, names).T.astype(np.float64)


def share(amounts: Num[np.ndarray, "*rows G"], *, resolution: float = 0.0) -> Float[np.ndarray, "*rows G"]:
    """x_g / sum_g' x_g' of amounts that are not negative: in [0, 1], sums to 1, no direction.

    Undefined where a row's total is not above ``resolution``, the size of what may be rounding.
    """
    amounts = np.asarray(amounts, np.float64)
    total = amounts.sum(axis=-1, keepdims=True)
    none = int((total <= resolution).sum())
    if none:
        raise Undefined(f"{none} of {total.size} rows have nothing to share among {amounts.shape[-1]} groups")
    return amounts / total


def magnitude_share(
    attribution: Num[np.ndarray, "*rows N"], groups: Sequence[str], names: Sequence[str], *, resolution: float = 0.0
) -> Float[np.ndarray, "*rows G"]:
    """sum_{j in g} |phi_j| / sum_j |phi_j| of Shapley values (MM-SHAP), integrated gradients or relevances.

    In [0, 1], sums to 1, no direction. Pitfalls: noise in the attribution is counted, so that the group with more
    tokens gains; tokens that cancel look important. ``group_sums``, the net effect, belongs beside it.
    """
    return share(group_sums(np.abs(attribution), groups, names), resolution=resolution)


def attention_share(
    mass: Float[np.ndarray, "*rows Q G"], queries: Bool[np.ndarray, "*rows Q"]
) -> Float[np.ndarray, "*rows G"]:
    """AMS[G -> g] = mean over i in G of m_ig,   m_ig = sum_{j in g} P_ij   (attention mass share).

    In [0, 1], sums to 1, no direction. Pitfalls: the number of tokens dominates it (``lift`` belongs beside it); sinks
    (class token, bottlenecks) soak mass up and need a group of their own; it sees neither sign nor length of values;
    through bottlenecks the mass between modalities is 0 by construction.

    Args:
      mass: of each query; the attention kernel's statistic "mass", or ``group_sums`` of weights.
      queries: the valid queries of the group that looks.
    """
    count = queries.sum(axis=-1)[..., None]
    if not count.all():
        raise Undefined(f"{int((count == 0).sum())} of {count.size} rows have no query in the group that looks")
    return np.where(queries[..., None], mass, 0).sum(axis=-2, dtype=np.float64) / count


def lift(shares: Float[np.ndarray, "*rows G"], tokens: Num[np.ndarray, "*#rows G"]) -> Float[np.ndarray, "*rows G"]:
    """LIFT_g = log(AMS_g / (1 - AMS_g)) - log(N_g / (N - N_g)), ours: attention beyond what uniform weights give.

    0 for uniform attention, above 0 more than that; in nats, unbounded, no direction; null baseline 0. Undefined where
    a group has all the attention or none, or all the tokens or none. Pitfall: a mean of lifts is not the lift of a
    mean; the lift of the mean share is the one to show.

    Args:
      tokens: N_g, the valid keys of each group.
    """
    shares, tokens = np.asarray(shares, np.float64), np.asarray(tokens, np.float64)
    if (shares <= 0).any() or (shares >= 1).any():
        raise Undefined("a group has all the attention or none: its odds are infinite")
    return np.log(shares / (1 - shares)) - np.log(_fraction(tokens) / (1 - _fraction(tokens)))


def efficiency(
    shares: Float[np.ndarray, "*rows G"], tokens: Num[np.ndarray, "*#rows G"]
) -> Float[np.ndarray, "*rows G"]:
    """EFF_g = AMS_g / (N_g / N), ours: mass of a token of g over that of a token under uniform attention.

    In [0, N / N_g], no direction, null baseline 1.
    """
    return shares / _fraction(np.asarray(tokens, np.float64), all_of_it=True)


def value_norms(
    values: Float[np.ndarray, "*rows H N D"], kernel: Float[np.ndarray, "H D C"]
) -> Float[np.ndarray, "*rows H N"]:
    """||V_j W_O,h||_2, how far value j can move the output through head h's part of the output projection."""
    return np.linalg.norm(np.asarray(values, np.float64) @ kernel, axis=-1)


def value_weighted_share(
    weights: Float[np.ndarray, "*rows Q N"],
    norms: Float[np.ndarray, "*rows N"],
    groups: Sequence[str],
    names: Sequence[str],
) -> Float[np.ndarray, "*rows Q G"]:
    """AMS^V_ig = sum_{j in g} w_ij / sum_j w_ij,   w_ij = P_ij ||V_j W_O,h||_2   (norms: Kobayashi et al. 2020).

    In [0, 1], sums to 1, no direction. Pitfall: values that cancel within a group still count.

    Args:
      norms: ``value_norms``.
    """
    return share(group_sums(weights * norms[..., None, :].astype(np.float64), groups, names))


def output_parts(
    weights: Float[np.ndarray, "*rows Q N"],
    values: Float[np.ndarray, "*rows N C"],
    groups: Sequence[str],
    names: Sequence[str],
) -> Float[np.ndarray, "*rows Q G C"]:
    """O_ig = sum_{j in g} P_ij V_j, of which the sum over g is the output of the attention."""
    inside = members(groups, names)[:, None, :]
    parts = np.where(inside, weights[..., None, :, :], 0) @ np.asarray(values, np.float64)[..., None, :, :]
    return np.moveaxis(parts, -3, -2)


def output_share(parts: Float[np.ndarray, "*rows G C"]) -> Float[np.ndarray, "*rows G"]:
    """share_g = <O_ig, O_i> / ||O_i||^2,   O_i = sum_g O_ig; ours, and the one recommended of the four.

    Sums to 1; unbounded: negative where g opposes the update, whose length it then has to be weighed against. No
    direction. Undefined where the output is 0. Pitfall: large where parts nearly cancel.
    """
    parts = np.asarray(parts, np.float64)
    output = parts.sum(axis=-2, keepdims=True)
    square = (output**2).sum(axis=-1)
    if not square.all():
        raise Undefined(f"{int((square == 0).sum())} of {square.size} rows have an output of 0, which has no shares")
    return (parts * output).sum(axis=-1) / square


def over_heads(shares: Float[np.ndarray, "*rows H G"]) -> dict[str, Float[np.ndarray, "*rows G"]]:
    """Mean over heads with the quantiles 5, 50 and 95 %: a mean of 0.5 may be half the heads at 0 and half at 1."""
    return {"mean": shares.mean(axis=-2), **{quantile(q): np.quantile(shares, q, axis=-2) for q in HEAD_QUANTILES}}


def quantile(share: float) -> str:
    """Its name in ``over_heads``."""
    return f"q{round(100 * share):02d}"


def _fraction(tokens: np.ndarray, *, all_of_it: bool = False) -> np.ndarray:
    fraction = tokens / tokens.sum(axis=-1, keepdims=True).clip(1)
    if (fraction <= 0).any() or (not all_of_it and (fraction >= 1).any()):
        raise Undefined("a group has all the tokens or none: there is nothing to compare its attention with")
    return fraction
