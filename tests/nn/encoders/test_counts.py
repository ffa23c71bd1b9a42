"""Numbers of parameters, without allocating any: those that were published, and sums over layers."""

from __future__ import annotations

import math

import jax
import pytest
from flax import nnx

from avjax.nn.encoders import EfficientFace, ResNet, ResNet3D, VGGish
from avjax.nn.encoders.shufflenet import ShuffleUnit


def count(build) -> int:
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def trunk(config) -> int:
    return count(lambda rngs: config.build(config.features, rngs=rngs))


def conv(inputs, outputs, taps, groups=1):
    """Weights of a convolution without bias, and two numbers a channel of its batch normalisation."""
    return inputs // groups * outputs * taps + 2 * outputs


def basic(stem, conv3):
    """Depth 18: stem, then two blocks a stage; the first of a stage from 128 channels on has a shortcut."""
    total, width = stem, 64
    for channels in (64, 128, 256, 512):
        total += conv3(width, channels, width, channels) + conv3(channels, channels, width, channels)
        total += 2 * conv3(channels, channels, channels, channels)
        total += conv(width, channels, 1) if width != channels else 0
        width = channels
    return total


def bottleneck(stem, taps):
    total, width = stem, 64
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        total += conv(width, 4 * channels, 1)
        for _ in range(blocks):
            total += conv(width, channels, 1) + conv(channels, channels, taps) + conv(channels, 4 * channels, 1)
            width = 4 * channels
    return total


def factorised(inputs, outputs, block_inputs, block_outputs):
    middle = (block_inputs * block_outputs * 27) // (block_inputs * 9 + 3 * block_outputs)
    return conv(inputs, middle, 9) + conv(middle, outputs, 3)


@pytest.mark.slow
def test_resnet():
    want = basic(conv(3, 64, 49), lambda i, o, *_: conv(i, o, 9))
    # With the fully connected layer of 1000 classes, as published.
    assert want + 513 * 1000 == 11_689_512
    assert trunk(ResNet("any", (2, 224, 224, 3))) == want
    want = bottleneck(conv(3, 64, 49), 9)
    assert want + 2049 * 1000 == 25_557_032
    assert trunk(ResNet("any", (2, 224, 224, 3), depth=50)) == want
    # One input channel, a small stem and a projection.
    want = basic(conv(1, 64, 9), lambda i, o, *_: conv(i, o, 9)) + 513 * 10
    assert count(lambda rngs: ResNet("any", (100, 64), stem="small").build(10, rngs=rngs)) == want


@pytest.mark.slow
def test_resnet_3d():
    want = basic(conv(3, 64, 3 * 49), lambda i, o, *_: conv(i, o, 27))
    # With 400 classes, as published.
    assert want + 513 * 400 == 33_371_472
    assert trunk(ResNet3D("any", (16, 112, 112, 3))) == want
    want = basic(conv(3, 45, 49) + conv(45, 64, 3), factorised)
    assert want + 513 * 400 == 31_505_325
    assert trunk(ResNet3D("any", (16, 112, 112, 3), factorised=True)) == want
    assert trunk(ResNet3D("any", (16, 112, 112, 3), depth=50)) == bottleneck(conv(3, 64, 147), 27)


def test_vggish():
    channels = [(1, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    convolutions = sum((9 * i + 1) * o for i, o in channels)
    dense = (6 * 4 * 512 + 1) * 4096 + 4097 * 4096 + 4097 * 128
    assert convolutions + dense == 72_141_184
    assert trunk(VGGish("any", (192, 64))) == 72_141_184
    assert trunk(VGGish("any", (192, 64), conv_map=True)) == convolutions


def unit(inputs, outputs, stride):
    half = outputs // 2
    into = half if stride == 1 else inputs
    total = conv(into, half, 1) + conv(half, half, 9, groups=half) + conv(half, half, 1)
    return total + (conv(inputs, inputs, 9, groups=inputs) + conv(inputs, half, 1) if stride == 2 else 0)


STAGES = ((116, 4), (232, 8), (464, 4))


def stages(inputs, measure):
    total = 0
    for outputs, repeats in STAGES:
        total += measure(inputs, outputs, 2) + (repeats - 1) * measure(outputs, outputs, 1)
        inputs = outputs
    return total


def test_shufflenet():
    made = lambda i, o, s: count(lambda rngs: ShuffleUnit(i, o, stride=s, rngs=rngs))  # noqa: E731
    ours = stages(24, made)
    assert ours == stages(24, unit)
    # ShuffleNet-v2 x1.0, as published: a stem of 24 channels, 1024 at last, 1000 classes.
    assert conv(3, 24, 9) + ours + conv(464, 1024, 1) + 1025 * 1000 == 2_278_604


@pytest.mark.slow
def test_efficient_face():
    hidden = 116 // 16
    local = 4 * (conv(29, 116, 9, groups=29) + conv(116, 116, 9, groups=116))
    channel = 117 * hidden + 2 * hidden + (hidden + 1) * 116
    cell = conv(116, hidden, 1) + hidden + 2 * (conv(hidden, hidden, 9) + hidden) + hidden + 1
    want = conv(3, 29, 9) + stages(29, unit) + local + channel + cell + conv(464, 1024, 1)
    assert trunk(EfficientFace("any", (15, 224, 224, 3))) == want
    # With 7 classes its paper counts 1.28 million.
    assert want + 1025 * 7 == pytest.approx(1.28e6, abs=5e3)
