"""A modality mixed with another clip's, and stress of some classes."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.fills import absent, others
from avjax.diagnostics.stress.imbalance import WEIGHTS, diluted, in_classes
from tests.fixtures.clips import made_clips, same_streams


@pytest.mark.parametrize("modality", ["audio", "video", "features"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_mixture_step_by_step(rng, modality, weight):
    clips = made_clips(rng)
    found = diluted(clips, modality, weight, seed=5).streams[modality]
    stream, order = clips.streams[modality], others(clips, modality, seed=5)
    for row, place in enumerate(order):
        for step in range(stream.valid.shape[1]):
            mine, theirs = stream.valid[row, step], stream.valid[place, step]
            there = {0.0: mine, 1.0: theirs}.get(weight, mine or theirs)
            assert found.valid[row, step] == there
            if not there:
                continue
            one, other = stream.values[row, step], stream.values[place, step]
            expected = (1 - weight) * one + weight * other if mine and theirs else one if mine else other
            # Float32, of numbers of at most some 20.
            np.testing.assert_allclose(found.values[row, step], expected, rtol=3e-7, atol=3e-6)


def test_the_ends_are_exact(rng):
    clips = made_clips(rng)
    assert diluted(clips, "audio", 0.0) is clips
    assert same_streams(diluted(clips, "audio", 1.0, seed=9), absent(clips, "audio", "marginal", seed=9))
    with pytest.raises(ValueError, match="weight"):
        diluted(clips, "audio", 1.1)


def test_some_classes_alone(rng):
    clips = made_clips(rng, 12, classes=3)
    stressed = absent(absent(clips, "video", "zero"), "features", "drop")
    found = in_classes(clips, stressed, {1, 2})
    hit = np.isin(clips.label, [1, 2])
    assert same_streams(found.take(np.flatnonzero(hit)), stressed.take(np.flatnonzero(hit)))
    assert same_streams(found.take(np.flatnonzero(~hit)), clips.take(np.flatnonzero(~hit)))
    assert same_streams(in_classes(clips, stressed, ()), clips)
