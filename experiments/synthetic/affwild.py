"""Writes a small SYNTHETIC corpus in the layout of Aff-Wild2: drawn faces that speak while valence and arousal drift.

python experiments/synthetic/affwild.py data/affwild

Every video is of a person of its own, whose valence and arousal are two smooth random curves that know nothing of one
another. Arousal is heard: how fast, high, loud and bright the next sentence is spoken. Valence is seen: a smile where
it is above 0, and below it now the face of sorrow, now that of anger. So an ideal listener follows arousal (CCC about
1) and knows nothing of valence (0), an ideal viewer the reverse, but for what lips tell of the rhythm of speech; the
mean of both dimensions is about 0.5 for either, and about 1 for both together. What is lost to that: a sentence has one
arousal for 1.2 s; the annotation has a tremor (deviation 0.03); voices and faces differ in what they are at rest. In 4
of 100 frames nothing is annotated (-5).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from avjax.data import media, parallel
from avjax.data.blocks import encode_jpeg
from avjax.data.corpora import mark_synthetic
from avjax.data.synthesis import actors, face, speech
from avjax.data.synthesis.emotions import Knobs

VALIDATION_SHARE = 0.4  # of the videos; the reader makes half of them the test split
FRAME_RATE = 10
TREMOR, UNLABELLED = 0.03, 0.04
_SMILE, _SORROW, _ANGER = (np.array(face.EXPRESSIONS[name]) for name in ("smile", "droop", "frown"))


@dataclasses.dataclass(frozen=True)
class Options:
    """A synthetic corpus in Aff-Wild2's layout.

    Attributes:
      folder: where to; must be new or empty.
      clips: how many videos.
      seconds: length of each.
      seed: equal seeds make equal files.
      pixels: height and width.
      workers: processes; None takes one a core.
    """

    folder: tyro.conf.Positional[Path]
    clips: int = 100
    seconds: float = 24.0
    seed: int = 0
    pixels: int = 32
    workers: int | None = None


def write(options: Options) -> int:
    """Writes the corpus; returns how many videos it has."""
    if options.folder.is_dir() and any(options.folder.iterdir()):
        raise SystemExit(f"{options.folder}: is not empty; choose a new folder")
    speech.check_installed()
    note = f"SYNTHETIC: drawn faces and computer speech by experiments/synthetic/affwild.py, seed {options.seed}"
    mark_synthetic(options.folder, note)
    for name in ("audio", "cropped_aligned", "annotations/Train_Set", "annotations/Validation_Set"):
        (options.folder / name).mkdir(parents=True)
    tasks = [(options, number) for number in range(options.clips)]
    made = parallel.run(_write_video, tasks, workers=options.workers, description="Aff-Wild2 (synthetic)")
    return sum(made)


def _write_video(options: Options, number: int) -> int:
    random = np.random.default_rng([options.seed, number])
    times = (np.arange(round(options.seconds * FRAME_RATE)) + 0.5) / FRAME_RATE
    valence, arousal = drift(times, random), drift(times, random)
    knobs = Knobs(seed=options.seed)
    samples, opening, rounding = talk(actors.voice(knobs, number), times, arousal, random)
    anger = (1 + drift(times, random))[:, None] / 2
    below = anger * _ANGER + (1 - anger) * _SORROW
    expression = np.where(valence[:, None] > 0, valence[:, None] * _SMILE, -valence[:, None] * below)
    motion = actors.move(opening, rounding, expression, times, random)
    images = face.draw(actors.look(knobs, number), motion, options.pixels)
    name = f"video{number + 1:03d}"
    (options.folder / "cropped_aligned" / name).mkdir()
    for place, file in enumerate(encode_jpeg(images, 2), start=1):
        (options.folder / "cropped_aligned" / name / f"{place:05d}.jpg").write_bytes(file)
    media.encode(options.folder / "audio" / f"{name}.wav", None, media.Waveform(samples, speech.RATE))
    affect = np.stack([valence, arousal], axis=1) + TREMOR * random.standard_normal((len(times), 2))
    affect = np.clip(affect, -1, 1)
    affect[random.random(len(times)) < UNLABELLED] = -5
    split = "Validation_Set" if number < round(VALIDATION_SHARE * options.clips) else "Train_Set"
    rows = "".join(f"{v:.4f},{a:.4f}\n" for v, a in affect)
    (options.folder / "annotations" / split / f"{name}.txt").write_text(f"valence,arousal\n{rows}", encoding="utf-8")
    return 1


def drift(times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A smooth random curve [T] from -1 to 1: three waves of 6 to 30 s."""
    rates, phases = 1 / random.uniform(6, 30, 3), random.uniform(0, 2 * np.pi, 3)
    return np.tanh(np.sin(2 * np.pi * times[:, None] * rates + phases).sum(axis=1))


def talk(
    voice: speech.Voice, times: np.ndarray, arousal: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sentence after the other, each as aroused as its middle is: int16 samples, and the mouth [T] at ``times``."""
    length = len(times) / FRAME_RATE
    samples = np.zeros(round(length * speech.RATE), np.float32)
    phonemes: list[tuple[float, str]] = []
    begin = random.uniform(0.0, 0.3)
    while begin < length - 0.3:
        level = 1.5 * (1 + np.interp(begin + 0.6, times, arousal))
        spoken = speech.speak(voice, int(random.integers(2)), float(level), 1.2)
        first = round(begin * speech.RATE)
        part = spoken.samples[: len(samples) - first]
        samples[first : first + len(part)] = part
        phonemes += [(begin + seconds, name) for seconds, name in spoken.phonemes]
        begin += spoken.seconds + random.uniform(0.05, 0.25)
    opening, rounding = face.mouth_track(tuple(phonemes), 0.0, times)
    return actors.recorded(samples, random), opening, rounding


if __name__ == "__main__":
    print(f"{write(tyro.cli(Options))} videos")
