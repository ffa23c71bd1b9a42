"""Gradients of blocks and losses against central differences in float64, along a random direction.

    <grad f(x), d> = (f(x + e d) - f(x - e d)) / 2e,   e = 1e-6

Rounding leaves about 1e-10 |f| and curvature 1e-12 of the quotient. What holds a float32 inside shows up as an error of
a tenth. Where a kink lies within e of x, once in some thousand runs of a block with a rectifier, the two may differ.
Spikes, gradients turned round and signs are no derivatives, and are not here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn import gates, graph, scoring, temporal
from avjax.nn.attention import attend, self_mask
from avjax.nn.convolution import BatchNorm, Conv
from avjax.nn.encoders import Conv1dEncoder
from avjax.nn.fusion import bilinear, crossmodal, events, joint, latents, layers, vectors
from avjax.nn.pooling import l2_normalise, last_pool, max_pool, mean_pool
from avjax.nn.transformer import Block, FeedForward, PostNormBlock, Size
from avjax.objectives import balance, contrastive, counterfactual, reconstruction, regression, sequence
from avjax.streams import Stream
from avjax.training.step import split_model
from tests.models import tiny

EPSILON = 1e-6
ROWS, STEPS, WIDTH = 3, 5, 4
SIZE = Size(WIDTH, 1, 2, 2)
TARGET = np.cos(np.arange(ROWS * STEPS * WIDTH)).reshape(ROWS, STEPS, WIDTH)
NAMES = ("audio", "video")
WIDTHS = dict.fromkeys(NAMES, WIDTH)


def valid(rng, *shape):
    there = rng.random(shape or (ROWS, STEPS)) < 0.7
    there[:, 0] = True
    return jnp.asarray(there)


def stream(rng, steps=STEPS, width=WIDTH, cells=()):
    values = jnp.asarray(rng.normal(size=(ROWS, steps, *cells, width)))
    return Stream(values, valid(rng, ROWS, steps), jnp.zeros(ROWS), 1.0)


def tokens(rng):
    return {"audio": stream(rng), "video": stream(rng)}


def normal(*shape):
    return lambda rng: jnp.asarray(rng.normal(size=shape))


def labels(rng):
    return jnp.asarray([0, 1, 1, 0, 2])


def positive(rng):
    return jnp.asarray(rng.uniform(0.5, 2, size=5))


def distribution(rng):
    return jnp.asarray(rng.dirichlet(np.ones(3), size=5))


def blocks(kind, rngs):
    return {m: kind(SIZE, rngs=rngs) for m in NAMES}


def pair(rng):
    return {m: jnp.asarray(rng.normal(size=(ROWS, width))) for m, width in zip(NAMES, (3, 5), strict=True)}


X = normal(ROWS, STEPS, WIDTH)
VECTOR = normal(5, WIDTH)
SCORES = normal(ROWS, STEPS)


def value(function, **options):
    """Of the Mean that a loss returns."""
    return lambda *arguments: function(*arguments, **options).value


def ones(*shape):
    return lambda rng: jnp.ones(shape)


# Name -> function, and what draws each of its arguments. Numbers are what it is differentiated by.
FUNCTIONS = {
    "attention": (lambda q, k, v, there: attend(q, k, v, self_mask(there)), [normal(ROWS, STEPS, 2, 2)] * 3 + [valid]),
    "sparsemax": (scoring.sparsemax, [SCORES, valid]),
    "entmax": (functools.partial(scoring.entmax, alpha=1.5), [SCORES, valid]),
    # A row with one score above 0 has weights that do not move.
    "relu_l1": (scoring.relu_l1, [lambda rng: SCORES(rng) + 1]),
    "max_pool": (max_pool, [X, valid]),
    "l2_normalise": (l2_normalise, [X]),
    "relative distance": (value(contrastive.relative_distance), [VECTOR, VECTOR, labels, ones(5)]),
    "concordance": (regression.concordance, [normal(5, 2), normal(5, 2), positive]),
    "mean_pool": (mean_pool, [X, valid]),
    "last_pool": (last_pool, [X, valid]),
    "tvmax": (functools.partial(scoring.tvmax, weight=0.2, iterations=2000), [SCORES, valid]),
    "ctc": (
        value(sequence.ctc),
        [normal(2, 6, 4), lambda rng: jnp.asarray([[1, 1, 2], [3, 0, 0]]), lambda rng: jnp.ones((2, 6), bool), ones(2)],
    ),
    "noise contrastive": (value(contrastive.info_nce), [VECTOR, VECTOR, ones(5)]),
    "alignment": (value(contrastive.supervised_alignment, temperature=0.5), [VECTOR, VECTOR, labels, ones(5)]),
    "triplet": (value(contrastive.triplet), [VECTOR, VECTOR, labels, ones(5)]),
    "diversity": (value(contrastive.diversity), [X, valid, ones(ROWS)]),
    "reconstruction": (
        lambda x, hidden: reconstruction.masked_reconstruction(x, jnp.asarray(TARGET), hidden, jnp.ones(ROWS)).value,
        [X, valid],
    ),
    "counterfactual": (
        lambda one, other, y: counterfactual.attention_effect(one, other, y, jnp.ones(5)).value,
        [normal(5, 3), normal(5, 3), distribution],
    ),
    "distance to prototypes": (lambda z: balance.prototype_logits(z, 2 * jnp.eye(3, 4), jnp.ones(3, bool)), [VECTOR]),
}

# Name -> what builds the module, and what draws each of its arguments.
MODULES = {
    "convolution": (lambda rngs: Conv(WIDTH, 3, (3,), rngs=rngs), [X]),
    "batch normalisation": (lambda rngs: BatchNorm(WIDTH, rngs=rngs), [X, valid]),
    "feed-forward": (lambda rngs: FeedForward(SIZE, dropout=0.0, rngs=rngs), [X]),
    "block": (lambda rngs: Block(SIZE, rngs=rngs), [X]),
    "post-norm block": (lambda rngs: PostNormBlock(SIZE, rngs=rngs), [X]),
    "dynamic gate": (lambda rngs: gates.DynamicGate(WIDTH, rngs=rngs), [X, X]),
    "graph attention": (lambda rngs: graph.GraphAttention(WIDTH, WIDTH, rngs=rngs), [X, valid]),
    "recurrent": (lambda rngs: temporal.Recurrent(WIDTH, 2, rngs=rngs), [X, valid]),
    "temporal convolution": (
        lambda rngs: temporal.TemporalConvolution(WIDTH, WIDTH, dilations=(1, 2), rngs=rngs),
        [X, valid],
    ),
    "pyramid": (lambda rngs: temporal.TemporalPyramid(SIZE, windows=(1, 3), rngs=rngs), [X, valid]),
    "bottleneck": (lambda rngs: layers.BottleneckFusion(blocks(Block, rngs), NAMES), [tokens, normal(ROWS, 2, WIDTH)]),
    "cross attention": (lambda rngs: layers.CrossAttentionFusion(blocks(Block, rngs), NAMES), [tokens]),
    "co-attention": (lambda rngs: crossmodal.CoAttentionFusion(blocks(PostNormBlock, rngs), NAMES), [tokens]),
    "parallel": (lambda rngs: crossmodal.ParallelCrossAttention(WIDTH, 2, NAMES, rngs=rngs), [tokens]),
    "joint": (lambda rngs: joint.JointCrossAttention(WIDTHS, STEPS, hidden=6, rngs=rngs), [tokens]),
    "recursive joint": (lambda rngs: joint.RecursiveJointAttention(WIDTHS, STEPS, rngs=rngs), [tokens]),
    "propagation": (lambda rngs: events.PositiveSamplePropagation(WIDTH, rngs=rngs), [tokens]),
    "dual residual": (lambda rngs: events.DualResidual(WIDTH, NAMES, hidden=5, rngs=rngs), [tokens]),
    "relation": (
        lambda rngs: events.CrossModalRelationAttention(SIZE, query="video", other="audio", rngs=rngs),
        [stream, stream],
    ),
    "resampler": (lambda rngs: latents.PerceiverResampler(SIZE, 3, rngs=rngs), [X, valid]),
    "concatenation": (lambda rngs: vectors.Concatenation(NAMES, (3, 5), 4, rngs=rngs), [pair]),
    "gated": (lambda rngs: vectors.GatedFusion(NAMES, (3, 5), 4, rngs=rngs), [pair]),
    "film": (lambda rngs: vectors.FiLMFusion(NAMES, (3, 5), 4, rngs=rngs), [pair]),
    "mmtm": (lambda rngs: vectors.MMTMFusion(NAMES, (3, 5), 4, rngs=rngs), [pair]),
    "low rank": (lambda rngs: bilinear.LowRankFusion(NAMES, (3, 5), 4, rank=2, rngs=rngs), [pair]),
    "tensor": (lambda rngs: bilinear.TensorFusion(NAMES, (3, 5), 4, rngs=rngs), [pair]),
    "factorised": (lambda rngs: bilinear.FactorisedBilinear(NAMES, (3, 5), 4, factors=2, rngs=rngs), [pair]),
    "conv1d encoder": (lambda rngs: Conv1dEncoder("audio", (STEPS, WIDTH), size=3).build(3, rngs=rngs), [stream]),
}

QUICK = ("attention", "sparsemax", "entmax", "relu_l1", "max_pool", "l2_normalise", "relative distance", "concordance")


def cases(found):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in found]


def assert_derivative(function, arguments, rng):
    """Of a sum of sines of the numbers that the function returns."""
    numbers, structure = jax.tree.flatten(arguments)
    own = [place for place, leaf in enumerate(numbers) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def total(given):
        filled = list(numbers)
        for place, leaf in zip(own, given, strict=True):
            filled[place] = leaf
        return _total(function(*structure.unflatten(filled)))

    at = [numbers[place] for place in own]
    direction = [jnp.asarray(rng.normal(size=leaf.shape)) for leaf in at]
    run = tiny.jit(jax.value_and_grad(total))
    above, below = (run([x + sign * EPSILON * d for x, d in zip(at, direction, strict=True)])[0] for sign in (1, -1))
    _, gradient = run(at)
    found = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
    scale = float(jnp.sqrt(sum((g**2).sum() for g in gradient)))
    assert scale > 0
    assert abs(found - float(above - below) / (2 * EPSILON)) < 1e-6 * (1 + scale + abs(float(above)))


def _as_float64(x):
    return jnp.asarray(np.asarray(x), jnp.float64) if x.dtype == jnp.float32 else x


def _total(result):
    streams = jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, Stream))
    parts = [x.values * x.valid[..., None] if isinstance(x, Stream) else x for x in streams]
    return sum(jnp.sin(x + 0.3).sum() for x in parts if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize("name", cases(FUNCTIONS))
def test_of_a_function(name, rng):
    function, draws = FUNCTIONS[name]
    with jax.enable_x64(True):
        assert_derivative(function, tuple(draw(rng) for draw in draws), rng)


@pytest.mark.parametrize("name", cases(MODULES))
def test_of_a_module(name, rng):
    build, draws = MODULES[name]
    graph, params, *rest = split_model(build(nnx.Rngs(0)))
    params = nnx.as_pure(tiny.randomise(params, rng))
    with jax.enable_x64(True):
        params, rest = jax.tree.map(_as_float64, (params, rest))

        def call(params, *arguments):
            return nnx.merge(graph, params, *rest, copy=True)(*arguments)

        assert_derivative(call, (params, *(draw(rng) for draw in draws)), rng)
