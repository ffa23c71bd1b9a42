"""Each augmentation alone, against what it is defined to do."""

from __future__ import annotations

import functools
import secrets

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.data.augment import ColourJitter, Crop, Mixup, SpecAugment, SpeedJitter, WaveformJitter, row_keys
from avjax.streams import Batch, Stream


def keys(rows: int) -> jax.Array:
    return jax.jit(row_keys)(fresh_key(), jnp.arange(rows))


@functools.cache
def mixup(by_modality: bool = True):
    """Jitted (batch, key) -> batch; the tests share shapes, so that it compiles once.

    At alpha 2 no weight rounds to 1, which would hide who met whom.
    """
    return jax.jit(lambda batch, key: Mixup(2.0, by_modality)(batch, row_keys(key, batch.index), ("audio", "video")))


def fresh_key() -> jax.Array:
    return jax.random.key(secrets.randbits(31))


def stream(values, valid=None, rate=25.0) -> Stream:
    valid = np.ones(values.shape[:2], bool) if valid is None else valid
    return Stream(np.asarray(values, np.float32), valid, np.zeros(len(values), np.float32), rate)


def test_spec_augment_masks_bands_and_spans(rng):
    """One block of bins over all time and one block of valid frames over all bins; widths uniform, bounds included."""
    rows, frames, bins = 400, 30, 20
    count = rng.integers(5, frames + 1, rows)
    first = rng.integers(0, frames - count + 1)
    valid = (np.arange(frames) >= first[:, None]) & (np.arange(frames) < (first + count)[:, None])
    augment = jax.jit(SpecAugment(1, 6, 1, 4))
    masked = np.asarray(augment(stream(np.ones((rows, frames, bins)), valid, 100.0), keys(rows)).values) == 0
    bands, spans = masked.all(1), masked.all(2)
    np.testing.assert_array_equal(masked, bands[:, None, :] | spans[:, :, None])
    for mask, widest in ((bands, 6), (spans, 4)):
        widths = mask.sum(1)
        assert set(widths) == set(range(widest + 1))
        np.testing.assert_allclose(widths.mean(), widest / 2, atol=0.5)
        # One run each: as many rises as rows with a mask.
        rises = np.diff(np.pad(mask, ((0, 0), (1, 0))).astype(int), axis=1) == 1
        np.testing.assert_array_equal(rises.sum(1), widths > 0)
    assert not (spans & ~valid).any()
    assert bands[:, 0].any()
    assert bands[:, -1].any()
    short = jax.jit(SpecAugment(0, 0, 1, 99, 0.2))
    shared = np.asarray(short(stream(np.ones((rows, frames, bins)), valid), keys(rows)).values)
    assert ((shared == 0).all(2).sum(1) <= 0.2 * count).all()


def test_waveform_gain_and_noise(rng):
    clean = stream(
        rng.normal(size=(64, 4_000)) * 0.05, np.arange(4_000) < rng.integers(3_000, 4_000, (64, 1)), 16_000.0
    )
    held = np.where(clean.valid, clean.values, 0)
    gains = np.asarray(jax.jit(WaveformJitter((-6.0, 6.0)))(clean, keys(64)).values)
    decibels = 20 * np.log10(np.abs(gains).max(1) / np.abs(held).max(1))
    np.testing.assert_allclose(gains, held * 10 ** (decibels[:, None] / 20), atol=1e-6)
    assert (np.abs(decibels) <= 6.001).all()
    assert decibels.min() < -3
    assert decibels.max() > 3
    noisy = np.asarray(jax.jit(WaveformJitter((0.0, 0.0), (10.0, 10.0), 1.0))(clean, keys(64)).values)
    assert not noisy[~clean.valid].any()
    noise = noisy - held
    np.testing.assert_allclose(10 * np.log10((held**2).sum(1) / (noise**2).sum(1)), 10, atol=0.5)
    assert np.abs(np.corrcoef(noise[:, :3_000])[0, 1:]).max() < 0.15  # Each row has noise of its own.


