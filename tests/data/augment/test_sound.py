"""Each augmentation of sound alone, against what it is defined to do."""

from __future__ import annotations

import jax
import numpy as np

from avjax.data.augment import SpecAugment, SpeedJitter, TimeShift, WaveformJitter
from tests.data.augment.common import keys, stream


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


def test_time_shift_delays_and_fills(rng):
    """Every clip comes back whole behind its delay, or cut at the window's end; noise has the level it should have."""
    rate, length, rows = 1_000.0, 3_000, 200
    count = np.where(np.arange(rows) % 10 == 0, 0, rng.integers(500, length + 1, rows))
    before = np.arange(length) < count[:, None]
    clips = np.where(before, rng.normal(size=(rows, length)), np.nan).astype(np.float32)
    clean = stream(clips, before, rate).replace(start=np.full(rows, 2.0, np.float32))
    empty = jax.jit(TimeShift(1.5, None, 0.75))(clean, keys(rows))
    delays = np.round((2.0 - np.asarray(empty.start)) * rate).astype(int)
    assert 0.1 < (delays == 0).mean() < 0.4
    assert 1_300 < delays.max() < 1_500
    np.testing.assert_array_equal(
        empty.valid, (np.arange(length) >= delays[:, None]) & (np.arange(length) < (delays + count)[:, None])
    )
    for row, delay in enumerate(delays):
        kept = clips[row, : min(count[row], length - delay)]
        np.testing.assert_array_equal(np.asarray(empty.values)[row, delay : delay + len(kept)], kept)
    assert not np.asarray(empty.values)[~np.asarray(empty.valid)].any()

    filled = jax.jit(TimeShift(1.5, (6.0, 6.0), 0.75, 0.5))(clean, keys(rows))
    delays = np.round((2.0 - np.asarray(filled.start)) * rate).astype(int)
    values, valid = np.asarray(filled.values), np.asarray(filled.valid)
    whole, has = valid.all(1), count > 0
    assert not valid[~has].any()  # A missing clip stays missing.
    assert 0.35 < whole[has].mean() < 0.65
    around = (np.arange(length) < delays[:, None]) | (np.arange(length) >= (delays + count)[:, None])
    noise = values[(whole & has)[:, None] & around]
    # Clips have power 1: 6 dB below is a quarter.
    np.testing.assert_allclose(10 * np.log10(np.mean(noise**2)), -6, atol=0.3)
    assert not values[~whole[:, None] & around].any()
    for row in np.flatnonzero(has):
        kept = clips[row, : min(count[row], length - delays[row])]
        np.testing.assert_array_equal(values[row, delays[row] : delays[row] + len(kept)], kept)
