"""The demo corpus's actors: how each looks and sounds, and how one clip is performed."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np

from avjax.data.synthesis import face, speech
from avjax.data.synthesis.emotions import Knobs

SHIFT, TURN = (0.035, 0.025), 0.05  # typical motion of a head: right and down in half pictures, radians
_SKIN = ((0.96, 0.80, 0.69), (0.55, 0.36, 0.25))  # the two ends of the range
_HAIR = ((0.16, 0.11, 0.09), (0.36, 0.20, 0.10), (0.66, 0.47, 0.22), (0.45, 0.42, 0.42))
_IRIS = ((0.30, 0.19, 0.10), (0.20, 0.40, 0.62), (0.27, 0.45, 0.27))


@dataclasses.dataclass(frozen=True)
class Performed:
    """One performed clip: T frames at 25 a second and the sound under them.

    Attributes:
      images: uint8 [T, H, W, 3].
      samples: int16 [S] at ``speech.RATE``, as long as the frames.
    """

    images: np.ndarray
    samples: np.ndarray


@dataclasses.dataclass(frozen=True)
class Timing:
    """When what happens in a clip, in seconds.

    Attributes:
      frames: how many frames the clip has.
      onset: when the mouth begins to speak.
      speaking: how long it speaks, about.
      delay: the sound comes so much after the picture; before it where negative.
      turn: the clip begins so far into its own circle, end and beginning joined (interaction "order" only: there no
        clip may show by where its speech begins whether sound or picture was moved). None leaves it as it is.
    """

    frames: int
    onset: float
    speaking: float
    delay: float
    turn: float | None


def is_female(actor: int) -> bool:
    """RAVDESS: actors of even number are female."""
    return actor % 2 == 0


def look(knobs: Knobs, actor: int) -> face.Appearance:
    rng = np.random.default_rng([knobs.seed, actor, 1])
    reach = knobs.appearance_range

    def vary(low: float, high: float) -> float:
        return float(0.5 * (low + high) + reach * (high - low) * (rng.random() - 0.5))

    shade = vary(0.0, 0.9)
    skin = tuple(a + (b - a) * shade for a, b in zip(*_SKIN, strict=True))
    common, other = _HAIR[0], _HAIR[rng.integers(len(_HAIR))]
    hair = tuple(a + (b - a) * min(1.0, 1.4 * reach) for a, b in zip(common, other, strict=True))
    background = colorsys.hsv_to_rgb(0.56 + reach * 0.5 * (rng.random() - 0.5), vary(0.12, 0.38), vary(0.72, 0.92))
    clothes = colorsys.hsv_to_rgb(rng.random(), 0.25 + 0.35 * reach, vary(0.35, 0.75))
    iris = tuple(a + (b - a) * reach for a, b in zip(_IRIS[0], _IRIS[rng.integers(len(_IRIS))], strict=True))
    return face.Appearance(
        skin=skin,
        hair=hair,
        clothes=clothes,
        background=background,
        iris=iris,
        head=(vary(0.52, 0.64), vary(0.68, 0.78)),
        eyes=(vary(0.22, 0.28), vary(0.04, 0.12)),
        mouth=vary(0.36, 0.44),
        long_hair=is_female(actor),
        fringe=vary(0.1, 0.6),
        parting=float(reach * rng.uniform(-2, 2)),
    )


def voice(knobs: Knobs, actor: int) -> speech.Voice:
    rng = np.random.default_rng([knobs.seed, actor, 2])
    reach = knobs.appearance_range
    female = is_female(actor)
    low, high = (165.0, 225.0) if female else (85.0, 125.0)
    formants = np.array((1.13, 1.17, 1.13) if female else (1.0, 1.0, 1.0))
    formants *= 1 + 0.08 * reach * rng.uniform(-1, 1) + 0.04 * reach * rng.uniform(-1, 1, 3)
    return speech.Voice(
        female=female,
        pitch=float(0.5 * (low + high) + reach * (high - low) * (rng.random() - 0.5)),
        formants=tuple(float(scale) for scale in formants),
        loudness=float(2.0 * reach * rng.uniform(-1, 1)),
    )


def perform(
    appearance: face.Appearance,
    speaker: speech.Voice,
    *,
    statement: int,
    arousal: float,
    expression: np.ndarray,
    timing: Timing,
    pixels: int,
    rng: np.random.Generator,
) -> Performed:
    """Speaks and draws one clip. ``rng`` moves the head and shuts the eyes; the cues are given."""
    spoken = speech.speak(speaker, statement, arousal, timing.speaking)
    return act(appearance, spoken, expression=expression, timing=timing, pixels=pixels, rng=rng)


def act(
    appearance: face.Appearance,
    spoken: speech.Utterance,
    *,
    expression: np.ndarray,
    timing: Timing,
    pixels: int,
    rng: np.random.Generator,
) -> Performed:
    """Draws the face that says what is spoken, and lays the sound under it."""
    length = timing.frames / face.RATE
    times = (np.arange(timing.frames) + 0.5) / face.RATE
    if timing.turn is None:
        samples = _lay(spoken.samples, timing.onset + timing.delay, length)
        seen_at = times
    else:
        samples = np.roll(_lay(spoken.samples, timing.onset, length), round((timing.delay - timing.turn) * speech.RATE))
        seen_at = (times + timing.turn) % length
    opening, rounding = face.mouth_track(spoken.phonemes, timing.onset, seen_at)
    motion = move(opening, rounding, expression, times, rng)
    return Performed(face.draw(appearance, motion, pixels), recorded(samples, rng))


def move(
    opening: np.ndarray, rounding: np.ndarray, expression: np.ndarray, times: np.ndarray, rng: np.random.Generator
) -> face.Performance:
    """What a face does at ``times`` whose mouth moves as given [T]: it sways, blinks and wears an expression [4]."""
    return face.Performance(
        expression=_evolve(expression, times, rng),
        mouth_opening=opening,
        mouth_rounding=rounding,
        lids=_blink(times, rng),
        shift=np.stack([SHIFT[0] * _sway(times, rng), SHIFT[1] * _sway(times, rng)], axis=1),
        turn=TURN * _sway(times, rng),
    )


def recorded(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sound as int16, with that of a room, which is never silent: -84 dB of full scale."""
    quiet = 2.0 * rng.standard_normal(len(samples))
    return np.clip(np.round(32767 * samples + quiet), -32768, 32767).astype(np.int16)


