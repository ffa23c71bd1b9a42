"""Speech with exact phoneme timings, by espeak-ng (optional extra ``demo``).

espeak-ng is called through ctypes; espeakng-loader brings the library and its data (GPL-3.0, hence an extra). Its own
voice variants keep a flutter and a breath generator running from one utterance to the next, so that a clip would depend
on the clips before it. The voices here are variants of our own, written out without either: the same words and
settings give the same samples, in any order and in any process.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
RATE = 22_050  # Hz, what espeak-ng synthesises

_SYNCHRONOUS, _PHONEME_EVENTS, _UTF8 = 2, 1, 1
_WORDS_PER_MINUTE, _PITCH, _PITCH_RANGE, _WORD_GAP = 1, 3, 4, 7
_WORD, _PHONEME = 1, 7  # types of event
_NATURAL_SPEED = 175  # words per minute


@dataclasses.dataclass(frozen=True)
class Voice:
    """An actor's voice.

    Attributes:
      female: which set of formants the voice starts from.
      pitch: Hz, of the voice at rest.
      formants: scale of the first, second and third formant, 1 is espeak-ng's own.
      loudness: dB, this actor's offset from the others.
    """

    female: bool
    pitch: float
    formants: tuple[float, float, float]
    loudness: float

    def variant(self) -> str:
        """The voice as an espeak-ng voice file."""
        high = 1.5 if self.female else 1.45
        lines = [
            "language en-us",
            "name avjax",
            f"gender {'female' if self.female else 'male'}",
            f"pitch {self.pitch:.0f} {self.pitch * high:.0f}",
            "flutter 0",
            "roughness 0",
        ]
        heights = (75, 70, 80) if self.female else (100, 97, 97)
        widths = (150, 150, 150) if self.female else (100, 100, 100)
        for number, (scale, height, width) in enumerate(zip(self.formants, heights, widths, strict=True), start=1):
            lines.append(f"formant {number} {100 * scale:.0f} {height} {width}")
        return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One spoken statement.

    Attributes:
      samples: float32 [S] at ``RATE``, from the first sound on; full scale is 1.
      phonemes: (seconds from the first sample, espeak-ng's mnemonic) in order; silence is "".
      words: seconds from the first sample at which each word begins.
    """

    samples: np.ndarray
    phonemes: tuple[tuple[float, str], ...]
    words: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def speak(voice: Voice, statement: int, arousal: float, seconds: float) -> Utterance:
    """Says ``STATEMENTS[statement]`` in about ``seconds``, as someone of this ``arousal`` does.

    Arousal runs from 0 (subdued) to 3 (agitated), and moves what moves with it in people (Juslin and
    Laukka 2003, Psychological Bulletin 129:770): articulation rate, pitch, pitch range, loudness and the
    share of high frequencies. Words come faster and further apart, so that the length stays: the picture alone cannot
    tell the arousal by when the mouth stops.
    """
    gap = max(0.0, round(1.5 * arousal))
    natural = _natural_seconds(voice, statement)
    speed = float(_NATURAL_SPEED)
    for _ in range(6):  # fixed point: a word gap costs less at a higher speed
        speed = _NATURAL_SPEED * natural / seconds * (1 + gap * max(0.02, 0.075 - 0.00015 * speed))
    said = _engine().say(
        voice,
        STATEMENTS[statement],
        {
            _WORDS_PER_MINUTE: round(np.clip(speed, 100, 420)),
            _PITCH: round(np.clip(32 + 15 * arousal, 0, 99)),
            _PITCH_RANGE: round(np.clip(12 + 29 * arousal, 0, 99)),
            _WORD_GAP: int(gap),
        },
    )
    loudness = -31.0 + 5.5 * arousal + voice.loudness
    return dataclasses.replace(said, samples=_voice_effort(said.samples, -4.0 + 2.7 * arousal, loudness))


