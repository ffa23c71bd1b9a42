"""Fusion of decisions: from the logits of each modality to one set of logits.

Logits are modality -> [B, K] over exclusive classes, ``present`` is modality -> [B] bool. A missing modality has no
say, whatever its logits hold; a row without any modality gets zeros, as if all classes were equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.dense import CLASSES, HIDDEN, Dense, Initializer, widened
from avjax.nn.gates import softmax_over_valid

Logits = Mapping[str, Float[Array, "B K"]]
Present = Mapping[str, Bool[Array, " B"]]

Rule = Literal["average", "product", "max", "vote", "weighted", "stacking", "calibrated"]


class DecisionFusion(nnx.Module):
    """Combines the decisions of classifiers, p_m = softmax(l_m), over the modalities m that a row has.

    The fixed rules of Kittler et al. 1998 for equal priors, as log-probabilities:

        average     log mean_m p_m                                 sum rule
        product     log softmax_k(sum_m log p_m)                   product rule
        max         log of max_m p_m over its sum over classes     max rule
        vote        log of (votes_k + mean_m p_m) / (M + 1)        majority vote, M the number of modalities present

    A vote is for the most likely class of a modality, the first of several; the mean of the probabilities is less than
    a vote, so it only breaks ties (ours). And learned ones, of the logits:

        weighted    sum_m w_m l_m, w = softmax(u) over the modalities present
        stacking    W [l_1; ...; l_M] + b, a missing l_m being 0 (Wolpert 1992, with a linear second level)
        calibrated  sum_m (a_m l_m + b_m), one scale and K offsets a modality

    ``calibrated`` is the affine calibration and fusion of scores of Bruemmer and du Preez 2006: trained by
    cross-entropy on held-out logits it is logistic regression. Weighted and stacking start as the mean of the logits,
    calibrated as their sum.

    Args:
      kind: the rule.
      modalities: names and order.
      classes: K.
    """

    def __init__(self, kind: Rule, modalities: Sequence[str], classes: int, *, rngs: nnx.Rngs):
        self.kind = kind
        self.modalities = tuple(modalities)
        count = len(self.modalities)
        if kind in RULES and classes < 2:
            raise ValueError(f"the rule {kind} is over probabilities of two classes or more, not {classes}")
        if kind not in (*RULES, "weighted", "stacking", "calibrated"):
            raise ValueError(f"no rule {kind!r}; there are {', '.join(RULES)}, weighted, stacking, calibrated")
        self.weight = nnx.data(nnx.Param(jnp.zeros(count), axes=(None,)) if kind == "weighted" else None)
        stacking = kind == "stacking"
        self.stack = nnx.data(
            Dense(count * classes, classes, axes=(HIDDEN, CLASSES), kernel_init=_identities(count), rngs=rngs)
            if stacking
            else None
        )
        calibrated = kind == "calibrated"
        self.scale = nnx.data(nnx.Param(jnp.ones(count), axes=(None,)) if calibrated else None)
        self.offset = nnx.data(nnx.Param(jnp.zeros((count, classes)), axes=(None, CLASSES)) if calibrated else None)

    def __call__(self, logits: Logits, present: Present | None = None) -> Float[Array, "B K"]:
        stacked, there = _stacked(self.modalities, logits, present)
        if self.kind == "weighted":
            weight = jnp.broadcast_to(self.weight[...], (stacked.shape[1], len(self.modalities)))
            fused = jnp.einsum("bm,mbk->bk", softmax_over_valid(weight, there[..., 0].T), stacked, precision="highest")
        elif self.kind == "stacking":
            fused = self.stack(jnp.concatenate(list(stacked), axis=-1))
        elif self.kind == "calibrated":
            fused = jnp.where(there, self.scale[...][:, None, None] * stacked + self.offset[...][:, None], 0).sum(0)
        else:
            fused = RULES[self.kind](jax.nn.log_softmax(stacked), there)
        return jnp.where(there.any(0), fused, 0)


class LabelSpaceFusion(nnx.Module):
    """l = W vec(p_1 ⊗ ... ⊗ p_M) + b, p_m = softmax(l_m): classes of one modality meet classes of the others.

    Higher-order fusion at label space as in HALNet; the form is ours. W has K^M rows. A missing modality knows nothing,
    so its p_m is 1 / K for every class.

    Args:
      modalities: names and order.
      classes: K.
    """

    def __init__(self, modalities: Sequence[str], classes: int, *, rngs: nnx.Rngs):
        self.modalities = tuple(modalities)
        self.project = Dense(classes ** len(self.modalities), classes, axes=(HIDDEN, CLASSES), rngs=rngs)

    def __call__(self, logits: Logits, present: Present | None = None) -> Float[Array, "B K"]:
        stacked, there = _stacked(self.modalities, logits, present)
        # Logits of a missing modality are 0 here, of which the softmax is uniform.
        first, *others = jax.nn.softmax(stacked)
        for scores in others:
            first = (first[:, :, None] * scores[:, None, :]).reshape(first.shape[0], -1)
        return jnp.where(there.any(0), self.project(first), 0)


def average_rule(log_p: Float[Array, "M B K"], there: Bool[Array, "M B 1"]) -> Float[Array, "B K"]:
    """log mean_m p_m."""
    total = jax.nn.logsumexp(jnp.where(there, log_p, jnp.finfo(jnp.float32).min), axis=0)
    return total - jnp.log(_count(there))


def product_rule(log_p: Float[Array, "M B K"], there: Bool[Array, "M B 1"]) -> Float[Array, "B K"]:
    """log softmax_k(sum_m log p_m)."""
    return jax.nn.log_softmax(jnp.where(there, log_p, 0).sum(0))


def max_rule(log_p: Float[Array, "M B K"], there: Bool[Array, "M B 1"]) -> Float[Array, "B K"]:
    """log of max_m p_m, made a distribution."""
    return jax.nn.log_softmax(jnp.where(there, log_p, jnp.finfo(jnp.float32).min).max(0))


def vote_rule(log_p: Float[Array, "M B K"], there: Bool[Array, "M B 1"]) -> Float[Array, "B K"]:
    """log of (votes_k + mean_m p_m) / (M + 1)."""
    votes = (jax.nn.one_hot(log_p.argmax(-1), log_p.shape[-1]) * there).sum(0)
    mean = average_rule(log_p, there)
    # A class without a vote keeps the logarithm of its mean probability, however small that is.
    return jnp.where(votes > 0, jnp.log(jnp.maximum(votes, 1) + jnp.exp(mean)), mean) - jnp.log(_count(there) + 1)


RULES = {"average": average_rule, "product": product_rule, "max": max_rule, "vote": vote_rule}


def _stacked(modalities: Sequence[str], logits: Logits, present: Present | None) -> tuple[Array, Array]:
    """Logits [M, B, K] in float32, 0 where missing, and who is there [M, B, 1]."""
    stacked = widened(jnp.stack([logits[m] for m in modalities]))
    if present is None:
        there = jnp.ones((*stacked.shape[:2], 1), bool)
    else:
        there = jnp.stack([present[m] for m in modalities])[..., None]
    return jnp.where(there, stacked, 0), there


def _count(there: Array) -> Array:
    return jnp.maximum(there.astype(jnp.float32).sum(0), 1)


def _identities(count: int) -> Initializer:
    """[I; ...; I] / M: stacking starts as the mean."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jnp.tile(jnp.eye(shape[1], dtype=dtype), (count, 1)) / count

    return initialize
