"""The fills: what each leaves, what none touches, and that what is drawn belongs to the record."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.fills import FILLS, absent, moments, others
from avjax.diagnostics.measured import Undefined
from tests.fixtures.clips import made_clips, same_streams

MODALITIES = ("audio", "video", "features")


def rows_of(clips, modality):
    stream = clips.streams[modality]
    return [values[valid] for values, valid in zip(stream.values, stream.valid, strict=True)]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("modality", MODALITIES)
def test_the_rest_is_left_as_it_is(rng, fill, modality):
    clips = made_clips(rng)
    before = {name: (stream.values.copy(), stream.valid.copy()) for name, stream in clips.streams.items()}
    found = absent(clips, modality, fill, seed=3)
    for name, (values, valid) in before.items():
        np.testing.assert_array_equal(clips.streams[name].values, values)
        np.testing.assert_array_equal(clips.streams[name].valid, valid)
        if name != modality:
            assert found.streams[name] is clips.streams[name]
    stream = found.streams[modality]
    assert stream.values.dtype == np.float32
    assert stream.values.shape == before[modality][0].shape
    assert (stream.rate, found.source) == (clips.streams[modality].rate, clips.source)


@pytest.mark.parametrize("fill", ["drop", "learned"])
def test_what_is_dropped_is_nowhere(rng, fill):
    stream = absent(made_clips(rng), "video", fill).streams["video"]
    assert not stream.valid.any()


@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_stands_in_is_as_long_as_what_was_there(rng, fill, modality):
    clips = made_clips(rng)
    stream = absent(clips, modality, fill).streams[modality]
    np.testing.assert_array_equal(stream.valid, clips.streams[modality].valid)
    assert np.isfinite(stream.values[stream.valid]).all()


def test_zero_is_zero(rng):
    stream = absent(made_clips(rng), "audio", "zero").streams["audio"]
    assert (stream.values[stream.valid] == 0).all()


def test_the_mean_is_of_valid_steps_alone(rng):
    clips = made_clips(rng)
    rows = np.concatenate(rows_of(clips, "video")).astype(np.float64)
    assert rows.shape[1:] == (4, 5, 3)
    known = moments(clips, "video")
    # Sums of some fifty numbers below 1: a few units in the last place of float64.
    np.testing.assert_allclose(known.mean, rows.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(known.deviation, rows.std(axis=0), rtol=1e-12)
    for row in rows_of(absent(clips, "video", "mean"), "video"):
        np.testing.assert_array_equal(row, np.broadcast_to(known.mean.astype(np.float32), row.shape))
    assert moments(clips, "audio").mean.shape == ()


def test_the_moments_may_be_the_data_sets(rng):
    clips, whole = made_clips(rng), made_clips(rng, 20)
    found = absent(clips, "features", "mean", of=moments(whole, "features")).streams["features"]
    expected = moments(whole, "features").mean.astype(np.float32)
    np.testing.assert_array_equal(found.values[1, 0], expected)


def test_noise_has_the_moments(rng):
    clips = made_clips(rng, 200, ragged=False)
    known, found = moments(clips, "features"), absent(clips, "features", "noise", seed=1).streams["features"]
    n = 200 * 3
    # Six standard errors, of 14 means and 14 deviations.
    assert (np.abs(found.values.mean(axis=(0, 1)) - known.mean) < 6 * known.deviation / np.sqrt(n)).all()
    assert (np.abs(found.values.std(axis=(0, 1)) - known.deviation) < 6 * known.deviation / np.sqrt(2 * n)).all()
    for name, low in (("audio", -1), ("video", 0)):
        values = absent(clips, name, "noise").streams[name].values
        assert values.min() >= low
        assert values.max() <= 1


def test_noise_follows_from_seed_and_record(rng):
    clips = made_clips(rng)
    turned = rng.permutation(len(clips))
    of = moments(clips, "audio")
    whole = absent(clips, "audio", "noise", seed=5, of=of)
    assert same_streams(absent(clips.take(turned), "audio", "noise", seed=5, of=of), whole.take(turned))
    assert same_streams(absent(clips.take([4]), "audio", "noise", seed=5, of=of), whole.take([4]))
    assert not same_streams(absent(clips, "audio", "noise", seed=6, of=of), whole)
    first, second = rows_of(whole, "audio")[:2]
    assert first[0] != second[0]


@pytest.mark.parametrize("modality", MODALITIES)
def test_marginal_is_another_clips(rng, modality):
    clips = made_clips(rng)
    found = absent(clips, modality, "marginal", seed=2)
    order = others(clips, modality, seed=2)
    has = clips.streams[modality].valid.any(axis=1)
    assert (order != np.arange(len(clips)))[has].all()
    assert (np.sort(order) == np.arange(len(clips))).all()
    for mine, theirs in zip(rows_of(found, modality), rows_of(clips.take(order), modality), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not found.streams[modality].valid[~has].any()


def test_partners_do_not_depend_on_the_order_of_rows(rng):
    clips = made_clips(rng, ragged=False)
    turned = rng.permutation(len(clips))
    whole = absent(clips, "video", "marginal", seed=7)
    assert same_streams(absent(clips.take(turned), "video", "marginal", seed=7), whole.take(turned))


@pytest.mark.parametrize("fill", FILLS)
def test_some_steps_alone(rng, fill):
    clips = made_clips(rng, ragged=False)
    steps = rng.random((len(clips), 6)) < 0.5
    found, whole = (absent(clips, "video", fill, seed=1, steps=s).streams["video"] for s in (steps, None))
    kept = clips.streams["video"]
    np.testing.assert_array_equal(found.values[~steps], kept.values[~steps])
    np.testing.assert_array_equal(found.values[steps], whole.values[steps])
    np.testing.assert_array_equal(found.valid, np.where(steps, whole.valid, kept.valid))
    assert same_streams(absent(clips, "video", fill, steps=np.zeros_like(steps)), clips)


def test_what_cannot_be_filled_is_told(rng):
    clips = made_clips(rng)
    with pytest.raises(Undefined, match="no clip has video"):
        absent(clips.without("video"), "video", "mean")
    with pytest.raises(Undefined, match="single row"):
        absent(clips.take([3]), "video", "marginal")
    assert same_streams(absent(clips.without("video"), "video", "marginal"), clips.without("video"))
