"""A small synthetic corpus in AV-Deepfake1M's layout: ``python experiments/synthetic/deepfake1m.py FOLDER``.

SYNTHETIC: drawn faces and computer speech. A person says six short words in 2.4 s, each in its own 0.4 s. Of every such
take there are four clips: real.mp4; two in which one to three words were replaced by others of the same voice, in the
sound or in the picture, where the mouth says the other word and all else is as it was; and one with both, whose new
words differ. Words are spoken one by one and drawn at random, so that a replaced one is as likely as any: by its words
neither sound nor picture alone can be told from a real one, and lips and sound disagree exactly where a clip is forged.

With ``traces`` 1 forgeries leave what a generator leaves besides: a faint tone under forged sound, and a blurred mouth.
Then an ideal observer finds every forgery of its own modality and no other: of clips, a quarter of which are real, AUC
is 0.833 by sound alone, 0.833 by picture alone and 1.000 by the better of the two scores; no interaction is needed.
With ``traces`` 0 it is 0.500 by either alone and 1.000 by both together, for who compares lips and sound.

Half of the persons of ``val`` have names that the reader tests, half those that it validates on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from avjax.data import media, parallel
from avjax.data.corpora import mark_synthetic
from avjax.data.corpora.deepfake1m import KINDS, Corpus
from avjax.data.synthesis import actors, face, speech
from avjax.data.synthesis.emotions import Knobs

# Far apart on the lips.
WORDS = ("ah", "moo", "see", "bob", "oh", "why", "pea", "who", "cat", "hop", "fee", "you", "map", "go", "bee", "wow")
SLOTS, SLOT = 6, 0.4
SECONDS = SLOTS * SLOT
LEAD = 0.03  # seconds of a slot before its word begins
TONE, LOUDNESS = speech.RATE / 4, 0.004
FILES = ("real", "real_video_fake_audio", "fake_video_real_audio", "fake_video_fake_audio")
NEUTRAL = (0.0, 0.0, 0.1, 0.0)  # the expression


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the corpus.

    Attributes:
      folder: where to.
      clips: in all, four a take.
      people: in all; a quarter of them, and at least two, are in val.
      traces: how strong the traces of forging are; 0 leaves none.
      pixels: height and width of the picture.
      seed: of everything.
      workers: processes; None takes one a core. It changes no file.
    """

    folder: tyro.conf.Positional[Path]
    clips: int = 960
    people: int = 32
    traces: float = 1.0
    pixels: int = 32
    seed: int = 0
    workers: int | None = None


@dataclasses.dataclass(frozen=True)
class Take:
    """Six words of a person, and what replaces some of them.

    Attributes:
      split, identity, number: where it lies; ``number`` counts the takes of all.
      actor: number of looks and voice.
      said, heard, seen: numbers of words [6]: those of the real clip, of forged sound and of forged picture.
    """

    split: str
    identity: str
    number: int
    actor: int
    said: tuple[int, ...]
    heard: tuple[int, ...]
    seen: tuple[int, ...]

    @property
    def folder(self) -> str:
        """Below the folder of the split."""
        return f"{self.identity}/take{self.number:07d}/00001"

    @property
    def segments(self) -> list[list[float]]:
        """Begin and end of every run of replaced words, in seconds."""
        forged = np.diff([0, *(a != b for a, b in zip(self.said, self.heard, strict=True)), 0])
        begins, ends = np.flatnonzero(forged > 0), np.flatnonzero(forged < 0)
        return [[round(b * SLOT, 3), round(e * SLOT, 3)] for b, e in zip(begins, ends, strict=True)]

    def items(self) -> Iterator[dict[str, Any]]:
        """The four clips as the lists have them."""
        for kind, name in zip(KINDS, FILES, strict=True):
            heard = self.segments if kind in ("audio_modified", "both_modified") else []
            seen = self.segments if kind in ("visual_modified", "both_modified") else []
            yield {
                "file": f"{self.folder}/{name}.mp4",
                "original": f"{self.folder}/real.mp4",
                "split": self.split,
                "modify_type": kind,
                "audio_model": "espeak-ng" if heard else "",
                "fake_segments": heard or seen,
                "audio_fake_segments": heard,
                "visual_fake_segments": seen,
                "video_frames": round(SECONDS * face.RATE),
                "audio_frames": round(SECONDS * 16_000),
            }


