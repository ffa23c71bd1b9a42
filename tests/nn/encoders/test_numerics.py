"""Convolutional encoders against NumPy in float64, layer by layer and whole, and streams against shorter ones."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.encoders import (
    Conv1dEncoder,
    EfficientFace,
    FrameConv,
    Precomputed,
    ResNet,
    ResNet3D,
    SpectrogramConv,
    VGGish,
    resnet,
)
from avjax.nn.encoders.convolutional import Conv1dBlock, segment_means
from avjax.nn.encoders.resnet import BasicBlock, Bottleneck, Factorised, ResNetTrunk, middle_channels
from avjax.nn.encoders.shufflenet import LocalFeatures, Modulator, ShuffleUnit, channel_shuffle
from avjax.nn.encoders.trunk import max_pool, strided
from avjax.streams import Stream
from tests.models import tiny
from tests.nn.encoders.drawn import drawn, evaluating

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def array(variable):
    return np.asarray(variable[...], np.float64)


def relu(x):
    return np.maximum(x, 0)


def convolve(x, layer, stride, dilation=1, groups=1):
    """Sum over the taps of an odd kernel that is centred on every stride-th step; zeros outside."""
    kernel = array(layer.kernel)
    size = kernel.shape[:-2]
    stride = np.broadcast_to(stride, len(size))
    extents = [-(-e // s) for e, s in zip(x.shape[1:-1], stride, strict=True)]
    out = np.zeros((x.shape[0], *extents, kernel.shape[-1]))
    seen, made = kernel.shape[-2], kernel.shape[-1] // groups
    for at in np.ndindex(*extents):
        for tap in np.ndindex(*size):
            place = [a * s + (t - k // 2) * dilation for a, s, t, k in zip(at, stride, tap, size, strict=True)]
            if any(p < 0 or p >= e for p, e in zip(place, x.shape[1:-1], strict=True)):
                continue
            values = x[(slice(None), *place)]
            for group in range(groups):
                part = values[:, group * seen : (group + 1) * seen]
                channels = slice(group * made, (group + 1) * made)
                out[(slice(None), *at, channels)] += part @ kernel[tap][:, channels]
    return out if layer.bias is None else out + array(layer.bias)


def norm(x, layer):
    """Batch normalisation by moving averages."""
    scaled = (x - array(layer.mean)) / np.sqrt(array(layer.var) + 1e-5)
    return scaled * array(layer.scale) + array(layer.bias)


def conv_norm(x, part, stride=1, dilation=1, groups=1):
    return norm(convolve(x, part.conv, stride, dilation, groups), part.norm)


def run(model, x, valid):
    graph, state = nnx.split(evaluating(model))
    return tiny.jit(lambda state, x, valid: nnx.merge(graph, state, copy=True)(x, valid))(
        state, jnp.asarray(x, jnp.float32), jnp.asarray(valid)
    )


def present(x):
    return np.ones(x.shape[0], bool)


@pytest.mark.parametrize(("inputs", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_basic_block(rng, inputs, stride):
    block = drawn(lambda rngs: BasicBlock(inputs, 3, stride=stride, axes=2, rngs=rngs), rng)
    x = relu(rng.normal(size=(2, 5, 4, inputs)))
    y = conv_norm(relu(conv_norm(x, block.first, stride)), block.second)
    short = x if block.shortcut is None else conv_norm(x, block.shortcut, stride)
    assert (block.shortcut is None) == (stride == 1)
    got, _ = run(block, x, present(x))
    np.testing.assert_allclose(got, relu(y + short), **TOLERANCE)


def test_bottleneck(rng):
    block = drawn(lambda rngs: Bottleneck(3, 2, stride=2, axes=2, rngs=rngs), rng)
    x = relu(rng.normal(size=(2, 5, 4, 3)))
    y = relu(conv_norm(relu(conv_norm(x, block.reduce)), block.middle, 2))
    got, _ = run(block, x, present(x))
    np.testing.assert_allclose(got, relu(conv_norm(y, block.expand) + conv_norm(x, block.shortcut, 2)), **TOLERANCE)


def test_factorised_convolution(rng):
    layer = drawn(lambda rngs: Factorised(2, 3, 4, size=3, stride=(2, 2, 2), rngs=rngs), rng)
    x = rng.normal(size=(2, 5, 4, 3, 2))
    space = relu(conv_norm(x, layer.space, (1, 2, 2)))
    got, valid = run(layer, x, np.ones((2, 5), bool))
    np.testing.assert_allclose(got, conv_norm(space, layer.time, (2, 1, 1)), **TOLERANCE)
    assert got.shape == (2, 3, 2, 2, 4)
    assert valid.shape == (2, 3)


def test_middle_channels_keep_the_number_of_parameters():
    assert middle_channels(64, 64) == 144
    assert middle_channels(64, 128) == 230
    for inputs, outputs in itertools.product((64, 128, 256), repeat=2):
        middle = middle_channels(inputs, outputs)
        full = 27 * inputs * outputs
        assert 0 <= full - middle * (9 * inputs + 3 * outputs) < 9 * inputs + 3 * outputs


@pytest.mark.slow
def test_resnet_18_whole(rng):
    model = drawn(lambda rngs: ResNetTrunk(1, axes=2, depth=18, channels=1, stem="standard", rngs=rngs), rng)
    x = rng.normal(size=(2, 33, 20, 1))
    y = relu(conv_norm(x, model.stem, 2))
    y = pool_loop(y, (3, 3), (2, 2))
    for number, block in enumerate(model.blocks):
        stride = 2 if number in (2, 4, 6) else 1
        branch = conv_norm(relu(conv_norm(y, block.first, stride)), block.second)
        y = relu(branch + (y if block.shortcut is None else conv_norm(y, block.shortcut, stride)))
    assert y.shape == (2, 2, 1, 8)
    got, _ = run(model, x, present(x))
    # Twenty layers one after the other.
    np.testing.assert_allclose(got, y, rtol=2e-4, atol=2e-4 * np.abs(y).max())


def pool_loop(x, size, stride):
    extents = [-(-e // s) for e, s in zip(x.shape[1:-1], stride, strict=True)]
    out = np.full((x.shape[0], *extents, x.shape[-1]), -np.inf)
    for at in np.ndindex(*extents):
        begin = [a * s - (k - 1) // 2 for a, s, k in zip(at, stride, size, strict=True)]
        window = tuple(slice(max(b, 0), b + k) for b, k in zip(begin, size, strict=True))
        out[(slice(None), *at)] = x[(slice(None), *window)].reshape(x.shape[0], -1, x.shape[-1]).max(1)
    return out


@pytest.mark.parametrize(("size", "stride"), [((3, 3), (2, 2)), ((2, 2), (2, 2)), ((2, 1), (1, 1))])
def test_max_pool(rng, size, stride):
    x = relu(rng.normal(size=(2, 5, 4, 3))).astype(np.float32)
    got, valid = max_pool(jnp.asarray(x), jnp.ones((2, 5), bool), size, stride)
    np.testing.assert_array_equal(got, pool_loop(x, size, stride).astype(np.float32))
    assert valid.shape == got.shape[:2]


def test_valid_steps_of_a_stride(rng):
    valid = rng.random((3, 11)) < 0.3
    want = [[row[t : t + 4].any() for t in (0, 4, 8)] for row in valid]
    np.testing.assert_array_equal(strided(jnp.asarray(valid), 4), want)
    # Strides one after the other are one stride.
    np.testing.assert_array_equal(strided(strided(jnp.asarray(valid), 2), 2), want)


def test_segment_means(rng):
    x, valid = rng.normal(size=(2, 7, 3)), rng.random((2, 7)) < 0.6
    valid[0, :3] = False
    noisy = np.where(valid[..., None], x, np.nan).astype(np.float32)
    got, there = segment_means(jnp.asarray(noisy), jnp.asarray(valid), 3)
    for row, number in np.ndindex(2, 3):
        part, seen = x[row, 3 * number : 3 * number + 3], valid[row, 3 * number : 3 * number + 3]
        want = part[seen].mean(0) if seen.any() else np.zeros(3)
        np.testing.assert_allclose(got[row, number], want, **TOLERANCE)
        assert there[row, number] == seen.any()


def test_conv1d_block(rng):
    block = drawn(lambda rngs: Conv1dBlock(3, 4, size=3, pool=2, rngs=rngs), rng)
    x = rng.normal(size=(2, 6, 3))
    got, _ = run(block, x, np.ones((2, 6), bool))
    np.testing.assert_allclose(got, pool_loop(relu(conv_norm(x, block.conv)), (2,), (1,)), **TOLERANCE)


def test_channel_shuffle():
    x = jnp.arange(2 * 6, dtype=jnp.float32).reshape(2, 6)
    np.testing.assert_array_equal(channel_shuffle(x, 2), [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]])
    for j, g in np.ndindex(2, 3):
        np.testing.assert_array_equal(channel_shuffle(x, 3)[:, j * 3 + g], x[:, g * 2 + j])


def shuffle_unit(x, unit, stride):
    half = unit.expand.norm.num_features
    if stride == 1:
        left, right = x[..., :half], x[..., half:]
    else:
        left = relu(conv_norm(conv_norm(x, unit.left_depthwise, 2, groups=x.shape[-1]), unit.left))
        right = x
    right = conv_norm(relu(conv_norm(right, unit.reduce)), unit.depthwise, stride, groups=half)
    right = relu(conv_norm(right, unit.expand))
    return np.stack([left, right], axis=-1).reshape(*left.shape[:-1], 2 * half)


@pytest.mark.parametrize("stride", [1, 2])
def test_shuffle_unit(rng, stride):
    inputs = 6 if stride == 1 else 4
    unit = drawn(lambda rngs: ShuffleUnit(inputs, 6, stride=stride, rngs=rngs), rng)
    x = rng.normal(size=(2, 4, 5, inputs))
    got, _ = run(unit, x, present(x))
    np.testing.assert_allclose(got, shuffle_unit(x, unit, stride), **TOLERANCE)


def modulate(x, layer):
    hidden = x.mean((1, 2)) @ array(layer.down.kernel) + array(layer.down.bias)
    channel = relu(norm(hidden, layer.norm)) @ array(layer.up.kernel) + array(layer.up.bias)
    cell = relu(conv_norm(x, layer.reduce))
    for conv in layer.wide:
        cell = relu(conv_norm(cell, conv, dilation=4))
    cell = convolve(cell, layer.last, 1)
    out = np.zeros_like(x)
    for n, i, j, c in np.ndindex(*x.shape):
        out[n, i, j, c] = x[n, i, j, c] / (1 + np.exp(-channel[n, c] * cell[n, i, j, 0]))
    return out


def test_modulator(rng):
    layer = drawn(lambda rngs: Modulator(6, reduction=2, rngs=rngs), rng)
    x = rng.normal(size=(2, 6, 5, 6))
    np.testing.assert_allclose(run(layer, x, present(x)), modulate(x, layer), **TOLERANCE)


def local_features(x, layer):
    """Every quarter by itself, into its own place."""
    _, height, width, inputs = x.shape
    outputs = layer.quarters[0][1].norm.num_features
    out = np.zeros((x.shape[0], height // 2, width // 2, outputs))
    for number, (first, second) in enumerate(layer.quarters):
        row, column = number // 2, number % 2
        rows = slice(row * height // 2, (row + 1) * height // 2)
        columns = slice(column * width // 2, (column + 1) * width // 2)
        y = relu(conv_norm(x[:, rows, columns], first, 2, groups=inputs))
        y = relu(conv_norm(y, second, groups=outputs))
        out[:, row * y.shape[1] : (row + 1) * y.shape[1], column * y.shape[2] : (column + 1) * y.shape[2]] = y
    return out


def test_local_features(rng):
    layer = drawn(lambda rngs: LocalFeatures(2, 4, rngs=rngs), rng)
    x = rng.normal(size=(2, 8, 4, 2))
    np.testing.assert_allclose(run(layer, x, present(x)), local_features(x, layer), **TOLERANCE)


@pytest.mark.slow
def test_efficient_face_whole(rng):
    config = EfficientFace("any", (2, 32, 16, 3), channels=(2, 4, 8, 6, 5), repeats=(2, 1, 2))
    model = drawn(lambda rngs: config.build(5, rngs=rngs), rng)
    x, trunk = rng.normal(size=(2, 2, 32, 16, 3)), model.trunk
    y = pool_loop(relu(conv_norm(x.reshape(4, 32, 16, 3), trunk.stem, 2)), (3, 3), (2, 2))
    local = local_features(y, trunk.local)
    for number, stage in enumerate(trunk.stages):
        for place, unit in enumerate(stage):
            y = shuffle_unit(y, unit, 1 if place else 2)
        if number == 0:
            y = modulate(y, trunk.modulate) + local
    want = relu(conv_norm(y, trunk.last)).mean((1, 2)).reshape(2, 2, 5)
    stream = Stream(jnp.asarray(x, jnp.float32), jnp.ones((2, 2), bool), jnp.zeros(2), 25.0)
    graph, state = nnx.split(evaluating(model))
    got = tiny.jit(lambda state, stream: nnx.merge(graph, state, copy=True)(stream).values)(state, stream)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4 * np.abs(want).max())


def test_precomputed_cells_are_tokens(rng):
    config = Precomputed("any", (3, 2, 2, 4), norm="layer")
    model = drawn(lambda rngs: config.build(5, rngs=rngs), rng)
    x = rng.normal(size=(2, 3, 2, 2, 4))
    stream = Stream(jnp.asarray(x, jnp.float32), jnp.ones((2, 3), bool), jnp.zeros(2), 1.0)
    tokens = model(stream)
    layer, dense = model.trunk.norm, model.readout.project
    assert tokens.rate == 4
    for row, time, height, width in np.ndindex(2, 3, 2, 2):
        cell = x[row, time, height, width]
        cell = (cell - cell.mean()) / np.sqrt(cell.var() + 1e-6) * array(layer.scale) + array(layer.bias)
        want = cell @ array(dense.kernel) + array(dense.bias)
        np.testing.assert_allclose(tokens.values[row, 4 * time + 2 * height + width], want, **TOLERANCE)


@pytest.mark.slow
def test_vggish_whole(rng):
    config = VGGish("any", (32, 16), patch=16, channels=1, hidden=5, embedding=3)
    model = drawn(lambda rngs: config.build(3, rngs=rngs), rng)
    x = rng.normal(size=(2, 32, 16))
    y = x.reshape(4, 16, 16, 1)
    for stage in model.trunk.stages:
        for conv in stage:
            y = relu(convolve(y, conv, 1))
        y = pool_loop(y, (2, 2), (2, 2))
    y = y.reshape(4, -1)
    for dense in (model.trunk.first, model.trunk.second):
        y = relu(y @ array(dense.kernel) + array(dense.bias))
    y = y @ array(model.trunk.embed.kernel) + array(model.trunk.embed.bias)
    stream = Stream(jnp.asarray(x, jnp.float32), jnp.ones((2, 32), bool), jnp.zeros(2), 100.0)
    tokens = model(stream)
    np.testing.assert_allclose(tokens.values, y.reshape(2, 2, 3), rtol=1e-4, atol=1e-5)
    assert tokens.rate == pytest.approx(100 / 16)


LONG = [
    ResNet("any", (21, 9), channels=1, stem="small"),
    ResNet3D("any", (11, 5, 4, 1), channels=1, factorised=True, stem="small"),
    Conv1dEncoder("any", (11, 3), channels=(4, 3), pool=2, pool_stride=2),
    Conv1dEncoder("any", (11, 3), size=5),
    SpectrogramConv("any", (11, 5), channels=(2, 3), step=2),
    FrameConv("any", (4, 4, 5, 2), channels=(3,)),
]


@pytest.mark.slow
@pytest.mark.parametrize("config", LONG, ids=lambda config: type(config).__name__)
def test_padding_behind_a_clip_changes_nothing(rng, config, monkeypatch):
    """A clip in a longer stream has the tokens that it has in one of its own length; shallow ones in training too."""
    monkeypatch.setattr(resnet, "STAGES", {18: (1, 1, 1, 1)})
    mode = evaluating if isinstance(config, ResNet | ResNet3D) else lambda model: model
    length = int(rng.integers(1, config.shape[0]))
    short = type(config)(**{**vars(config), "shape": (length, *config.shape[1:])})
    graph, state = nnx.split(mode(drawn(lambda rngs: config.build(4, rngs=rngs), rng)))
    short_graph, _ = nnx.split(mode(drawn(lambda rngs: short.build(4, rngs=rngs), rng)))
    values = rng.normal(size=(2, *config.shape)).astype(np.float32)
    values[:, length:] = np.nan
    valid = np.broadcast_to(np.arange(config.shape[0]) < length, (2, config.shape[0]))
    whole = Stream(jnp.asarray(values), jnp.asarray(valid), jnp.zeros(2), 10.0)
    part = Stream(jnp.asarray(values[:, :length]), jnp.ones((2, length), bool), jnp.zeros(2), 10.0)

    def tokens(state, whole, part):
        return nnx.merge(graph, state, copy=True)(whole), nnx.merge(short_graph, state, copy=True)(part)

    whole, part = tiny.jit(tokens)(state, whole, part)
    count = short.tokens
    assert part.valid.all()
    np.testing.assert_array_equal(whole.valid, np.broadcast_to(np.arange(config.tokens) < count, whole.valid.shape))
    np.testing.assert_allclose(whole.values[:, :count], part.values, rtol=1e-4, atol=1e-4)
