"""Gradients of the blocks in which modalities meet."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from avjax.nn import fusion
from avjax.nn.fusion import bilinear, crossmodal, decision, events, joint, latents, layers, vectors
from avjax.nn.fusion.directional import CrossModalTransformer
from avjax.nn.scoring import dense_shift
from avjax.nn.transformer import Block, MultiHeadAttention, PostNormBlock
from avjax.streams import Stream
from tests.nn.finite_differences.derivative import (
    NAMES,
    ROWS,
    SIZE,
    STEPS,
    WIDTH,
    WIDTHS,
    X,
    assert_gradients,
    function,
    module,
    normal,
    pair,
    parameters,
    present,
    stream,
    there,
    tokens,
    valid,
)

CELLS = 3
BOTTLENECK = normal(ROWS, 2, WIDTH)


def blocks(kind, rngs, names=NAMES):
    return {m: kind(SIZE, rngs=rngs) for m in names}


def cells(rng):
    """Of every segment, each there or not."""
    values = jnp.asarray(rng.normal(size=(ROWS, STEPS, CELLS, WIDTH)))
    return Stream(values, valid(rng, ROWS, STEPS, CELLS), jnp.zeros(ROWS), 1.0)


def logits(rng):
    return {m: jnp.asarray(rng.normal(size=(ROWS, 3))) for m in NAMES}


def log_probabilities(rng):
    return jnp.log(jnp.asarray(rng.dirichlet(jnp.ones(3), size=(2, ROWS))))


def trunks(rng):
    return {m: jnp.asarray(rng.normal(size=(ROWS, 2, width))) for m, width in zip(NAMES, (3, 5), strict=True)}


ANY = there(2, ROWS, 1)
OF_VECTORS = (NAMES, (3, 5), 4)
RULES = ("average", "product", "max", "vote", "weighted", "stacking", "calibrated")

CASES = {
    "bottleneck": module(lambda rngs: layers.BottleneckFusion(blocks(Block, rngs), NAMES), tokens, BOTTLENECK),
    "bottleneck, in turn": module(
        lambda rngs: layers.BottleneckFusion(blocks(Block, rngs), NAMES, sequential=True), tokens, BOTTLENECK
    ),
    "cross attention": module(lambda rngs: layers.CrossAttentionFusion(blocks(Block, rngs), NAMES), tokens),
    "merged": module(lambda rngs: layers.MergedFusion(Block(SIZE, rngs=rngs), NAMES), tokens),
    "unimodal": module(lambda rngs: layers.UnimodalLayer(blocks(Block, rngs), NAMES), tokens),
    "causal": module(lambda rngs: layers.CausalLayer(Block(SIZE, rngs=rngs), "audio"), tokens),
    "co-attention": module(lambda rngs: crossmodal.CoAttentionFusion(blocks(PostNormBlock, rngs), NAMES), tokens),
    "asymmetric": module(
        lambda rngs: crossmodal.AsymmetricFusion("video", blocks(Block, rngs), NAMES, causal=True), tokens
    ),
    "parallel": module(
        lambda rngs: crossmodal.ParallelCrossAttention(WIDTH, 2, NAMES, keys="union", post_norm=True, rngs=rngs), tokens
    ),
    "parallel, others": module(lambda rngs: crossmodal.ParallelCrossAttention(WIDTH, 2, NAMES, rngs=rngs), tokens),
    "relation": module(
        lambda rngs: MultiHeadAttention(WIDTH, 2, rngs=rngs),
        tokens,
        call=lambda attention, streams: crossmodal.relation(attention, "audio", crossmodal.cleaned(streams), NAMES),
        also=(crossmodal.relation, crossmodal.cleaned, crossmodal.keys_of),
    ),
    "directional": module(
        lambda rngs: CrossModalTransformer(SIZE, source="audio", target="video", rngs=rngs), stream, stream
    ),
    "joint": module(lambda rngs: joint.JointCrossAttention(WIDTHS, STEPS, hidden=6, rngs=rngs), tokens),
    "recursive joint": module(lambda rngs: joint.RecursiveJointAttention(WIDTHS, STEPS, rngs=rngs), tokens),
    "guided attention": module(
        lambda rngs: events.AudioGuidedAttention(WIDTH, WIDTH, hidden=6, attention=5, rngs=rngs), cells, stream
    ),
    "channels and cells": module(
        lambda rngs: events.SpatialChannelAttention(WIDTH, WIDTH, hidden=6, bottleneck=5, rngs=rngs), cells, stream
    ),
    "weighted_cells": function(fusion.events.weighted_cells, normal(ROWS, STEPS, CELLS), cells),
    "relation of modalities": module(
        lambda rngs: events.CrossModalRelationAttention(SIZE, query="video", other="audio", rngs=rngs),
        stream,
        stream,
    ),
    "relation of modalities, shifted": module(
        lambda rngs: events.CrossModalRelationAttention(
            SIZE, query="video", other="audio", scores=dense_shift, rngs=rngs
        ),
        stream,
        stream,
    ),
    "interaction": module(lambda rngs: events.AudioVisualInteraction(WIDTH, 2, NAMES, rngs=rngs), tokens),
    "propagation": module(lambda rngs: events.PositiveSamplePropagation(WIDTH, rngs=rngs), tokens),
    "dual residual": module(lambda rngs: events.DualResidual(WIDTH, NAMES, hidden=5, rngs=rngs), tokens),
    "adapter": module(
        lambda rngs: latents.LatentAdapter(WIDTH, latents=2, reduction=2, groups=2, rngs=rngs), X, X, valid, valid
    ),
    "resampler": module(lambda rngs: latents.PerceiverResampler(SIZE, 3, rngs=rngs), X, valid),
    "Q-Former": module(lambda rngs: latents.QFormer(SIZE, 3, rngs=rngs), X, valid),
    "Q-Former, causal": module(
        lambda rngs: latents.CausalQFormer(SIZE, 2, frames=4, window=2, rngs=rngs), normal(2, 8, WIDTH), there(2, 8)
    ),
    "concatenation": module(lambda rngs: vectors.Concatenation(*OF_VECTORS, rngs=rngs), pair, present),
    "sum": module(lambda rngs: vectors.Sum(*OF_VECTORS, rngs=rngs), pair, present),
    "mean": module(lambda rngs: vectors.Mean(*OF_VECTORS, rngs=rngs), pair, present),
    "gated": module(lambda rngs: vectors.GatedFusion(*OF_VECTORS, rngs=rngs), pair, present, quick=True),
    "film": module(lambda rngs: vectors.FiLM(3, WIDTH, rngs=rngs), X, normal(ROWS, 3), lambda rng: valid(rng)[:, 1]),
    "film of vectors": module(lambda rngs: vectors.FiLMFusion(*OF_VECTORS, rngs=rngs), pair, present),
    "mmtm": module(
        lambda rngs: vectors.MMTM(NAMES, (3, 5), rngs=rngs),
        lambda rng: {"audio": normal(ROWS, STEPS, 3)(rng), "video": normal(ROWS, 2, 2, 5)(rng)},
        lambda rng: {"audio": valid(rng), "video": valid(rng, ROWS, 2, 2)},
    ),
    "mmtm of vectors": module(lambda rngs: vectors.MMTMFusion(*OF_VECTORS, rngs=rngs), pair, present),
    "power_norm": function(bilinear.power_norm, X),
    "low rank": module(lambda rngs: bilinear.LowRankFusion(*OF_VECTORS, rank=2, rngs=rngs), pair, present),
    "tensor": module(lambda rngs: bilinear.TensorFusion(*OF_VECTORS, rngs=rngs), pair, present),
    "factorised": module(lambda rngs: bilinear.FactorisedBilinear(*OF_VECTORS, factors=2, rngs=rngs), pair, present),
    "adaptive": module(lambda rngs: bilinear.AdaptiveBilinear(*OF_VECTORS, factors=2, rngs=rngs), pair, present),
    "compact": module(lambda rngs: bilinear.CompactBilinear(*OF_VECTORS, rngs=rngs), pair, present),
    "two levels": module(
        lambda rngs: bilinear.MultiLevelFusion(
            bilinear.FactorisedBilinear(*OF_VECTORS, factors=2, rngs=rngs), vectors.Sum(*OF_VECTORS, rngs=rngs)
        ),
        pair,
        trunks,
    ),
    **{
        f"decisions, {rule}": module(
            lambda rngs, rule=rule: decision.DecisionFusion(rule, NAMES, 3, rngs=rngs), logits, present
        )
        for rule in RULES
    },
    "decisions, label space": module(lambda rngs: decision.LabelSpaceFusion(NAMES, 3, rngs=rngs), logits, present),
    **{f"{rule.__name__}": function(rule, log_probabilities, ANY) for rule in decision.RULES.values()},
}


@pytest.mark.parametrize("case", parameters(CASES))
def test_gradients(case, rng):
    assert_gradients(case, rng)