def test_speed_interpolates_what_is_there(rng):
    samples = rng.normal(size=(5, 900)).astype(np.float32)
    valid = np.arange(900) < np.array([900, 700, 300, 1, 0])[:, None]
    samples[~valid] = np.nan
    out = jax.jit(SpeedJitter((0.7, 1.4)))(stream(samples, valid, 16_000.0), keys(5))
    values, here = np.asarray(out.values), np.asarray(out.valid)
    assert np.isfinite(values).all()
    assert not here[3:].any()
    assert not values[~here].any()
    for row, count in enumerate((900, 700, 300)):
        # The speed is what the draw of the first samples says; it is the same to the end.
        grid = np.geomspace(0.7, 1.4, 3_000)
        probe = np.array(
            [np.interp(np.arange(1, 200) * speed, np.arange(count), samples[row, :count]) for speed in grid]
        )
        speed = grid[np.abs(probe - values[row, 1:200]).sum(1).argmin()]
        assert abs(here[row].sum() - min(900, (count - 1) / speed)) <= 2
        expected = np.interp(np.arange(200) * speed, np.arange(count), samples[row, :count])
        np.testing.assert_allclose(values[row, :200], expected, atol=0.2)
        np.testing.assert_allclose(values[row, 0], samples[row, 0], atol=1e-6)
    short = stream(np.ones((2, 1)))
    assert SpeedJitter()(short, keys(2)) is short


def reference_crop(image, zoom, row, column, flip):
    """One frame [H, W, C]: bilinear between pixel centres, in loops."""
    height, width, _ = image.shape
    out = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            column_at = width - 1 - j if flip else j
            y = np.clip((row * (1 - 1 / zoom) + (i + 0.5) / height / zoom) * height - 0.5, 0, height - 1)
            x = np.clip((column * (1 - 1 / zoom) + (column_at + 0.5) / width / zoom) * width - 0.5, 0, width - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(y - top - dy)) * (1 - abs(x - left - dx))
                out[i, j] += weight * image[top + dy, left + dx]
    return out


def test_crop_equals_the_loop(rng, monkeypatch):
    draws = rng.uniform(size=(5, 3)).astype(np.float32)
    draws[4] = [0.2, 0.7, 0.4]  # Of flip = 0.5: yes, no, yes.
    monkeypatch.setattr("avjax.data.augment.uniform", lambda keys, *names: jnp.asarray(draws))
    images = rng.uniform(size=(3, 2, 8, 11, 3)).astype(np.float32)
    out = Crop((1.0, 2.0))(stream(images), keys(3)).values
    for row in range(3):
        for frame in range(2):
            zoom, at_row, at_column, flip = 1 + draws[0, row], draws[2, row], draws[3, row], draws[4, row] < 0.5
            expected = reference_crop(images[row, frame].astype(np.float64), zoom, at_row, at_column, flip)
            np.testing.assert_allclose(out[row, frame], expected, atol=1e-5)


def test_crop_at_its_ends(rng):
    images = stream(rng.uniform(size=(64, 2, 8, 8, 1)))
    half = np.asarray(jax.jit(Crop((1.0, 1.0)))(images, keys(64)).values)
    flipped = (half == images.values[:, :, :, ::-1]).all((1, 2, 3, 4))
    assert (flipped | (half == images.values).all((1, 2, 3, 4))).all()
    assert 16 < flipped.sum() < 48
    # Shrinking repeats the border and makes nothing up; a flat picture stays flat at any zoom and aspect.
    flat = stream(np.full((16, 1, 9, 7, 3), 0.3))
    out = jax.jit(Crop((0.5, 3.0), (0.75, 4 / 3)))(flat, keys(16)).values
    np.testing.assert_allclose(out, 0.3, atol=1e-6)
    small = np.asarray(jax.jit(Crop((0.5, 0.5)))(images, keys(64)).values)
    assert small.min() >= images.values.min() - 1e-6
    assert small.max() <= images.values.max() + 1e-6