def _lay(samples: np.ndarray, begin: float, length: float) -> np.ndarray:
    """Speech that begins at ``begin`` in silence of ``length`` seconds; what does not fit is cut with a short fade."""
    laid = np.zeros(round(length * speech.RATE), np.float32)
    first = round(begin * speech.RATE)
    part = samples[max(0, -first) :][: max(0, len(laid) - max(0, first))].copy()
    fade = min(len(part), 220)
    if fade and len(part) < len(samples):
        part[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    laid[max(0, first) : max(0, first) + len(part)] = part
    return laid


def _evolve(expression: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The expression [T, 4]: there from the first frame, grows to its full size and wavers a little."""
    grown = 0.8 + 0.2 * np.clip(times / rng.uniform(0.3, 0.9), 0, 1)
    return expression * (grown + 0.04 * _sway(times, rng))[:, None]


def _sway(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth motion of about unit size: two slow waves of random rate and phase."""
    rates, phases, sizes = rng.uniform(0.2, 1.1, 2), rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.3, 0.8, 2)
    return np.sin(2 * np.pi * times[:, None] * rates + phases) @ sizes


def _blink(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lids [T]: 1 open, 0 shut; a blink of 0.16 s in half of the clips."""
    if rng.random() < 0.5:
        return np.ones_like(times)
    shut = rng.uniform(0, times[-1])
    return 1 - np.clip(1.3 - np.abs(times - shut) / 0.08, 0, 1)