def say(
    voice: Voice, text: str, *, words_per_minute: int = _NATURAL_SPEED, pitch: int = 50, span: int = 50
) -> Utterance:
    """Says any text in an even mood; ``pitch`` and its ``span`` are espeak-ng's, from 0 to 99."""
    settings = {_WORDS_PER_MINUTE: words_per_minute, _PITCH: pitch, _PITCH_RANGE: span, _WORD_GAP: 0}
    return _engine().say(voice, text, settings)


def _voice_effort(samples: np.ndarray, tilt: float, loudness: float) -> np.ndarray:
    """Tilts the spectrum by ``tilt`` dB an octave and sets the loudness, dB of full scale; soft at the limits."""
    length = -(-len(samples) // 4096) * 4096  # an awkward length makes a slow transform
    octaves = np.log2(np.clip(np.fft.rfftfreq(length, 1 / RATE), 150, 6000) / 1000)
    tilted = np.fft.irfft(np.fft.rfft(samples, length) * 10 ** (tilt * octaves / 20), length)[: len(samples)]
    power = np.sqrt(np.mean(tilted**2)) + 1e-9
    return np.tanh(tilted * (10 ** (loudness / 20) / power)).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _natural_seconds(voice: Voice, statement: int) -> float:
    settings = {_WORDS_PER_MINUTE: _NATURAL_SPEED, _PITCH: 50, _PITCH_RANGE: 50, _WORD_GAP: 0}
    return _engine().say(voice, STATEMENTS[statement], settings).seconds


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """libespeak-ng, which has one state a process."""

    def __init__(self) -> None:
        loader = _loader()
        self._library = ctypes.CDLL(str(loader.get_library_path()))
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[int, int, str]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only the pointer
        data = str(loader.get_data_path())
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _PHONEME_EVENTS)
        if rate != RATE:
            raise RuntimeError(
                f"espeak-ng did not start with its data in {data} (it answered {rate}, not {RATE} Hz); "
                "reinstall it: pip install --force-reinstall espeakng-loader"
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self._folder = tempfile.TemporaryDirectory(prefix="avjax-voices-")
        self._files: dict[str, Path] = {}

    def say(self, voice: Voice, text: str, settings: dict[int, int]) -> Utterance:
        """``settings`` are espeak-ng's parameters by number."""
        self._choose(voice)
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks.clear()
        self._events.clear()
        raw = text.encode() + b"\0"
        self._library.espeak_Synth(raw, len(raw), 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        if not self._blocks:
            raise RuntimeError(f"espeak-ng said nothing for {text!r}")
        samples = np.concatenate(self._blocks).astype(np.float32) / 32768
        loud = np.flatnonzero(np.abs(samples) > 0.003)
        first, last = int(loud[0]), int(loud[-1]) + 1
        phonemes = [
            (max(0.0, (sample - first) / RATE), name if name.strip("_:;!|") else "")
            for kind, sample, name in self._events
            if kind == _PHONEME and sample < last
        ]
        words = [max(0.0, (sample - first) / RATE) for kind, sample, _ in self._events if kind == _WORD]
        return Utterance(samples[first:last], (*phonemes, ((last - first) / RATE, "")), tuple(words))

    def _choose(self, voice: Voice) -> None:
        text = voice.variant()
        if text not in self._files:
            path = Path(self._folder.name) / f"voice-{len(self._files)}"
            path.write_text(text)
            self._files[text] = path
        if error := self._library.espeak_SetVoiceByFile(str(self._files[text]).encode()):
            raise RuntimeError(f"espeak-ng refused the voice file {self._files[text]} (error {error})")

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        number = 0
        while events[number].type:
            event = events[number]
            self._events.append((event.type, event.sample, event.id.string.decode() if event.type == _PHONEME else ""))
            number += 1
        return 0


def _loader() -> Any:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "the demo corpus speaks with espeak-ng, which is not installed: pip install avjax[demo]"
        ) from error
    return espeakng_loader


@functools.cache
def _engine() -> _Engine:
    return _Engine()


def check_installed() -> None:
    """Raises ImportError, saying what to install, where espeak-ng is missing."""
    _loader()
