"""The front end: raw batch in, feature batch out, with and without augmentation."""

from __future__ import annotations

import dataclasses
import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.data.augment import (
    ColourJitter,
    Crop,
    Mixup,
    ModalityDropout,
    SpecAugment,
    SpeedJitter,
    TimeShift,
    WaveformJitter,
)
from avjax.data.frontend import Augment, FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.streams import Batch, Stream

EVERYTHING = Augment(
    speed=SpeedJitter(),
    shift=TimeShift(),
    waveform=WaveformJitter(snr=(0.0, 20.0)),
    spectrogram=SpecAugment(2, 10, 2, 12),
    crop=Crop(),
    colour=ColourJitter(),
    mixup=Mixup(),
)
FRONTEND = Frontend(LogMel(mels=32), FrameNormalise(), EVERYTHING)
RUN = jax.jit(FRONTEND)  # Shared, with one shape, so that it compiles once.


def raw(rng, rows=6, samples=3_200, frames=3, absent_audio=(), absent_video=(), channels=3) -> Batch:
    """A raw batch of ragged rows with distinct indices."""
    hears = np.arange(samples) < rng.integers(samples // 2, samples + 1, (rows, 1))
    sees = np.arange(frames) < rng.integers(1, frames + 1, (rows, 1))
    hears[list(absent_audio)] = False
    sees[list(absent_video)] = False
    waveform = rng.integers(-32_768, 32_768, (rows, samples)).astype(np.int16)
    images = rng.integers(0, 256, (rows, frames, 12, 16, channels)).astype(np.uint8)
    streams = {
        "audio": Stream(waveform, hears, rng.uniform(size=rows).astype(np.float32), 16_000.0),
        "video": Stream(images, sees, rng.uniform(size=rows).astype(np.float32), 25.0),
        "other": Stream(
            rng.normal(size=(rows, 4, 2)).astype(np.float16), np.ones((rows, 4), bool), np.zeros(rows), 1.0
        ),
    }
    target = {"emotion": np.eye(5, dtype=np.float32)[rng.integers(0, 5, rows)]}
    index = rng.choice(2**31 - 1, rows, replace=False).astype(np.int32)
    return Batch(streams, target, np.ones(rows, np.float32), index)


def rows_of(batch: Batch, rows) -> Batch:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], batch)


def assert_same(ours, expected) -> None:
    ours, expected = jax.tree.leaves_with_path(ours), jax.tree.leaves_with_path(expected)
    assert [path for path, _ in ours] == [path for path, _ in expected]
    for (path, a), (_, b) in zip(ours, expected, strict=True):
        if np.issubdtype(np.asarray(a).dtype, np.floating):
            # Where a row stands decides how XLA splits its sums into vectors: the last bit may differ, a draw may not.
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=jax.tree_util.keystr(path))
        else:
            np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


def fresh_key() -> jax.Array:
    return jax.random.key(secrets.randbits(31))


def test_without_augmentation(rng):
    batch = raw(rng, absent_audio=[1], absent_video=[2])
    out = jax.jit(dataclasses.replace(FRONTEND, augment=None))(batch)
    expected = batch.streams["video"].values / np.float64(255) * 2 - 1
    valid = batch.streams["video"].valid
    np.testing.assert_allclose(np.asarray(out.streams["video"].values)[valid], expected[valid], atol=1e-6)
    assert not np.asarray(out.streams["video"].values)[~valid].any()
    np.testing.assert_array_equal(out.streams["video"].valid, valid)
    assert {stream.values.dtype for stream in out.streams.values()} == {jnp.float32.dtype}
    np.testing.assert_array_equal(out.streams["other"].values, batch.streams["other"].values)
    np.testing.assert_array_equal(out.streams["audio"].values, jax.jit(LogMel(mels=32))(batch.streams["audio"]).values)
    assert out.streams["audio"].rate == 100
    assert not out.streams["audio"].valid[1].any()
    assert not np.asarray(out.streams["audio"].values[1]).any()
    assert_same(out.streams["other"], batch.streams["other"])
    assert out.target.keys() == batch.target.keys()
    assert_same(jax.jit(FRONTEND)(batch), out)  # Without a key nothing is drawn.


