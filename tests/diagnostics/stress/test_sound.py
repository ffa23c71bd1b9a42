"""The measured SNR is the nominal one; silence is silence; a loud mixture is turned down and not clipped."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.stress import ambience, corruption, sound
from avjax.diagnostics.stress.corruption import SUITE, corrupted, unchanged
from avjax.streams import Stream
from tests.diagnostics.stress.clips import ROWS, clips, corrupt_rows, stream
from tests.models import tiny

NOISES = ["audio/white_noise", *(name for name, one in SUITE.items() if one.unit == "dB SNR")]
NAMES = [
    name if name == "audio/white_noise" else pytest.param(name, marks=pytest.mark.slow)
    for name in dict.fromkeys(NOISES)
]


@pytest.fixture(autouse=True)
def unoptimised(monkeypatch):
    monkeypatch.setattr(corruption, "_rows", corrupt_rows)


def active(values: np.ndarray, rate: int = 16_000) -> np.ndarray:
    """By the definition, part by part."""
    size = rate // 50
    energies = [np.square(values[at : at + size].astype(np.float64)).sum() for at in range(0, len(values), size)]
    return np.repeat(np.asarray(energies) > 1e-4 * max(energies), size)[: len(values)]


@pytest.mark.parametrize("name", NAMES)
def test_the_ratio_is_the_nominal_one(name):
    clean = clips()["audio"]
    # At -50 dB of full scale nothing has to be turned down.
    quiet = clean.replace(values=clean.values / 20)
    # The pauses of half the clips are silent: they are no part of the ratio.
    quiet.values[::2, 2000:5000] = 0
    for severity, nominal in enumerate(SUITE[name].levels, 1):
        noisy = corrupted({"audio": quiet}, name, severity, seed=3, index=np.arange(ROWS))["audio"]
        for before, after in zip(quiet.values, noisy.values, strict=True):
            where = active(before)
            signal, noise = before[where].astype(np.float64), (after - before)[where].astype(np.float64)
            assert 10 * np.log10(np.square(signal).mean() / np.square(noise).mean()) == pytest.approx(nominal, abs=0.1)


def test_noise_of_one_strength_is_no_ratio(rng):
    """READ's noise has the deviations of the pictures' whatever the sound: of speech of 0.05 it is above the speech,
    and a sound ten times as loud suffers 20 dB less. Ours is held to its ratio above."""
    wave = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    ratios = {0.05: [], 0.5: []}
    for strength, found in ratios.items():
        sound = wave * strength / np.sqrt(np.square(wave).mean())
        for deviation in SUITE["video/gaussian_noise"].levels:
            noise = deviation * rng.standard_normal(len(wave))
            found.append(10 * np.log10(np.square(sound).mean() / np.square(noise).mean()))
    # Of 16,000 values the power is within 5.6 % by five standard deviations, a quarter of a decibel.
    assert ratios[0.05] == pytest.approx([-4.1, -7.6, -11.1, -14.3, -17.6], abs=0.3)
    np.testing.assert_allclose(np.subtract(ratios[0.5], ratios[0.05]), 20, atol=0.5)


def test_a_loud_mixture_is_turned_down_as_a_whole():
    clean = clips()["audio"]
    loud = {"audio": clean.replace(values=clean.values / np.abs(clean.values).max(1, keepdims=True))}
    quiet = {"audio": clean.replace(values=loud["audio"].values / 16)}
    index = np.arange(ROWS)
    loud, quiet = (corrupted(one, "audio/white_noise", 5, seed=0, index=index)["audio"].values for one in (loud, quiet))
    np.testing.assert_allclose(np.abs(loud).max(1), 1, rtol=1e-6)
    expected = quiet / np.abs(quiet).max(1, keepdims=True)
    np.testing.assert_allclose(loud, expected, atol=1e-5)


def test_silence_is_counted():
    clean = clips()["audio"]
    values = clean.values.copy()
    values[:5] = 0
    before = {"audio": clean.replace(values=values)}
    after = corrupted(before, "audio/white_noise", 5, seed=0, index=np.arange(ROWS))
    np.testing.assert_array_equal(unchanged(before, after)["audio"], np.arange(ROWS) < 5)


def test_active_parts(rng):
    values = rng.normal(size=4000) * np.repeat([1, 0.02, 0.005, 1], 1000)
    part = Stream(jnp.asarray(values, jnp.float32), jnp.ones(4000, bool), jnp.zeros(()), 16_000.0)
    found = np.asarray(tiny.jit(sound.active)(part))
    np.testing.assert_array_equal(found, active(values))
    # -34 dB counts, -46 dB does not: parts of 320 samples that lie in one piece.
    assert found[1280:1920].all()
    assert not found[2240:2880].any()


def test_nothing_of_what_is_not_valid_counts():
    clean = clips()["audio"]
    values, valid = clean.values.copy(), clean.valid.copy()
    valid[:, 4000:] = False
    values[:, 4000:] = 1
    half = {"audio": clean.replace(values=values, valid=valid)}
    noisy = corrupted(half, "audio/white_noise", 3, seed=0, index=np.arange(ROWS))["audio"].values
    noise = (noisy - values)[:, :4000]
    ratio = np.square(values[:, :4000]).mean(1) / np.square(noise).mean(1)
    # The noise of the inactive parts is in this ratio too, so it is only about the nominal one.
    np.testing.assert_allclose(10 * np.log10(ratio), 20, atol=1.5)


def test_surroundings_are_made_for_any_length_and_rate():
    short = stream(np.zeros((1, 777), np.float32), 8000.0)
    part = jax.tree.map(lambda array: jnp.asarray(array[0]), short)
    for make in (ambience.wind, ambience.rain, ambience.crackle):
        wave = np.asarray(tiny.jit(make)(part, jax.random.key(0)))
        assert wave.shape == (777,)
        assert np.isfinite(wave).all()
        assert wave.std() > 0
