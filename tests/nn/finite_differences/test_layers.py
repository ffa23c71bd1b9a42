"""Gradients of layers, models of time, hierarchies, graphs and heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from avjax.nn import convolution, dense, graph, heads, hierarchy, localisation, pooling, segments, temporal, transformer
from avjax.nn.encoders import Conv1dEncoder, FrameConv
from avjax.nn.fusion import UnimodalLayer
from avjax.nn.gates import AttentionPool
from avjax.nn.stack import Stack, scanned
from avjax.streams import Batch, Stream
from tests.nn.finite_differences.derivative import (
    NAMES,
    ROWS,
    SIZE,
    STEPS,
    WIDTH,
    X,
    assert_gradients,
    function,
    module,
    normal,
    parameters,
    present,
    stream,
    there,
    tokens,
    valid,
)

KINDS = ("lstm", "gru", "rnn")
VECTORS = normal(ROWS, WIDTH)
VALUES = {"valence": 1, "arousal": 2}
AXES = (dense.EMBED, dense.HIDDEN)


def with_its_direction(layer, x):
    """No gradient flows into the direction of a power iteration; at its end none would."""
    _, _, right = jnp.linalg.svd(jax.lax.stop_gradient(layer.kernel[...]))
    layer.direction[...] = right[0]
    return layer(x)


def two_layers(rngs):
    blocks = [{m: transformer.Block(SIZE, rngs=rngs) for m in NAMES} for _ in range(2)]
    return Stack("layers", [UnimodalLayer(layer, NAMES) for layer in blocks])


def levels(rngs):
    return hierarchy.Hierarchy(
        [
            hierarchy.Level(AttentionPool(WIDTH, 3, rngs=rngs), group=2),
            hierarchy.Level(pooling.mean_pool, model=temporal.Recurrent(WIDTH, 2, rngs=rngs)),
        ]
    )


def level(rng):
    return X(rng), valid(rng)


def labels(rng):
    return jnp.asarray(rng.integers(0, 6, (ROWS, 4)))


def localiser(rngs):
    audio = Conv1dEncoder("audio", (6, 3))
    video = FrameConv("video", (3, 4, 4, 2), channels=(4,), cells=True)
    return localisation.LocalisationModel((audio, video), {"audio": 3, "video": 4}, 3, rngs=rngs)


def clips(rng):
    streams = {"audio": stream(rng, 6, 3), "video": stream(rng, 3, 4, 4, 2)}
    streams["audio"] = Stream(streams["audio"].values, streams["audio"].valid, streams["audio"].start, 2.0)
    return Batch(streams, {}, jnp.ones(ROWS), jnp.arange(ROWS))


CASES = {
    "dense": module(lambda rngs: dense.Dense(WIDTH, 3, axes=AXES, rngs=rngs), X),
    "dense, spectral": module(
        lambda rngs: dense.SpectralDense(WIDTH, 3, axes=AXES, rngs=rngs), X, call=with_its_direction
    ),
    "layer normalisation": module(lambda rngs: dense.layer_norm(WIDTH, rngs), X, also=(dense.layer_norm,)),
    "widened": function(dense.widened, X),
    "masked": function(convolution.masked, X, valid),
    "convolution": module(lambda rngs: convolution.Conv(WIDTH, 3, (3,), rngs=rngs), X),
    "batch normalisation": module(lambda rngs: convolution.BatchNorm(WIDTH, rngs=rngs), X, valid),
    "batch normalisation, evaluated": module(
        lambda rngs: convolution.BatchNorm(WIDTH, rngs=rngs), X, valid, evaluated=True
    ),
    "feed-forward": module(lambda rngs: transformer.FeedForward(SIZE, dropout=0.0, rngs=rngs), X),
    # The same draw at every call.
    "stochastic depth": module(lambda rngs: transformer.StochasticDepth(0.5, rescale=True, rngs=rngs), X),
    "attention of heads": module(lambda rngs: transformer.MultiHeadAttention(WIDTH, 2, rngs=rngs), X),
    "block": module(lambda rngs: transformer.Block(SIZE, rngs=rngs), X),
    "post-norm block": module(lambda rngs: transformer.PostNormBlock(SIZE, rngs=rngs), X),
    "stack": module(two_layers, tokens),
    "stack, scanned": module(
        two_layers, tokens, call=lambda layers, streams: scanned(list(layers), streams, None), also=(scanned,)
    ),
    "graph attention": module(lambda rngs: graph.GraphAttention(WIDTH, WIDTH, rngs=rngs), X, valid),
    "graph pool": module(lambda rngs: graph.GraphPool(WIDTH, rngs=rngs), X, valid),
    **{
        f"recurrent, {kind}": module(
            lambda rngs, kind=kind: temporal.Recurrent(WIDTH, 2, kind=kind, layers=2, rngs=rngs), X, valid
        )
        for kind in KINDS
    },
    "temporal convolution": module(
        lambda rngs: temporal.TemporalConvolution(WIDTH, WIDTH, dilations=(1, 2), rngs=rngs), X, valid
    ),
    "temporal convolution, both sides": module(
        lambda rngs: temporal.TemporalConvolution(WIDTH, 3, dilations=(1, 2), causal=False, rngs=rngs), X, valid
    ),
    "pyramid": module(lambda rngs: temporal.TemporalPyramid(SIZE, windows=(1, 3), rngs=rngs), X, valid),
    "temporal transformer": module(lambda rngs: temporal.TemporalTransformer(SIZE, STEPS, rngs=rngs), X, valid),
    "hierarchy": module(levels, X, valid),
    "progressive": module(
        lambda rngs: hierarchy.ProgressiveAttention(WIDTH, 2, 2, rngs=rngs), X, valid, lambda rng: [level(rng)] * 2
    ),
    "segments": function(segments.aligned, tokens, call=lambda streams: segments.aligned(streams, 3)),
    "mean_of_segments": function(localisation.mean_of_segments, tokens),
    "localisation": module(
        localiser,
        clips,
        call=lambda model, batch: model.segmented(model.encode(batch), None),
        evaluated=True,
    ),
    "classifier": module(lambda rngs: pooling.Classifier(WIDTH, {"a": 3, "b": 2}, rngs=rngs), VECTORS, quick=True),
    "regression": module(lambda rngs: heads.RegressionHead(WIDTH, VALUES, bounds=(1.0, 5.0), hidden=5, rngs=rngs), X),
    "regression, linear": module(lambda rngs: heads.RegressionHead(WIDTH, VALUES, rngs=rngs), VECTORS),
    "segments and events": module(lambda rngs: heads.SegmentHead(WIDTH, 3, rngs=rngs), X, valid),
    **{
        f"weak segments, {pool}": module(
            lambda rngs, pool=pool: heads.WeakSegmentHead(WIDTH, 3, pool=pool, rngs=rngs), X, valid
        )
        for pool in ("mean", "max")
    },
    "temporal classification": module(lambda rngs: heads.CTCHead(WIDTH, 3, rngs=rngs), X, valid),
    "decoder": module(
        lambda rngs: heads.AttentionDecoder(SIZE, 6, NAMES, length=4, rngs=rngs), labels, tokens, there(ROWS, 4)
    ),
    "matching": module(lambda rngs: heads.MatchingHead(), VECTORS, X),
    "heads by modality": module(
        lambda rngs: heads.PerModalityHeads(NAMES, WIDTH, {"class": 3}, shared=False, rngs=rngs),
        lambda rng: {m: VECTORS(rng) for m in NAMES},
        present,
    ),
}


@pytest.mark.parametrize("case", parameters(CASES))
def test_gradients(case, rng):
    assert_gradients(case, rng)
