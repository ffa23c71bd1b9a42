"""Gradients of attention in its parts, of gates and of poolings."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import pytest

from avjax.nn import gates, pooling, scoring
from avjax.nn.attention import attend, self_mask
from avjax.nn.scoring import densities, normalizers
from tests.nn.finite_differences.derivative import (
    HEADS,
    NAMES,
    ROWS,
    SCORES,
    STEPS,
    WIDTH,
    X,
    assert_gradients,
    function,
    module,
    normal,
    parameters,
    positive,
    present,
    there,
    tokens,
    valid,
)

# [B, H, Nq, Nk].
TABLE = normal(ROWS, 2, 4, STEPS)
TABLE_VALID = there(ROWS, 1, 1, STEPS)


def covariance(rng):
    root = rng.normal(size=(STEPS, 2, 2))
    return jnp.asarray(root @ root.swapaxes(1, 2) + 0.5 * jnp.eye(2))


def attention(q, k, v, there, bias):
    return attend(q, k, v, self_mask(there), bias=bias)


def positive_weights(rng):
    return jnp.asarray(rng.dirichlet(jnp.ones(STEPS), size=(ROWS, 2, 4)))


MASKS = {
    "causal": lambda mask: mask.replace(causal=True),
    "window": lambda mask: mask.replace(window=1),
}


def close_scores(rng):
    """A row with one score far above the others has weights that do not move."""
    return SCORES(rng) / 3


CASES = {
    "attention": function(attend, HEADS, HEADS, HEADS, valid, normal(1, 2, STEPS, STEPS), call=attention, quick=True),
    **{
        f"attention, {name}": function(
            attend,
            *[HEADS] * 3,
            valid,
            call=lambda q, k, v, there, change=change: attend(q, k, v, change(self_mask(there))),
        )
        for name, change in MASKS.items()
    },
    "softmax": function(scoring.softmax, SCORES, valid),
    "sparsemax": function(scoring.sparsemax, close_scores, valid, quick=True),
    "entmax": function(
        scoring.entmax, close_scores, valid, call=functools.partial(scoring.entmax, alpha=1.5), quick=True
    ),
    "relu_l1": function(scoring.relu_l1, lambda rng: SCORES(rng) + 1, quick=True),
    "tanh": function(scoring.tanh, SCORES, valid),
    "identity": function(scoring.identity, SCORES, valid),
    "focal": function(scoring.focal, TABLE, TABLE_VALID),
    "focal, probability": function(
        scoring.focal, TABLE, TABLE_VALID, call=functools.partial(scoring.focal, relevance="probability")
    ),
    "tvmax": function(scoring.tvmax, SCORES, valid, call=functools.partial(scoring.tvmax, weight=0.2, iterations=2000)),
    "denoise": function(
        scoring.denoise,
        normal(ROWS, 6),
        there(ROWS, 6),
        positive(),
        call=lambda z, there, weight: scoring.denoise(z, there, weight=weight / 10, shape=(2, 3), iterations=2000),
    ),
    "visible": function(
        normalizers.visible,
        SCORES,
        valid,
        call=lambda z, there: normalizers.hide(*normalizers.visible(z, there), z.dtype),
        also=(normalizers.hide,),
    ),
    "attend_dense": function(scoring.attend_dense, HEADS, HEADS, HEADS, call=scoring.attend_dense),
    "attend_dense of cosines": function(
        scoring.attend_dense,
        *[HEADS] * 3,
        valid,
        normal(1, 1, STEPS, STEPS),
        call=lambda q, k, v, there, bias: scoring.attend_dense(
            q, k, v, scores=scoring.cosine, normalize=scoring.sparsemax, valid=there, bias=bias
        ),
    ),
    "residual_scores": function(scoring.residual_scores, *[HEADS] * 4),
    "attend_residual": function(scoring.attend_residual, *[HEADS] * 5),
    "scaled_dot": function(scoring.scaled_dot, HEADS, HEADS),
    "cosine": function(scoring.cosine, HEADS, HEADS),
    "dense_shift": function(scoring.dense_shift, HEADS, HEADS),
    "side_by_side": function(
        scoring.side_by_side, HEADS, HEADS, call=scoring.side_by_side(scoring.dense_shift, scoring.scaled_dot, at=2)
    ),
    "additive": module(lambda rngs: scoring.Additive(2, 2, 3, rngs=rngs), HEADS, HEADS),
    "bilinear scores": module(lambda rngs: scoring.Bilinear(2, 2, rngs=rngs), HEADS, HEADS),
    "shrinkage": module(lambda rngs: scoring.AdaptiveShrinkage(4, STEPS, scale=1.0, rngs=rngs), TABLE, TABLE_VALID),
    "shrinkage, hard": module(
        lambda rngs: scoring.AdaptiveShrinkage(4, STEPS, scale=1.0, soft=False, rngs=rngs), TABLE, TABLE_VALID
    ),
    "moments": function(densities.moments, positive(ROWS, STEPS), normal(STEPS, 2)),
    "log_normal": function(densities.log_normal, normal(STEPS, 2), covariance),
    "fit": function(
        densities.fit,
        positive(ROWS, STEPS),
        normal(STEPS, 2),
        normal(2, 2),
        call=functools.partial(densities.fit, iterations=2, variance=0.5),
    ),
    "single": function(densities.single, positive(ROWS, STEPS), normal(STEPS, 2)),
    "continuous attention": module(
        lambda rngs: scoring.ContinuousAttention(scoring.Basis((STEPS,), count=4, variance=0.05), rngs=rngs),
        positive_weights,
        HEADS,
        valid,
        also=(scoring.context,),
        evaluated=True,
    ),
    "continuous attention, two components": module(
        lambda rngs: scoring.ContinuousAttention(
            scoring.Basis((STEPS,), count=4, variance=0.05), components=2, starts=1, rngs=rngs
        ),
        positive_weights,
        HEADS,
        valid,
        also=(densities.shortest,),
        evaluated=True,
    ),
    "max_pool": function(pooling.max_pool, X, valid, quick=True),
    "mean_pool": function(pooling.mean_pool, X, valid),
    "last_pool": function(pooling.last_pool, X, valid),
    "l2_normalise": function(pooling.l2_normalise, X, quick=True),
    "mean_of_present": function(
        pooling.mean_of_present, lambda rng: {m: normal(ROWS, WIDTH)(rng) for m in NAMES}, present
    ),
    "average_logits": function(
        pooling.average_logits, lambda rng: {m: {"class": normal(ROWS, 3)(rng)} for m in NAMES}, present
    ),
    "softmax_over_valid": function(gates.softmax_over_valid, SCORES, valid),
    "instance_norm": function(gates.instance_norm, X, valid),
    "weighted_sum": function(gates.weighted_sum, SCORES, X),
    "channel attention": module(lambda rngs: gates.ChannelAttention(4, reduction=2, rngs=rngs), X, valid),
    "channel attention, maximum": module(
        lambda rngs: gates.ChannelAttention(4, reduction=2, maximum=True, rngs=rngs), X, valid
    ),
    "spatial attention": module(
        lambda rngs: gates.SpatialAttention(size=3, rngs=rngs), normal(2, 2, 3, 4, 3), there(2, 2, 3, 4)
    ),
    "attention pool": module(lambda rngs: gates.AttentionPool(WIDTH, 3, rngs=rngs), X, valid),
    "attention pool of modalities": module(
        lambda rngs: gates.ModalityAttentionPool(NAMES, WIDTH, 3, rngs=rngs), tokens
    ),
    # The sign is what it is on both sides of x.
    "signed gate": module(lambda rngs: gates.SignedGate(WIDTH, 3, rngs=rngs), SCORES, normal(ROWS, WIDTH)),
    "dynamic gate": module(lambda rngs: gates.DynamicGate(WIDTH, rngs=rngs), X, X),
    "dynamic gate, missing": module(lambda rngs: gates.DynamicGate(WIDTH, rngs=rngs), X, X, valid, valid),
    "modality mix": module(lambda rngs: gates.ModalityMix(WIDTH, reduction=2, rngs=rngs), X, X, X, valid),
}


@pytest.mark.parametrize("case", parameters(CASES))
def test_gradients(case, rng):
    assert_gradients(case, rng)