def test_streams_without_an_entry_pass_through(rng):
    batch = raw(rng)
    plain = dataclasses.replace(EVERYTHING, mixup=None)
    assert_same(Frontend(audio=None, video=None, augment=plain)(batch, fresh_key()), batch)
    out = jax.jit(Frontend(audio=None, augment=plain))(batch, fresh_key())
    np.testing.assert_array_equal(out.streams["audio"].values, batch.streams["audio"].values)
    assert out.streams["video"].values.dtype == jnp.float32


@pytest.mark.slow
def test_permuting_the_rows_permutes_the_result(rng):
    batch = raw(rng, absent_audio=[0], absent_video=[3])
    weight = np.ones(6, np.float32)
    weight[4] = 0
    batch = batch.replace(weight=weight)
    order, key = rng.permutation(6), fresh_key()
    expected, out = rows_of(RUN(batch, key), order), RUN(rows_of(batch, order), key)
    assert_same(out, expected)
    # The draws did something, and another step's draws do something else.
    plain, other = jax.jit(FRONTEND)(batch), RUN(batch, jax.random.fold_in(key, 1))
    for name in ("audio", "video"):
        for changed in (plain, other):
            assert (np.asarray(expected.streams[name].values) != np.asarray(changed.streams[name].values)[order]).any()


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(rng):
    front = jax.jit(dataclasses.replace(FRONTEND, augment=dataclasses.replace(EVERYTHING, mixup=None)))
    batch, other, key = raw(rng), raw(rng), fresh_key()
    both = jax.tree.map(lambda a, b: np.concatenate([b[:3], a[[4, 1, 2]]]), batch, other)
    whole, part = front(batch, key), front(both, key)
    for name in ("audio", "video"):
        assert_same(part.streams[name].values[3:], np.asarray(whole.streams[name].values)[[4, 1, 2]])


@pytest.mark.slow
def test_filler_rows_reach_no_other_row(rng):
    batch, key = raw(rng), fresh_key()
    batch = batch.replace(weight=np.array([1, 0, 1, 1, 0, 1], np.float32))
    real = [0, 2, 3, 5]
    garbage = raw(rng)
    mixed = jax.tree.map(
        lambda a, b: np.where(np.isin(np.arange(6), real).reshape(-1, *[1] * (a.ndim - 1)), a, b), batch, garbage
    )
    mixed = mixed.replace(weight=batch.weight)
    assert_same(rows_of(RUN(batch, key), real), rows_of(RUN(mixed, key), real))


@pytest.mark.slow
def test_missing_modalities_stay_missing(rng):
    batch = raw(rng, absent_audio=[0, 1, 2, 3, 4, 5], absent_video=[0, 2, 4])
    out = RUN(batch, fresh_key())
    assert not np.asarray(out.streams["audio"].valid).any()
    assert not np.asarray(out.streams["audio"].values).any()
    np.testing.assert_array_equal(out.streams["video"].valid, batch.streams["video"].valid)
    assert not np.asarray(out.streams["video"].values)[~batch.streams["video"].valid].any()
    np.testing.assert_array_equal(out.target["emotion/audio"], batch.target["emotion"])


def test_odd_shapes_are_finite(rng):
    """One channel, one frame, and too little sound for one spectrogram frame."""
    batch = raw(rng, rows=2, samples=int(rng.choice([0, 1, 399])), frames=1, channels=1)
    front = dataclasses.replace(FRONTEND, augment=dataclasses.replace(EVERYTHING, mixup=None))
    out = jax.jit(front)(batch, fresh_key())
    for name in ("audio", "video"):
        values, valid = np.asarray(out.streams[name].values), np.asarray(out.streams[name].valid)
        assert np.isfinite(values).all()
        assert not values[~valid].any()
    assert np.abs(np.asarray(out.streams["video"].values)).max() <= 1 + 1e-5


