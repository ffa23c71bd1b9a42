"""Filters, gaps, rooms and converters against what they are defined to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from avjax.diagnostics.stress import channel
from avjax.diagnostics.stress.rows import Corruption
from avjax.streams import Stream
from tests.models import tiny

RATE = 16_000


def one(values: np.ndarray, valid: np.ndarray | None = None) -> Stream:
    there = np.ones(len(values), bool) if valid is None else valid
    return Stream(jnp.asarray(values, jnp.float32), jnp.asarray(there), jnp.zeros(()), float(RATE))


def applied(corruption: Corruption, part: Stream, level: float, seed: int = 0) -> Stream:
    """One clip at one level, and no matter which of the five."""
    function = tiny.jit(corruption.function)
    return function({"audio": part}, jnp.float32(level), jax.random.key(seed))["audio"]


def tone(hertz: float, samples: int = 8000, size: float = 0.1) -> np.ndarray:
    return size * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


def peak(wave: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * RATE / len(wave))


def test_low_pass_by_its_gain():
    """1 / sqrt(1 + (f / c)^16): half the power at the cut-off; the middle of a long tone has no edges."""
    for hertz, expected in ((500, 1.0), (1000, 0.5**0.5), (2000, 1 / (1 + 2.0**16) ** 0.5)):
        found = np.asarray(applied(channel.low_pass, one(tone(hertz)), 1000).values)[2000:6000]
        assert found.std() == pytest.approx(expected * 0.1 / 2**0.5, rel=0.02, abs=1e-4)


def test_the_published_first_cut_off_is_no_filter():
    """AVRobustBench's 8 kHz is Nyquist at 16 kHz, which Butterworth's design refuses; all of ours lie below."""
    with pytest.raises(ValueError, match="0 < Wn"):
        scipy.signal.butter(4, 8000, btype="low", fs=RATE)
    for cut_off in channel.low_pass.levels:
        scipy.signal.butter(4, cut_off, btype="low", fs=RATE)


def test_band_stop_by_octaves():
    for hertz, kept in ((1000, 0), (1850, 0), (2300, 1), (430, 1), (540, 0)):
        found = np.asarray(applied(channel.band_stop, one(tone(hertz)), 2).values)[2000:6000]
        assert found.std() == pytest.approx(kept * 0.1 / 2**0.5, rel=0.02, abs=2e-4)


def test_gaps_cover_their_share_of_the_time():
    """Anywhere in the clip alike, whatever its length; each is one piece of 200 ms at least."""
    part = one(np.zeros(RATE))
    find = tiny.jit(jax.vmap(lambda key: channel.gaps(part, jnp.float32(0.1), key)))
    found = np.asarray(find(jax.random.split(jax.random.key(0), 400)))
    # 400 clips; the deviation of a moment's share is sqrt(0.1 0.9 / 400) = 0.015.
    np.testing.assert_allclose(found[:, :: RATE // 8].mean(0), 0.1, atol=5 * 0.015)
    inside = found[~found[:, 0] & ~found[:, -1]]
    lengths = inside.sum(1)
    # One gap inside a second has all its 200 ms; two gaps are rare neighbours.
    edges = np.abs(np.diff(inside.astype(int), axis=1)).sum(1)
    np.testing.assert_allclose(lengths[edges == 2], 0.2 * RATE, atol=2)


def test_packets_are_lost_as_gilbert_says():
    part = one(np.full(RATE, 0.5))
    lose = jax.vmap(lambda key: channel.packet_loss.function({"audio": part}, jnp.float32(0.2), key)["audio"].values)
    found = np.asarray(tiny.jit(lose)(jax.random.split(jax.random.key(1), 400))) == 0
    packets = found.reshape(400, 50, 320)
    assert (packets.all(-1) | ~packets.any(-1)).all()
    lost = packets[..., 0]
    # Neighbours correlate by 1/2 - 1/8 = 0.375, so 20,000 packets are worth 20000 (1 - 0.375) / (1 + 0.375).
    deviation = (0.2 * 0.8 / (20_000 * 0.625 / 1.375)) ** 0.5
    assert lost.mean() == pytest.approx(0.2, abs=5 * deviation)
    after_lost = lost[:, 1:][lost[:, :-1]]
    assert after_lost.mean() == pytest.approx(0.5, abs=5 * 0.5 / len(after_lost) ** 0.5)


def test_reverberation_decays_by_its_time():
    """Of an impulse: 60 dB down after RT60, and RT60 / 0.6 s of the direct energy."""
    impulse = np.zeros(RATE)
    impulse[0] = 1
    found = np.asarray(applied(channel.reverberation, one(impulse), 0.3).values, np.float64)
    tail = (found / found[0])[1:] ** 2
    # The direct sound has its own sample of noise in it, of variance 0.5 (1 - exp(-13.8 / 4800)) = 0.0014.
    assert tail.sum() == pytest.approx(0.5, rel=0.3)
    early, late = tail[:800].mean(), tail[2400:3200].mean()
    assert 10 * np.log10(early / late) == pytest.approx(60 * 0.15 / 0.3, abs=2)


def test_clipping_keeps_its_percentile(rng):
    values = 0.2 * rng.normal(size=1001)
    valid = np.arange(1001) < 801
    found = np.asarray(applied(channel.clipping, one(values, valid), 80).values)
    limit = np.sort(np.abs(values.astype(np.float32)[:801]))[640]
    np.testing.assert_allclose(found[:801], np.clip(values[:801], -limit, limit), atol=1e-6)
    np.testing.assert_array_equal(found[801:], values.astype(np.float32)[801:])


def test_quantisation_and_gain(rng):
    values = rng.uniform(-1, 1, 500)
    found = np.asarray(applied(channel.quantisation, one(values), 4).values)
    np.testing.assert_allclose(found * 8, np.round(values * 8), atol=1e-5)
    np.testing.assert_allclose(applied(channel.gain, one(values), -20).values, values / 10, atol=1e-6)


def test_resampling_folds():
    """A tone of 5 kHz taken 6000 times a second becomes one of 1 kHz."""
    assert peak(np.asarray(applied(channel.resampling, one(tone(5000)), 6000).values)) == pytest.approx(1000, abs=4)
    low = np.asarray(applied(channel.resampling, one(tone(200)), 6000).values)
    # Straight lines of a tone err by at most (pi f / r)^2 / 2 of its size.
    np.testing.assert_allclose(low[:7900], tone(200)[:7900], atol=0.1 * (np.pi * 200 / 6000) ** 2)


def test_speed_moves_pitch_and_end():
    valid = np.arange(8000) < 6000
    found = applied(channel.speed, one(tone(800), valid), 1.5)
    np.testing.assert_array_equal(np.asarray(found.valid), np.arange(8000) < 4000)
    np.testing.assert_allclose(np.asarray(found.values)[500:3500], tone(1200)[500:3500], atol=5e-3)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_pitch_moves_by_semitones(seed):
    found = np.asarray(applied(channel.pitch, one(tone(880)), 7, seed).values)
    moved = 12 * np.log2(peak(found[1000:]) / 880)
    # 880 Hz have 44 periods in the grain, so that the two taps agree; a bin of the spectrum is 0.07 semitones.
    assert abs(moved) == pytest.approx(7, abs=0.1)
    assert found.std() == pytest.approx(0.1 / 2**0.5, rel=0.01)