def test_colour_jitter(rng):
    images = stream(rng.uniform(0.3, 0.6, (40, 2, 6, 5, 3)))
    images = images.replace(values=np.repeat(images.values[:, :1], 2, 1))

    def changed(*settings):
        values = np.asarray(jax.jit(ColourJitter(*settings))(images, keys(40)).values, np.float64)
        np.testing.assert_array_equal(values[:, 0], values[:, 1])  # The same in every frame of a clip.
        return values

    original = images.values.astype(np.float64)
    luma = original @ np.array([0.299, 0.587, 0.114])
    ratio = changed(0.4, 0.0, 0.0, 0.0, 1.0) / original
    np.testing.assert_allclose(ratio, ratio[:, :1, :1, :1, :1] * np.ones_like(ratio), rtol=1e-4)
    assert 0.6 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.4 + 1e-5
    mean = luma.mean((1, 2, 3))[:, None, None, None, None]
    for out, centre in ((changed(0.0, 0.3, 0.0, 0.0, 1.0), mean), (changed(0.0, 0.0, 0.3, 0.0, 1.0), luma[..., None])):
        factor = ((out - centre) * (original - centre)).sum((1, 2, 3, 4)) / ((original - centre) ** 2).sum((1, 2, 3, 4))
        np.testing.assert_allclose(out, centre + factor[:, None, None, None, None] * (original - centre), atol=1e-5)
        assert np.ptp(factor) > 0.3
        assert (np.abs(factor - 1) < 0.3 + 1e-4).all()
    grey = changed(0.0, 0.0, 0.0, 1.0, 1.0)
    np.testing.assert_allclose(grey, np.repeat(luma[..., None], 3, -1), atol=1e-6)
    same = (changed(0.4, 0.4, 0.4, 0.1, 0.5) == original).all((1, 2, 3, 4))
    assert 5 < same.sum() < 35


def features(rng, rows=8, absent=()) -> Batch:
    audio, video = (rng.normal(size=(rows, 5, 3)).astype(np.float32) for _ in range(2))
    hears = np.ones((rows, 5), bool)
    hears[list(absent)] = False
    audio[list(absent)] = 0
    streams = {"audio": stream(audio, hears), "video": stream(video)}
    target = {"label": np.eye(rows, dtype=np.float32), "level": rng.normal(size=(rows, 2)).astype(np.float32)}
    return Batch(streams, target, np.ones(rows, np.float32), np.arange(100, 100 + rows, dtype=np.int32))


@pytest.mark.parametrize("by_modality", [True, False])
def test_mixup_is_the_blend_that_its_targets_say(rng, by_modality):
    """Row i's one-hot target names row i, so the mixed targets are the weights that the values must be blended with."""
    batch = features(rng, absent=[3])
    batch = batch.replace(weight=np.array([1, 1, 1, 1, 1, 0, 1, 1], np.float32))
    out = mixup(by_modality)(batch, fresh_key())
    weights = {name: np.asarray(out.target[f"label/{name}"]) for name in ("audio", "video")}
    for name, weight in weights.items():
        np.testing.assert_allclose(weight.sum(1), 1, atol=1e-6)
        expected = np.einsum("ij,jtf->itf", weight, batch.streams[name].values)
        np.testing.assert_allclose(out.streams[name].values, expected, atol=1e-5)
        np.testing.assert_allclose(out.target[f"level/{name}"], weight @ batch.target["level"], atol=1e-5)
        np.testing.assert_array_equal(out.streams[name].valid, batch.streams[name].valid)
    assert weights["audio"][3, 3] == 1  # It has no sound to mix, and its partner's video is mixed all the same.
    assert (weights["audio"][:, 3] == np.eye(8)[3]).all()
    np.testing.assert_array_equal(weights["video"][5], np.eye(8)[5])  # The filler row.
    np.testing.assert_array_equal(weights["video"][:, 5], np.eye(8)[5])
    joint = (weights["audio"] + weights["video"]) / 2
    joint[3] = weights["video"][3]
    np.testing.assert_allclose(out.target["label"], joint, atol=1e-6)
    both = [i for i in range(8) if i not in (3, 5) and weights["audio"][i, i] < 1]
    assert len(both) >= 3
    same = np.isclose(weights["audio"][both], weights["video"][both]).all(1)
    assert same.all() != by_modality
    # The real rows form one ring: each is someone's partner exactly once.
    partner = np.where(weights["video"] - np.eye(8) > 0, 1, 0).sum(0)
    np.testing.assert_array_equal(np.delete(partner, 5), 1)
    assert partner[5] == 0
    np.testing.assert_array_equal(out.target["label"] @ np.ones(8), np.asarray(out.target["label"]).sum(1))


