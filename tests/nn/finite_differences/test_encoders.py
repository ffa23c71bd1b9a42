"""Gradients of encoders as a model is evaluated: every batch normalised by its running averages."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from avjax.nn import encoders
from avjax.nn.encoders import convolutional, patches, shufflenet, trunk
from tests.nn.finite_differences.derivative import (
    ROWS,
    STEPS,
    WIDTH,
    X,
    assert_gradients,
    encoder,
    function,
    module,
    normal,
    parameters,
    stream,
    there,
    valid,
)

FRAMES = (2, 8, 8, 3)
SPECTROGRAM = (8, 6)

CASES = {
    "patches of a spectrogram": encoder(encoders.Patches("audio", (6, 4), (2, 2))),
    "tubelets": encoder(encoders.Patches("video", (4, 4, 2, 3), (2, 2, 2), central_frame=True)),
    "class token": function(
        patches.append_class_token,
        stream,
        normal(1, WIDTH),
        there(ROWS, STEPS),
        call=lambda tokens, own, keep: patches.hide(patches.append_class_token(tokens, own), keep),
        also=(patches.hide,),
    ),
    "precomputed": encoder(encoders.Precomputed("audio", (STEPS, 6), norm="layer"), quick=True),
    "precomputed cells": encoder(encoders.Precomputed("video", (3, 2, 2, 4), norm="batch")),
    "Conv1d, projection": encoder(encoders.Conv1dEncoder("audio", (STEPS, 6), size=3)),
    "Conv1d": encoder(encoders.Conv1dEncoder("audio", (8, 3), channels=(4, 5), pool=2, pool_stride=2)),
    "Conv1d, no normalisation": encoder(encoders.Conv1dEncoder("audio", (8, 3), channels=(4,), normalise=False)),
    "FrameConv": encoder(encoders.FrameConv("video", FRAMES, channels=(3, 4))),
    "FrameConv, stride": encoder(encoders.FrameConv("video", FRAMES, channels=(3, 4), stride=2)),
    "FrameConv, cells": encoder(encoders.FrameConv("video", FRAMES, channels=(3,), cells=True)),
    "SpectrogramConv": encoder(encoders.SpectrogramConv("audio", SPECTROGRAM, channels=(3, 4), step=3)),
    "SpectrogramConv, cells": encoder(encoders.SpectrogramConv("audio", SPECTROGRAM, channels=(3,), cells=True)),
    "ResNet-18 of frames": encoder(encoders.ResNet("video", FRAMES, channels=1, stem="small"), long=True),
    "ResNet-18 of a spectrogram": encoder(encoders.ResNet("audio", (32, 16), channels=1, cells=True)),
    "ResNet-50": encoder(encoders.ResNet("video", FRAMES, depth=50, channels=1, stem="small"), long=True),
    "R3D-18": encoder(encoders.ResNet3D("video", (8, 8, 8, 3), channels=1, stem="small"), long=True),
    "R3D-50": encoder(encoders.ResNet3D("video", (4, 8, 8, 3), depth=50, channels=1, stem="small"), long=True),
    "R(2+1)D-18": encoder(encoders.ResNet3D("video", (8, 8, 8, 3), factorised=True, channels=1), long=True),
    "VGGish": encoder(encoders.VGGish("audio", (32, 16), patch=16, channels=1, hidden=6, embedding=5)),
    "VGGish, map": encoder(encoders.VGGish("audio", (32, 16), patch=16, channels=1, conv_map=True)),
    "EfficientFace": encoder(
        encoders.EfficientFace("video", (2, 32, 32, 3), channels=(2, 4, 6, 8, 5), repeats=(2, 1, 1)),
        long=True,
    ),
    "channel_shuffle": function(
        shufflenet.channel_shuffle, normal(2, 6), call=lambda x: shufflenet.channel_shuffle(x, 2)
    ),
    # In training: the block by itself, normalised by its batch.
    "Conv1dBlock": module(
        lambda rngs: encoders.Conv1dBlock(WIDTH, 3, pool=2, rngs=rngs),
        X,
        valid,
        call=lambda block, x, there: block(jnp.where(there[..., None], x, 0), there),
    ),
    "segment_means": function(
        convolutional.segment_means, X, valid, call=lambda x, there: convolutional.segment_means(x, there, 2)
    ),
    "features": function(trunk.features, stream, call=lambda s: trunk.features("audio", (STEPS, WIDTH), s)),
    "trunk.max_pool": function(
        trunk.max_pool, X, valid, call=lambda x, there: trunk.max_pool(jnp.abs(x), there, (3,), (2,))
    ),
}


@pytest.mark.parametrize("case", parameters(CASES))
def test_gradients(case, rng):
    assert_gradients(case, rng)
