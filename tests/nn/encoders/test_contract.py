"""What every encoder owes a model: shapes, times, what is valid, and nothing of what is not."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.encoders import (
    Conv1dEncoder,
    EfficientFace,
    Encoder,
    FrameConv,
    Patches,
    Precomputed,
    ResNet,
    ResNet3D,
    SpectrogramConv,
    SpikingPatches,
    VGGish,
    resnet,
)
from avjax.streams import Stream
from tests.models import tiny
from tests.nn.encoders.drawn import drawn, evaluating

WIDTH, ROWS = 6, 3

# Configuration, time steps a token, tokens a time step.
CONFIGS = {
    "patches": (Patches("any", (6, 4), (2, 2)), 2, 2),
    "resnet-frames": (ResNet("any", (3, 9, 8, 3), channels=2, stem="small"), 1, 1),
    "resnet-frames-cells": (ResNet("any", (2, 40, 33, 1), channels=1, cells=True), 1, 4),
    "resnet-spectrogram": (ResNet("any", (21, 9), channels=2, stem="small"), 8, 1),
    "resnet-spectrogram-cells": (ResNet("any", (40, 33), channels=1, cells=True), 32, 2),
    "resnet-50": (ResNet("any", (2, 9, 8, 1), depth=50, channels=1, stem="small"), 1, 1),
    "resnet-3d": (ResNet3D("any", (11, 9, 8, 2), channels=1, stem="small"), 8, 1),
    "resnet-2+1d": (ResNet3D("any", (9, 20, 9, 2), channels=2, factorised=True, cells=True), 8, 2),
    "resnet-3d-50": (ResNet3D("any", (9, 5, 4, 1), depth=50, channels=1, stem="small"), 8, 1),
    "vggish": (VGGish("any", (32, 12), patch=16, channels=2, hidden=5, embedding=4), 16, 1),
    "vggish-map": (VGGish("any", (32, 12), patch=16, conv_map=True, channels=1), 16, 4),
    "projection": (Conv1dEncoder("any", (9, 5), size=5), 1, 1),
    "mfcc": (Conv1dEncoder("any", (9, 5), channels=(4, 3), pool=2), 1, 1),
    "mfcc-strided": (Conv1dEncoder("any", (9, 5), channels=(4, 3), pool=2, pool_stride=2, normalise=False), 4, 1),
    "frame-conv": (FrameConv("any", (3, 5, 8, 3), channels=(4, 3)), 1, 1),
    "frame-conv-strided": (FrameConv("any", (3, 9, 8, 3), channels=(4, 3), stride=2), 1, 1),
    "frame-conv-cells": (FrameConv("any", (3, 5, 8, 3), channels=(4, 3), cells=True), 1, 4),
    "spectrogram-conv": (SpectrogramConv("any", (8, 7), channels=(4, 3), step=3), 3, 1),
    "spectrogram-cells": (SpectrogramConv("any", (8, 7), channels=(4, 3), cells=True), 4, 2),
    "efficient-face": (EfficientFace("any", (2, 32, 16, 3), channels=(2, 4, 8, 6, 5), repeats=(2, 1, 2)), 1, 1),
    "spiking": (SpikingPatches("any", (3, 4, 6, 2), depth=1), 1, 6),
    "precomputed": (Precomputed("any", (5, 4)), 1, 1),
    "precomputed-layer": (Precomputed("any", (5, 4), norm="layer"), 1, 1),
    "precomputed-cells": (Precomputed("any", (3, 2, 3, 4), norm="batch"), 1, 6),
}


# The same code as others above and below them, at length; and what differs little from those.
SLOW = {"resnet-spectrogram", "resnet-50", "resnet-3d", "resnet-2+1d", "efficient-face"}
LONG = {
    "resnet-frames-cells", "resnet-spectrogram-cells", "resnet-3d-50", "vggish-map", "mfcc-strided",
    "spectrogram-cells",
}  # fmt: skip
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.long if name in LONG else ())
    for name in CONFIGS
]


@pytest.fixture(autouse=True)
def one_block_a_stage(monkeypatch):
    """Most of these tests' time is XLA's; test_numerics.py has the whole depth."""
    monkeypatch.setattr(resnet, "STAGES", {18: (1, 1, 1, 1), 50: (1, 1, 1, 1)})


def streams(rng, config, fill=np.nan):
    """Row 0 whole, row 1 absent, the first step of row 2 missing, and any others of it; the same times in all."""
    valid = np.ones((ROWS, config.shape[0]), bool)
    valid[1] = False
    valid[2] = rng.random(config.shape[0]) < 0.5
    valid[2, 0], valid[2, -1] = False, True
    values = rng.normal(size=(ROWS, *config.shape)).astype(np.float32)
    values[~valid] = fill
    start = jnp.arange(ROWS, dtype=jnp.float32)
    return Stream(jnp.asarray(values), jnp.asarray(valid), start, 10.0)


def training(name, rng):
    """Parameters and buffers, and a step in training: gradients of parameters and features, tokens, new buffers."""
    config, _, _ = CONFIGS[name]
    graph, params, rest = nnx.split(drawn(lambda rngs: config.build(WIDTH, rngs=rngs), rng), nnx.Param, ...)

    def loss(params, values, rest, stream, weight):
        model = nnx.merge(graph, params, rest, copy=True)
        tokens = model(stream.replace(values=values))
        return (tokens.values * weight).sum(), (tokens, nnx.state(model, nnx.BatchStat))

    return params, rest, tiny.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("name", CASES)
def test_shapes_times_and_gaps(rng, name):
    config, steps, cells = CONFIGS[name]
    assert isinstance(config, Encoder)
    assert config.tokens == math.ceil(config.shape[0] / steps) * cells
    params, rest, step = training(name, rng)
    stream = streams(rng, config)
    weight = jnp.asarray(rng.normal(size=(ROWS, config.tokens, WIDTH)), jnp.float32)
    # The tokens of patches keep what is not valid, and models mask it; the others' are 0 there.
    clean = name == "patches"
    if clean:
        stream = streams(rng, config, fill=1.0)
    gradients, (tokens, stats) = step(params, stream.values, rest, stream, weight)

    assert tokens.values.shape == (ROWS, config.tokens, WIDTH)
    assert tokens.rate == pytest.approx(10.0 / steps * cells)
    np.testing.assert_array_equal(tokens.start, stream.start)
    want = [[row[t : t + steps].any() for t in range(0, row.size, steps)] for row in np.asarray(stream.valid)]
    np.testing.assert_array_equal(tokens.valid, np.repeat(want, cells, axis=1))
    if clean:
        return

    values, valid = np.asarray(tokens.values), np.asarray(tokens.valid)
    assert np.isfinite(values).all()
    assert (values[~valid] == 0).all()
    assert np.abs(values[valid]).max() > 0
    for leaf in jax.tree.leaves((gradients, stats)):
        assert np.isfinite(leaf).all()
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[0]))
    assert (np.asarray(gradients[1])[~np.asarray(stream.valid)] == 0).all()

    other = stream.replace(values=jnp.where(jnp.isnan(stream.values), 1e3, stream.values))
    gradients_2, (tokens_2, stats_2) = step(params, other.values, rest, other, weight)
    for one, two in zip(
        jax.tree.leaves((gradients, tokens, stats)), jax.tree.leaves((gradients_2, tokens_2, stats_2)), strict=True
    ):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", [case for case in CASES if case.values != ("patches",)])
def test_rows_are_each_others_neighbours_in_training_alone(rng, name):
    """In evaluation a row's tokens do not depend on the rest of the batch."""
    config, _, _ = CONFIGS[name]
    graph, state = nnx.split(evaluating(drawn(lambda rngs: config.build(WIDTH, rngs=rngs), rng)))
    forward = tiny.jit(lambda state, stream: nnx.merge(graph, state, copy=True)(stream))
    one, two = streams(rng, config), streams(rng, config)
    row = jnp.arange(ROWS) == 2
    mixed = one.replace(
        values=jnp.where(row.reshape(-1, *[1] * len(config.shape)), one.values, two.values),
        valid=jnp.where(row[:, None], one.valid, False),
    )
    alone, among = forward(state, mixed), forward(state, one)
    np.testing.assert_array_equal(alone.valid[2], among.valid[2])
    np.testing.assert_array_equal(alone.values[2], among.values[2])
    assert np.isfinite(np.asarray(alone.values)).all()


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_stays(name):
    config, _, _ = CONFIGS[name]

    def tokens(stream):
        model = config.build(WIDTH, rngs=nnx.Rngs(0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
        return nnx.merge(graph, params, rest, copy=True)(stream)

    values = jax.ShapeDtypeStruct((ROWS, *config.shape), jnp.bfloat16)
    valid = jax.ShapeDtypeStruct((ROWS, config.shape[0]), jnp.bool_)
    start = jax.ShapeDtypeStruct((ROWS,), jnp.float32)
    made = jax.eval_shape(tokens, Stream(values, valid, start, 10.0))
    assert made.values.dtype == jnp.bfloat16
    assert made.values.shape == (ROWS, config.tokens, WIDTH)


@pytest.mark.parametrize("name", ["resnet-frames", "mfcc", "precomputed-layer"])
def test_bfloat16_is_close(rng, name):
    config, _, _ = CONFIGS[name]
    model = evaluating(drawn(lambda rngs: config.build(WIDTH, rngs=rngs), rng))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    stream = streams(rng, config)
    forward = tiny.jit(lambda params, stream: nnx.merge(graph, params, rest, copy=True)(stream).values)
    half = lambda x: x.astype(jnp.bfloat16)  # noqa: E731
    got = forward(jax.tree.map(half, params), stream.replace(values=half(stream.values)))
    want = forward(params, stream)
    error = np.abs(np.asarray(got, np.float32) - np.asarray(want))
    # Ten layers at most, each of 8 bits (1/256): a few per cent of what is there.
    assert error.mean() < 0.1 * np.abs(np.asarray(want)).mean()
    assert np.isfinite(error).all()


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_names_its_axes(name):
    config, _, _ = CONFIGS[name]
    model = nnx.eval_shape(lambda: config.build(WIDTH, rngs=nnx.Rngs(0)))
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        assert len(variable.get_metadata("axes")) == len(variable.shape), path


@pytest.mark.parametrize("name", ["precomputed-cells", "frame-conv-cells"])
def test_keep_hides_tokens(rng, name):
    config, _, _ = CONFIGS[name]
    stream = streams(rng, config)
    keep = jnp.asarray(rng.random((ROWS, config.tokens)) < 0.5)
    model = evaluating(drawn(lambda rngs: config.build(WIDTH, rngs=rngs), rng))
    whole, hidden = model(stream), model(stream, keep)
    np.testing.assert_array_equal(hidden.valid, whole.valid & keep)
    np.testing.assert_array_equal(hidden.values, whole.values)


@pytest.mark.parametrize("name", CASES)
def test_misfit_features_are_refused(rng, name):
    config, _, _ = CONFIGS[name]
    stream = streams(rng, config)
    wrong = stream.replace(values=jnp.concatenate([stream.values, stream.values], axis=-1))
    model = nnx.eval_shape(lambda: config.build(WIDTH, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"any: the model was built for features of shape .* and was given"):
        model(wrong)


def test_no_projection_where_the_width_fits():
    widths = {"precomputed": 4, "mfcc": 3, "frame-conv": 3, "vggish": 4, "efficient-face": 5, "resnet-50": 32}
    for name, width in widths.items():
        model = nnx.eval_shape(lambda name=name, width=width: CONFIGS[name][0].build(width, rngs=nnx.Rngs(0)))
        assert model.readout.project is None, name
        model = nnx.eval_shape(lambda name=name, width=width: CONFIGS[name][0].build(width + 1, rngs=nnx.Rngs(0)))
        assert model.readout.project is not None, name


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ResNet("any", (3, 4, 5)), "neither"),
        (lambda: ResNet("any", (3, 4), depth=34), "no depth 34"),
        (lambda: ResNet3D("any", (3, 4)), "is not"),
        (lambda: ResNet3D("any", (8, 8, 8, 3), depth=50, factorised=True), "depth 18"),
        (lambda: VGGish("any", (100, 64)), "not a multiple of the patch, 96"),
        (lambda: VGGish("any", (96,)), "is not"),
        (lambda: Conv1dEncoder("any", (3, 4, 4, 1)), "is not"),
        (lambda: FrameConv("any", (3, 4)), "is not"),
        (lambda: SpectrogramConv("any", (3, 4, 4, 1)), "is not"),
        (lambda: SpectrogramConv("any", (8, 7), step=2, cells=True), "not both"),
        (lambda: EfficientFace("any", (3, 40, 32, 3)), "multiples of 16"),
        (lambda: EfficientFace("any", (3, 32, 32, 3), repeats=(1, 1)), "do not fit"),
        (lambda: EfficientFace("any", (3, 32, 32, 3), channels=(24, 116, 232, 464, 1024)), "multiple of the stem's"),
        (lambda: Precomputed("any", (3,)), "neither"),
    ],
)
def test_misfit_configurations_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