def test_mixup_pairs_change_with_the_key_and_not_with_the_order(rng):
    batch = features(rng)
    mix = mixup()
    first, second = fresh_key(), fresh_key()

    def partners(out, rows):
        mixed = np.asarray(out.target["label/video"])
        return {
            int(i): int(np.delete(np.arange(8), i)[np.delete(row, i).argmax()])
            for i, row in zip(rows, mixed, strict=True)
        }

    order = rng.permutation(8)
    shuffled = jax.tree.map(lambda leaf: leaf[order], batch)
    assert partners(mix(batch, first), range(8)) == partners(mix(shuffled, first), order)
    others = [partners(mix(batch, jax.random.fold_in(second, i)), range(8)) for i in range(4)]
    assert any(other != others[0] for other in others[1:])


def test_mixup_of_one_record_twice(rng):
    """Two crops of one record tie in hash and index; their start times settle it, in any order."""
    batch = features(rng)
    starts = np.array([0.0, 2.0, 1.0, 0.0, 3.0, 0.0, 0.0, 4.0], np.float32)
    streams = {name: s.replace(start=starts) for name, s in batch.streams.items()}
    batch = batch.replace(streams=streams, index=np.array([7, 7, 7, 9, 7, 5, 4, 4], np.int32))
    mix = mixup()
    order, key = rng.permutation(8), fresh_key()
    expected, out = mix(batch, key), mix(jax.tree.map(lambda leaf: leaf[order], batch), key)
    np.testing.assert_array_equal(out.target["label"], np.asarray(expected.target["label"])[order])
    np.testing.assert_array_equal(out.streams["video"].values, np.asarray(expected.streams["video"].values)[order])


def test_mixup_of_a_lone_row_and_of_fillers_only(rng):
    batch = features(rng)
    for weight in (np.eye(8)[2], np.zeros(8)):
        out = mixup()(batch.replace(weight=weight.astype(np.float32)), fresh_key())
        for name in ("audio", "video"):
            np.testing.assert_array_equal(out.streams[name].values, batch.streams[name].values)
            np.testing.assert_array_equal(out.target[f"label/{name}"], batch.target["label"])


def test_mixup_weight_is_beta(rng):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1)) of Beta(alpha, alpha)."""
    batch, key = features(rng), fresh_key()
    outs = [mixup()(batch, jax.random.fold_in(key, step)).target["label/video"] for step in range(60)]
    weight = np.concatenate([np.asarray(out).diagonal() for out in outs])
    np.testing.assert_allclose(weight.mean(), 0.5, atol=0.05)
    np.testing.assert_allclose(weight.var(), 0.05, atol=0.02)


@pytest.mark.slow
def test_mixup_of_some_rows(rng):
    batch = features(rng, rows=600)
    weight = np.asarray(Mixup(probability=0.25)(batch, keys(600), ("video",)).target["label/video"]).diagonal()
    np.testing.assert_allclose((weight < 1).mean(), 0.25, atol=0.1)