def plan(options: Options) -> list[Take]:
    """Every take, person by person in turn."""
    rng = np.random.default_rng([options.seed, 1])
    names = identities(options.people)
    takes = []
    for number in range(max(1, -(-options.clips // 4))):
        actor = number % options.people
        split, identity = names[actor]
        said = rng.integers(len(WORDS), size=SLOTS)
        heard, seen = said.copy(), said.copy()
        for slot in forged_slots(rng):
            heard[slot], seen[slot] = rng.choice(np.delete(np.arange(len(WORDS)), said[slot]), 2, replace=False)
        words = (tuple(int(word) for word in one) for one in (said, heard, seen))
        takes.append(Take(split, identity, number, actor + 1, *words))
    return takes


def forged_slots(rng: np.random.Generator) -> list[int]:
    """One run of one to three words, or two of one word each that do not touch."""
    if rng.random() < 0.5:
        count = int(rng.integers(1, 4))
        first = int(rng.integers(SLOTS - count + 1))
        return list(range(first, first + count))
    first = int(rng.integers(SLOTS - 2))
    return [first, int(rng.integers(first + 2, SLOTS))]


def identities(people: int) -> list[tuple[str, str]]:
    """(split, name) of every person: three of four train, the others are tested and validated on in turn."""
    held_out = max(2, people // 4)
    if people <= held_out:
        raise ValueError(f"people is {people}; somebody has to train, two are held out")
    reader, wanted, number = Corpus(), ["train"] * (people - held_out), 0
    wanted += ["test" if k % 2 == 0 else "validation" for k in range(held_out)]
    named = []
    for split in wanted:
        number += 1
        while split != "train" and reader.split_of(f"id{number:05d}", "val") != split:
            number += 1
        named.append(("train" if split == "train" else "val", f"id{number:05d}"))
    return named


@functools.lru_cache(maxsize=1024)
def spoken(voice: speech.Voice, word: int) -> speech.Utterance:
    """A word, made to fit its slot."""
    said = speech.say(voice, WORDS[word], words_per_minute=200)
    room = int((SLOT - LEAD) * speech.RATE)
    samples = said.samples[:room].copy()
    fade = min(len(samples), 200)
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return speech.Utterance(samples, said.phonemes)


def sound(voice: speech.Voice, words: Sequence[int], forged: Sequence[bool], traces: float) -> np.ndarray:
    """Float32 [S]; a tone under what is forged."""
    samples = np.zeros(round(SECONDS * speech.RATE), np.float32)
    for slot, word in enumerate(words):
        said, first = spoken(voice, word).samples, round((slot * SLOT + LEAD) * speech.RATE)
        samples[first : first + len(said)] += said
        if forged[slot]:
            begin, end = round(slot * SLOT * speech.RATE), round((slot + 1) * SLOT * speech.RATE)
            phase = 2 * np.pi * TONE / speech.RATE * np.arange(begin, end)
            samples[begin:end] += (traces * LOUDNESS * np.sin(phase + 0.5)).astype(np.float32)
    return samples


def pictures(take: Take, words: Sequence[int], forged: Sequence[bool], options: Options) -> np.ndarray:
    """Uint8 [T, H, W, 3]; the mouth is blurred where it is forged. All pictures of a take move alike."""
    look, voice = (make(Knobs(seed=options.seed), take.actor) for make in (actors.look, actors.voice))
    times = (np.arange(round(SECONDS * face.RATE)) + 0.5) / face.RATE
    phonemes = tuple(
        (slot * SLOT + LEAD + min(seconds, SLOT - LEAD), name)
        for slot, word in enumerate(words)
        for seconds, name in spoken(voice, word).phonemes
    )
    opening, rounding = face.mouth_track(phonemes, 0.0, times)
    rng = np.random.default_rng([options.seed, 2, take.number])
    motion = actors.move(opening, rounding, np.array(NEUTRAL), times, rng)
    images = face.draw(look, motion, options.pixels)
    marked = np.array(forged)[np.minimum((times / SLOT).astype(int), SLOTS - 1)]
    if options.traces and marked.any():
        rows, columns = (
            slice(round(a * options.pixels), round(b * options.pixels)) for a, b in ((0.6, 0.9), (0.3, 0.7))
        )
        part = images[marked, rows, columns].astype(np.float32)
        share = min(options.traces, 1.0)
        images[marked, rows, columns] = np.rint((1 - share) * part + share * blurred(part)).astype(np.uint8)
    return images


def blurred(images: np.ndarray) -> np.ndarray:
    """Means over 5 x 5 pixels of [T, H, W, C]."""
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
    return windows.mean(axis=(-2, -1))


def make(takes: Sequence[Take], options: Options) -> int:
    """Writes the clips of takes; returns how many."""
    for take in takes:
        voice = actors.voice(Knobs(seed=options.seed), take.actor)
        forged = [a != b for a, b in zip(take.said, take.heard, strict=True)]
        nothing = [False] * SLOTS
        samples = sound(voice, take.said, nothing, 0), sound(voice, take.heard, forged, options.traces)
        images = pictures(take, take.said, nothing, options), pictures(take, take.seen, forged, options)
        folder = options.folder / take.split / take.folder
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(FILES):
            room = np.random.default_rng([options.seed, 3, take.number, number])
            waveform = media.Waveform(actors.recorded(samples[number % 2], room), speech.RATE)
            frames = images[number // 2]
            times = np.arange(len(frames)) / face.RATE
            media.encode(folder / f"{name}.mp4", media.Frames(frames, times), waveform, preset="superfast")
    return len(FILES) * len(takes)


def write(options: Options) -> int:
    """Writes the whole corpus; returns how many clips it has."""
    speech.check_installed()
    takes = plan(options)
    clips = f"{len(FILES) * len(takes)} clips, traces {options.traces:g}, seed {options.seed}"
    mark_synthetic(options.folder, f"experiments/synthetic/deepfake1m.py, {clips}: drawn faces and computer speech")
    # Takes of one person together: its words are spoken once a process.
    takes_of = [[take for take in takes if take.actor == actor + 1] for actor in range(options.people)]
    tasks = [(some, options) for some in takes_of if some]
    sizes = [len(FILES) * len(some) for some, _ in tasks]
    made = sum(parallel.run(make, tasks, workers=options.workers, description="deepfake1m (synthetic)", sizes=sizes))
    for split in ("train", "val"):
        items = [item for take in takes if take.split == split for item in take.items()]
        (options.folder / f"{split}_metadata.json").write_text(json.dumps(items, indent=1) + "\n")
    return made


if __name__ == "__main__":
    made = write(tyro.cli(Options, description=__doc__))
    print(f"wrote {made} clips")
