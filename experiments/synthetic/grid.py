"""A small corpus in GRID's layout: drawn faces that say GRID's sentences with computer speech. SYNTHETIC.

python experiments/synthetic/grid.py data/grid

Speakers and sentences are drawn by the seed; each clip is 3 s, 75 frames of 60x48, a sixth of GRID's, with the sound at
25 kHz beside it and the alignment of its words. Lips follow the phonemes. With ``--snr`` there is white noise on the
sound, by clip as far below its mean power: the same clips with another range differ in the noise alone.

Sound in quiet tells all words apart: an ideal listener has no error. Pictures tell apart what lips do, not what the
tongue does: as the lips are drawn, b looks like p, and d, g and t like each other, while all other words look
different, so that an ideal viewer is left with a word error rate of 2 % (3 letters of 25, one word in six). An ideal
observer of both has none. In noise a listener loses consonants first, most of which the lips still tell. A minute on
two CPU cores; needs the extra ``demo``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import soxr
import tyro

from avjax.data import media, parallel
from avjax.data.corpora import grid, mark_synthetic
from avjax.data.synthesis import actors, face, speech
from avjax.data.synthesis.emotions import Knobs

FRAMES, RATE = 75, 25_000
# Drawn square, and cut to GRID's five by four around the mouth.
PIXELS, ROWS, COLUMNS = 72, slice(24, 72), slice(6, 66)
# espeak-ng reads a lone A as an article, and w is none of GRID's letters.
SPELLED = {letter: letter.upper() for letter in grid.SLOTS["letter"]} | {"a": "eigh"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to write.

    Attributes:
      folder: where to.
      clips: sentences a speaker.
      speakers: numbers of GRID's; 1, 2, 20 and 22 test where speakers are kept apart, 3 and 4 validate.
      seed: of sentences and of how they are said.
      snr: range of the ratio of sound to noise in dB; none for quiet.
      workers: processes; by default one a core. It changes no file.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    clips: int = 100
    speakers: tuple[int, ...] = (1, 2, 3, 5, 6, 7, 8, 9)
    seed: int = 0
    snr: tuple[float, float] | None = None
    workers: int | None = None


def sentences(options: Options, speaker: int) -> list[str]:
    """Names of a speaker's sentences, none twice, with every word of a slot about as often."""
    rng = np.random.default_rng([options.seed, speaker, 5])
    found: dict[str, None] = {}
    while len(found) < options.clips:
        columns = []
        for words in grid.SLOTS.values():
            rounds = [rng.permutation(list(words)) for _ in range(-(-options.clips // len(words)))]
            columns.append(np.concatenate(rounds)[: options.clips])
        found |= dict.fromkeys("".join(letters) for letters in zip(*columns, strict=True))
    return list(found)[: options.clips]


def say(options: Options, speaker: int, code: str, rng: np.random.Generator) -> speech.Utterance:
    """The sentence of this name, at a speed and a pitch that are drawn."""
    words = [SPELLED.get(word, word) for word in grid.words_of(code)]
    return speech.say(
        actors.voice(_looks(options), speaker),
        " ".join(words),
        words_per_minute=int(rng.integers(140, 190)),
        pitch=int(rng.integers(35, 66)),
        span=int(rng.integers(30, 61)),
    )


def aligned(spoken: speech.Utterance, code: str, onset: float) -> list[grid.Spoken]:
    """The words between silences, in seconds from the clip's start."""
    begins = [onset + begin for begin in spoken.words]
    ends = [*begins[1:], onset + spoken.seconds]
    words = [grid.Spoken(*each) for each in zip(begins, ends, grid.words_of(code), strict=True)]
    length = FRAMES / face.RATE
    return [grid.Spoken(0.0, begins[0], "sil"), *words, grid.Spoken(ends[-1], length, "sil")]


def noisy(samples: np.ndarray, snr: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """With white noise, the sum no louder than int16 holds."""
    sound = samples.astype(np.float64)
    level = np.sqrt(np.mean(sound**2) * 10 ** (-rng.uniform(*snr) / 10))
    mixed = sound + level * rng.standard_normal(len(sound))
    return np.round(mixed * min(1.0, 32767 / np.abs(mixed).max())).astype(np.int16)


def make_clips(options: Options, speaker: int, codes: Sequence[str]) -> int:
    """Writes clips of one speaker, each file whole or not at all; returns how many."""
    looks = _looks(options)
    for code in codes:
        rng = np.random.default_rng([options.seed, speaker, 6, *code.encode()])
        spoken, onset = say(options, speaker, code, rng), float(rng.uniform(0.25, 0.7))
        # Quiet enough that only the loudest peaks of noise are clipped.
        spoken = dataclasses.replace(spoken, samples=0.3 * spoken.samples)
        performed = actors.act(
            actors.look(looks, speaker),
            spoken,
            expression=np.zeros(len(face.EXPRESSION)),
            timing=actors.Timing(FRAMES, onset, spoken.seconds, delay=0.0, turn=None),
            pixels=PIXELS,
            rng=rng,
        )
        samples = soxr.resample(performed.samples, speech.RATE, RATE)
        if options.snr is not None:
            samples = noisy(samples, options.snr, rng)
        frames = media.Frames(performed.images[:, ROWS, COLUMNS], np.arange(FRAMES) / face.RATE)
        _write(options.folder / f"s{speaker}" / f"{code}.mp4", frames, None)
        _write(options.folder / "audio_25k" / f"s{speaker}" / f"{code}.wav", None, media.Waveform(samples, RATE))
        grid.write_alignment(options.folder / "align" / f"s{speaker}" / f"{code}.align", aligned(spoken, code, onset))
    return len(codes)


def write(options: Options) -> None:
    """Writes the corpus, over what another run left."""
    speech.check_installed()
    if wrong := [speaker for speaker in options.speakers if not 1 <= speaker <= grid.SPEAKERS]:
        raise SystemExit(f"speakers are numbered 1 to {grid.SPEAKERS}, not {wrong[0]}")
    noise = "in quiet" if options.snr is None else f"in white noise, SNR {options.snr[0]:g} to {options.snr[1]:g} dB"
    mark_synthetic(
        options.folder,
        f"SYNTHETIC: drawn faces and computer speech {noise}; no person was recorded.\n"
        f"Written by experiments/synthetic/grid.py with the seed {options.seed}.",
    )
    tasks = []
    for speaker in options.speakers:
        for folder in (f"s{speaker}", f"audio_25k/s{speaker}", f"align/s{speaker}"):
            (options.folder / folder).mkdir(parents=True, exist_ok=True)
        codes = sentences(options, speaker)
        tasks += [(options, speaker, codes[begin : begin + 10]) for begin in range(0, len(codes), 10)]
    made = parallel.run(
        make_clips,
        tasks,
        workers=options.workers,
        description="GRID's layout (synthetic)",
        sizes=[len(codes) for _, _, codes in tasks],
    )
    print(f"{sum(made)} clips of {len(options.speakers)} speakers in {options.folder}")


def _looks(options: Options) -> Knobs:
    return Knobs(seed=options.seed)


def _write(path: Path, frames: media.Frames | None, waveform: media.Waveform | None) -> None:
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    # A preset that looks no further ahead: equal clips give equal files.
    media.encode(partial, frames, waveform, preset="superfast")
    os.replace(partial, path)


if __name__ == "__main__":
    write(tyro.cli(Options, description=__doc__))
