"""Speech: the same every time, as loud, high and fast as arousal says, with true timings."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from avjax.data.synthesis import speech
from avjax.data.synthesis.speech import RATE, Voice, speak

pytest.importorskip("espeakng_loader", reason="needs the extra: pip install avjax[demo]")

MAN = Voice(female=False, pitch=100.0, formants=(1.0, 1.0, 1.0), loudness=0.0)
WOMAN = Voice(female=True, pitch=200.0, formants=(1.13, 1.17, 1.13), loudness=0.0)


def pitches(samples: np.ndarray) -> np.ndarray:
    """Fundamental frequency of the voiced 46 ms windows, by autocorrelation."""
    found = []
    for begin in range(0, len(samples) - 1024, 512):
        window = samples[begin : begin + 1024] - samples[begin : begin + 1024].mean()
        correlation = np.fft.irfft(np.abs(np.fft.rfft(window, 2048)) ** 2)[:1024]
        lags = np.arange(RATE // 480, RATE // 65)
        lag = lags[correlation[lags].argmax()]
        if correlation[lag] > 0.6 * correlation[0] > 0:
            found.append(RATE / lag)
    return np.array(found)


def articulated(said: speech.Utterance) -> float:
    """Seconds that are not pauses."""
    ends = [begin for begin, _ in said.phonemes[1:]]
    return sum(end - begin for (begin, name), end in zip(said.phonemes, ends, strict=False) if name)


def tilt(samples: np.ndarray) -> float:
    """Level above 2 kHz over the level below, dB."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    above = np.fft.rfftfreq(len(samples), 1 / RATE) > 2000
    return float(10 * np.log10(power[above].sum() / power[~above].sum()))


def test_nothing_that_was_said_before_is_heard() -> None:
    first = speak(WOMAN, 0, 1.3, 1.25)
    speak(MAN, 1, 2.9, 1.0)
    speak(WOMAN, 1, 0.1, 1.4)
    again = speak(WOMAN, 0, 1.3, 1.25)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes


@pytest.mark.parametrize("voice", [MAN, WOMAN])
@pytest.mark.parametrize("statement", [0, 1])
def test_arousal_is_heard_and_takes_no_longer(voice: Voice, statement: int) -> None:
    said = [speak(voice, statement, arousal, 1.25) for arousal in (0.0, 1.0, 2.0, 3.0)]
    loudness = [20 * np.log10(np.sqrt(np.mean(u.samples**2))) for u in said]
    assert np.all(np.diff(loudness) > 4)
    assert np.all(np.diff([np.median(pitches(u.samples)) for u in said]) > 4)
    spread = [np.ptp(np.percentile(pitches(u.samples), [10, 90])) for u in said]
    assert spread[3] > 1.5 * spread[0]
    assert np.all(np.diff([tilt(u.samples) for u in said]) > 1)
    seconds = [u.seconds for u in said]
    assert max(seconds) - min(seconds) < 0.1
    assert abs(np.mean(seconds) - 1.25) < 0.06
    # The words themselves go by faster, with more silence between them.
    spoken = [articulated(u) for u in said]
    assert spoken[3] < 0.95 * spoken[0]


def test_a_woman_speaks_higher_than_a_man() -> None:
    assert np.median(pitches(speak(WOMAN, 0, 1.0, 1.25).samples)) > 1.5 * np.median(
        pitches(speak(MAN, 0, 1.0, 1.25).samples)
    )


def test_timings_are_those_of_the_sound() -> None:
    """Vowels are loud where the timings put them; the closure of "k" in "talking" is quiet."""
    for voice in (MAN, WOMAN):
        said = speak(voice, 0, 1.0, 1.3)
        names = [name for _, name in said.phonemes]
        assert names[0] == "k"
        assert names[-1] == ""
        begins = np.array([begin for begin, _ in said.phonemes])
        assert np.all(np.diff(begins) >= 0)
        assert begins[-1] == pytest.approx(said.seconds)
        power = {}
        for (begin, name), end in zip(said.phonemes, begins[1:], strict=False):
            part = said.samples[int(begin * RATE) : int(end * RATE)]
            power.setdefault(name.strip("'"), []).append(float(np.mean(part**2)) if len(part) else 0.0)
        vowel = min(np.mean(power["I"]), np.mean(power["O:"]), np.mean(power["aI"]))
        assert vowel > 3 * power["t"][0]
        assert vowel > 3 * power["k"][1]


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install avjax\[demo\]"):
        speech.check_installed()