@pytest.mark.slow
def test_gradients_reach_float_inputs(rng):
    # Masks may hide all of so short a sound, and then nothing of it is heard.
    front = dataclasses.replace(FRONTEND, augment=dataclasses.replace(EVERYTHING, mixup=None, spectrogram=None))
    batch = raw(rng, rows=2, samples=1_600)
    silent = np.zeros((2, 1_600), np.float32)
    images = rng.uniform(0.2, 0.8, batch.streams["video"].values.shape).astype(np.float32)

    def loss(waveform, images, key):
        streams = dict(batch.streams)
        streams["audio"] = streams["audio"].replace(values=waveform)
        streams["video"] = streams["video"].replace(values=images)
        out = front(batch.replace(streams=streams), key)
        return sum(jnp.square(out.streams[name].values).sum() for name in ("audio", "video"))

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    loud = rng.normal(size=(2, 1_600)).astype(np.float32) * 0.1
    for waveform, heard in ((silent, False), (loud, True)):
        by_sound, by_sight = gradient(waveform, images, fresh_key())
        assert np.isfinite(by_sound).all()
        assert np.isfinite(by_sight).all()
        assert np.asarray(by_sight).any()
        assert np.asarray(by_sound).any() == heard


@pytest.mark.slow
def test_one_compilation_a_shape(rng):
    traces = []

    @jax.jit
    def run(batch, key):
        traces.append(None)
        return Frontend(LogMel(mels=32), FrameNormalise(), Augment(spectrogram=SpecAugment()))(batch, key)

    for _ in range(3):
        run(raw(rng), fresh_key())
    assert len(traces) == 1


def test_mean_and_std_by_channel(rng):
    batch = raw(rng, frames=1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = FrameNormalise(mean, std)(batch.streams["video"])
    np.testing.assert_allclose(
        out.values, (batch.streams["video"].values / 255 - np.array(mean)) / np.array(std), atol=1e-5
    )
    assert FrameNormalise()(raw(rng, channels=1).streams["video"]).values.shape[-1] == 1


def test_errors_say_what_to_do(rng):
    batch = raw(rng, channels=1)
    with pytest.raises(ValueError, match="3 entries for the 1 channels"):
        FrameNormalise((0.4, 0.5, 0.6))(batch.streams["video"])
    with pytest.raises(ValueError, match="uint8 or float"):
        FrameNormalise()(batch.streams["video"].replace(values=np.zeros((6, 3, 4, 4, 1), np.int32)))
    with pytest.raises(ValueError, match="T, H, W, C"):
        FrameNormalise()(batch.streams["audio"])
    with pytest.raises(ValueError, match="both name the stream 'audio'"):
        Frontend(LogMel(), FrameNormalise(modality="audio"))
    with pytest.raises(ValueError, match="above 0"):
        FrameNormalise(std=(0.0,))


@pytest.mark.slow
def test_features_pass_and_are_lost_with_their_record(rng):
    """Half precision becomes single; whole modalities are dropped among them, numbers of tokens left alone."""
    rows = 12
    there = np.arange(4) < rng.integers(1, 5, (rows, 1))
    streams = {
        name: Stream((rng.normal(size=(rows, 4, 3)) * there[..., None]).astype(dtype), there, np.zeros(rows), 1.0)
        for name, dtype in (("face", np.float16), ("words", np.float32), ("numbers", np.int32))
    }
    batch = Batch(streams, {}, np.ones(rows, np.float32), np.arange(rows, dtype=np.int32))
    frontend = Frontend(None, None, Augment(dropout=ModalityDropout(drop=1.0)))
    plain, lossy = frontend(batch), frontend(batch, fresh_key())
    for name, stream in streams.items():
        assert plain.streams[name].values.dtype == {"numbers": jnp.int32}.get(name, jnp.float32)
        np.testing.assert_array_equal(plain.streams[name].values, stream.values)
    kept = {name: np.asarray(lossy.streams[name].valid).any(1) for name in streams}
    assert (kept["face"] ^ kept["words"]).all()
    assert kept["numbers"].all()
    for name in ("face", "words"):
        expected = np.where(kept[name][:, None, None], streams[name].values, 0)
        np.testing.assert_array_equal(lossy.streams[name].values, expected)
