"""A small synthetic corpus in the layout of MMSA's CMU-MOSEI: ``python experiments/synthetic/mosei.py FOLDER``.

Someone says a sentence of 6 to 12 words, with a voice and a face. The sentiment of a clip, in [-3, 3], is

    s w + f + e

w, in -2 to 2, is said: each sentence has one of 12 words that mean something, or none (0), among words that mean
nothing; each word is a vector [24], with noise. s is heard: in a quarter of the clips a stretch of the voice [10] is
ironic, and the words mean the opposite (s = -1). f, in -1 to 1, is seen: for a while the face [14] smiles, frowns or
does neither. e is the raters' disagreement, normal with deviation 0.2, and the sum is rounded to thirds, as a mean of
three raters is. So the face adds to the words, and the voice alone says nothing.

What an ideal observer reaches, who knows w, f and s where they are to be had (``ceilings``), in MAE and Pearson's
correlation. By text alone the best guess is the mean of w and -w: correlation 0.43 in the long run; by the face alone
0.50, by text and voice 0.86, by all three 0.99.

The file is ``unaligned_50.pkl``, with steps padded by zeros behind, lengths, ids of speakers (five clips a video, and a
video is in one split) and, as in the real audio features, some numbers that are -inf.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from pickle import dump
from typing import Any

import numpy as np
import tyro

from avjax.data.corpora import mark_synthetic

WORDS, STEPS = (6, 12), {"text": 12, "audio": 30, "vision": 24}
WIDTHS = {"text": 24, "audio": 10, "vision": 14}
# Word -> what it means; all others mean nothing.
MEANINGS = {
    "great": 2, "superb": 2, "wonderful": 2, "good": 1, "nice": 1, "fine": 1,
    "poor": -1, "weak": -1, "dull": -1, "awful": -2, "dreadful": -2, "horrible": -2,
}  # fmt: skip
FILLERS = (
    "the", "a", "this", "that", "film", "plot", "scene", "actor", "was", "is", "and", "then", "so", "we", "I", "saw",
    "it", "of", "in", "with", "all", "some", "very", "quite",
)  # fmt: skip
IRONY = 0.25
RATERS = 0.2
CLIPS_A_VIDEO = 5
SPLITS = {"train": 0.7, "valid": 0.1, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the corpus.

    Attributes:
      folder: where to.
      clips: of the three splits together.
      seed: of everything.
    """

    folder: tyro.conf.Positional[Path]
    clips: int = 3000
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is said (words, and what they mean), heard (1, or -1 for irony) and seen, and the rated sentiment."""

    words: tuple[str, ...]
    said: int
    heard: int
    seen: int
    sentiment: float


def draw(random: np.random.Generator) -> Clip:
    words = [FILLERS[number] for number in random.integers(len(FILLERS), size=random.integers(WORDS[0], WORDS[1] + 1))]
    said = int(random.integers(-2, 3))
    if said:
        meaning = [word for word, value in MEANINGS.items() if value == said]
        words[random.integers(len(words))] = meaning[random.integers(len(meaning))]
    heard = -1 if random.random() < IRONY else 1
    seen = int(random.integers(-1, 2))
    sentiment = np.clip(heard * said + seen + random.normal(0, RATERS), -3, 3)
    return Clip(tuple(words), said, heard, seen, float(np.round(3 * sentiment) / 3))


class Vectors:
    """Of every word [24], of irony [10] and of a smile [14]."""

    def __init__(self, random: np.random.Generator):
        names = (*MEANINGS, *FILLERS)
        self.numbers = {name: number for number, name in enumerate(names, 1)}
        self.words = dict(zip(names, random.normal(size=(len(names), WIDTHS["text"])), strict=True))
        self.irony, self.smile = (_direction(random, WIDTHS[key]) for key in ("audio", "vision"))

    def features(self, clip: Clip, random: np.random.Generator) -> dict[str, np.ndarray]:
        """text, audio and vision, each of as many steps as the sentence takes."""
        count = len(clip.words)
        text = np.stack([self.words[word] for word in clip.words]) + random.normal(0, 0.3, (count, WIDTHS["text"]))
        audio, vision = (random.normal(size=(STEPS[k] * count // WORDS[1], WIDTHS[k])) for k in ("audio", "vision"))
        audio[_stretch(random, len(audio))] += self.irony * (clip.heard < 0)
        vision[_stretch(random, len(vision))] += self.smile * clip.seen
        audio[random.random(audio.shape) < 0.0001] = -np.inf
        return {"text": text, "audio": audio, "vision": vision}


def _direction(random: np.random.Generator, width: int) -> np.ndarray:
    """Of three deviations of the noise."""
    vector = random.normal(size=width)
    return 3 * vector / np.linalg.norm(vector)


def _stretch(random: np.random.Generator, steps: int) -> slice:
    """A third of the steps, anywhere."""
    length = steps // 3
    begin = int(random.integers(0, steps - length + 1))
    return slice(begin, begin + length)


def ceilings(clips: list[Clip]) -> dict[str, tuple[float, float]]:
    """MAE of the median, and correlation of the mean, of what the sentiment may be by what is had."""
    said, heard, seen = (np.array([getattr(clip, what) for clip in clips]) for what in ("said", "heard", "seen"))
    true = np.array([clip.sentiment for clip in clips])
    by_text = (1 - 2 * IRONY) * said  # The mean of both meanings, and with the face open a median too.
    guesses = {
        "text": (by_text, by_text),
        "audio": (0 * said, 0 * said),
        "video": (seen, seen),
        "text and audio": (heard * said, heard * said),
        "text and video": (said + seen, by_text + seen),
        "all": (heard * said + seen, heard * said + seen),
    }
    return {
        name: (float(np.abs(median - true).mean()), float(np.corrcoef(mean, true)[0, 1]) if mean.std() else 0.0)
        for name, (median, mean) in guesses.items()
    }


def part(clips: list[Clip], first: int, vectors: Vectors, random: np.random.Generator) -> dict[str, Any]:
    """A split of the file; ``first`` is the number of its first clip."""
    arrays = {key: np.zeros((len(clips), STEPS[key], WIDTHS[key]), np.float32) for key in STEPS}
    tokens = np.zeros((len(clips), 3, STEPS["text"]), np.float32)
    lengths: dict[str, list[int]] = {key: [] for key in STEPS}
    for row, clip in enumerate(clips):
        for key, values in vectors.features(clip, random).items():
            arrays[key][row, : len(values)] = values
            lengths[key].append(len(values))
        tokens[row, :2, : len(clip.words)] = [vectors.numbers[word] for word in clip.words], [1] * len(clip.words)
    numbers = range(first, first + len(clips))
    sentiment = np.array([clip.sentiment for clip in clips], np.float32)
    names = np.array(["Negative", "Neutral", "Positive"], object)
    return arrays | {
        "raw_text": np.array([" ".join(clip.words) for clip in clips], object),
        "id": [f"video{n // CLIPS_A_VIDEO:05d}$_${n % CLIPS_A_VIDEO}" for n in numbers],
        "text_bert": tokens,
        "annotations": names[1 + np.sign(sentiment).astype(int)],
        "regression_labels": sentiment,
        "classification_labels": (1 + np.sign(sentiment)).astype(np.float32),
        "audio_lengths": lengths["audio"],
        "vision_lengths": lengths["vision"],
    }


def write(options: Options) -> None:
    folder, random = options.folder, np.random.default_rng(options.seed)
    mark_synthetic(folder, f"experiments/synthetic/mosei.py, {options.clips} clips, seed {options.seed}")
    vectors = Vectors(random)
    clips = [draw(random) for _ in range(options.clips)]
    # Splits end where videos do.
    bounds = np.rint(np.cumsum([0, *SPLITS.values()]) * options.clips / CLIPS_A_VIDEO).astype(int) * CLIPS_A_VIDEO
    bounds[-1] = options.clips
    whole = {
        split: part(clips[first:last], int(first), vectors, random)
        for split, first, last in zip(SPLITS, bounds[:-1], bounds[1:], strict=True)
    }
    with (folder / "unaligned_50.pkl").open("wb") as file:
        dump(whole, file, protocol=4)
    print(f"wrote {options.clips} clips into {folder}; the best that can be reached, MAE and correlation:")
    for name, (error, correlation) in ceilings(clips).items():
        print(f"  {name:15} {error:.3f} {correlation:.3f}")


if __name__ == "__main__":
    write(tyro.cli(Options, description=__doc__))
