"""A small synthetic corpus in VoxCeleb's layout: ``python experiments/synthetic/voxceleb.py FOLDER``.

SYNTHETIC: drawn faces and computer speech. Everybody has a sex, a size and an age, which voice and face share:

* sex: the voice's octave and formants; long hair or short;
* size: lower pitch and formants; a larger head, with the eyes further apart;
* age: slower speech; greyer hair.

Voice and face each show a size and an age of their own, which correlate by ``bond`` over people; skin, clothes,
background, iris, the cut of the hair, words, expression and motion are drawn freely. Nothing else ties a voice to a
face, so that people who were never seen can be matched as far as the factors go. With ``bond`` 0.9 who knows them all,
and how they correlate, chooses the right one of two faces in 0.955 of the cases and of ten in 0.718; who knows the sex
alone in 0.749 and 0.199 (``ceilings``). Faces alone, or voices alone, say nothing of whether two belong together.

Everybody has two videos of two utterances. A quarter of the people are of the set "test" in ``vox1_meta.csv``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from avjax.data import media, parallel
from avjax.data.corpora import mark_synthetic
from avjax.data.synthesis import actors, face, speech
from avjax.training.metrics import identification_accuracy

VIDEOS, UTTERANCES = 2, 2
WORDS = (
    "nobody", "river", "follow", "summer", "money", "seven", "under", "paper", "yellow", "garden", "window", "alone",
    "corner", "Monday", "remember", "animal",
)  # fmt: skip
SECONDS = 1.2
FRAMES = round(SECONDS * face.RATE)
SKIN = ((0.96, 0.80, 0.69), (0.55, 0.36, 0.25))
DARK, GREY = (0.20, 0.12, 0.08), (0.84, 0.84, 0.86)
MOST = 2.0  # deviations that a factor goes from its mean


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the corpus.

    Attributes:
      folder: where to.
      people: in all.
      bond: correlation of the size and of the age that voice and face show.
      pixels: height and width of the picture.
      seed: of everything.
      workers: processes; None takes one a core. It changes no file.
    """

    folder: tyro.conf.Positional[Path]
    people: int = 400
    bond: float = 0.9
    pixels: int = 32
    seed: int = 0
    workers: int | None = None


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody: what voice and face show of size and age, in deviations from the mean."""

    number: int
    female: bool
    heard: tuple[float, float]
    seen: tuple[float, float]

    @property
    def name(self) -> str:
        return f"id{10_000 + self.number:05d}"


def people(options: Options) -> list[Person]:
    """Everybody; who they are depends on their number and the seed alone."""
    if not 0 <= options.bond <= 1:
        raise ValueError(f"bond is {options.bond}; it is a correlation, from 0 to 1")
    found = []
    for number in range(1, options.people + 1):
        rng = np.random.default_rng([options.seed, number, 1])
        factors = shown(rng, options.bond)
        found.append(Person(number, bool(rng.random() < 0.5), *(tuple(map(float, one)) for one in factors)))
    return found


def shown(rng: np.random.Generator, bond: float, count: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Size and age [..., 2] in the voice and in the face: normal, correlated by ``bond``, and bounded."""
    shared, voice, looks = rng.standard_normal((3, *count, 2))
    own = [np.sqrt(bond) * shared + np.sqrt(1 - bond) * alone for alone in (voice, looks)]
    return np.clip(own[0], -MOST, MOST), np.clip(own[1], -MOST, MOST)


def ceilings(bond: float, choices: Sequence[int] = (2, 10), count: int = 20_000) -> dict[str, dict[int, float]]:
    """Accuracy in choosing the right one of several faces: who knows all factors, and who knows the sex alone."""
    rng = np.random.default_rng(0)
    most = max(choices)
    sex = rng.random((count, most)) < 0.5
    heard, seen = shown(rng, bond, (count, most))
    # The logarithm of how much likelier a pair is of one person than of two (normal factors).
    rho, own = min(bond, 1 - 1e-6), heard[:, :1]
    ratio = -(rho**2 * (own**2 + seen**2) - 2 * rho * own * seen).sum(axis=-1) / (2 * (1 - rho**2))
    same = sex == sex[:, :1]
    found: dict[str, dict[int, float]] = {"all": {}, "sex": {}}
    for number in choices:
        scores = np.where(same, ratio, -np.inf)[:, :number]
        found["all"][number] = identification_accuracy(scores)
        found["sex"][number] = float(np.mean(1 / same[:, :number].sum(axis=1)))
    return found


def voice_of(person: Person) -> speech.Voice:
    size, _ = person.heard
    formants = np.array((1.14, 1.17, 1.14) if person.female else (1.0, 1.0, 1.0)) * (1 - 0.055 * size)
    pitch = (195.0 if person.female else 108.0) * 2 ** (-0.13 * size)
    return speech.Voice(person.female, pitch, tuple(float(scale) for scale in formants), 0.0)


def look_of(person: Person, seed: int) -> face.Appearance:
    rng = np.random.default_rng([seed, person.number, 2])
    size, age = person.seen
    shade, grey = 0.9 * rng.random(), 0.5 + age / (2 * MOST)
    mix = [tuple(a + (b - a) * share for a, b in zip(*ends, strict=True)) for ends, share in
           ((SKIN, shade), ((DARK, GREY), grey))]  # fmt: skip
    return face.Appearance(
        skin=mix[0],
        hair=mix[1],
        clothes=tuple(rng.uniform(0.15, 0.75, 3)),
        background=tuple(rng.uniform(0.55, 0.9, 3)),
        iris=tuple(rng.uniform(0.1, 0.5, 3)),
        head=(0.56 + 0.045 * size, 0.72 + 0.045 * size),
        eyes=(0.25 + 0.02 * size, float(rng.uniform(0.04, 0.12))),
        mouth=0.40 + 0.02 * size,
        long_hair=person.female,
        fringe=float(rng.uniform(0.1, 0.5)),
        parting=float(rng.uniform(-1, 1)),
    )


def utter(person: Person, rng: np.random.Generator) -> speech.Utterance:
    """Two words in 1.2 s at most, slower with age."""
    text = " ".join(rng.choice(WORDS, 2, replace=False))
    return speech.say(voice_of(person), text, words_per_minute=round(165 - 28 * person.heard[1]), span=30)


def make(members: Sequence[Person], options: Options) -> int:
    """Writes the files of people; returns how many utterances."""
    for person in members:
        look = look_of(person, options.seed)
        for number in range(VIDEOS * UTTERANCES):
            rng = np.random.default_rng([options.seed, person.number, 3, number])
            said = utter(person, rng)
            sound = np.zeros(round(SECONDS * speech.RATE), np.float32)
            part = said.samples[: len(sound)]
            sound[: len(part)] = part
            times = np.arange(FRAMES) / face.RATE
            opening, rounding = face.mouth_track(said.phonemes, 0.0, times)
            motion = actors.move(opening, rounding, rng.uniform(-0.4, 0.4, 4), times, rng)
            place = f"{person.name}/video{person.number:04d}-{number // UTTERANCES}/{number % UTTERANCES + 1:05d}"
            wav, mp4 = (options.folder / suffix / f"{place}.{suffix}" for suffix in ("wav", "mp4"))
            for path in (wav, mp4):
                path.parent.mkdir(parents=True, exist_ok=True)
            media.encode(wav, None, media.Waveform(actors.recorded(sound, rng), speech.RATE))
            images = face.draw(look, motion, options.pixels)
            media.encode(mp4, media.Frames(images, np.arange(FRAMES) / face.RATE), None, preset="superfast")
    return VIDEOS * UTTERANCES * len(members)


def write(options: Options) -> int:
    """Writes the whole corpus; returns how many utterances it has."""
    speech.check_installed()
    words = f"experiments/synthetic/voxceleb.py, {options.people} people, bond {options.bond:g}, seed {options.seed}"
    mark_synthetic(options.folder, f"{words}: drawn faces and computer speech")
    everybody = people(options)
    tasks = [(everybody[k : k + 10], options) for k in range(0, len(everybody), 10)]
    sizes = [VIDEOS * UTTERANCES * len(some) for some, _ in tasks]
    made = sum(parallel.run(make, tasks, workers=options.workers, description="voxceleb (synthetic)", sizes=sizes))
    lines = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    for person in everybody:
        sex, part = "f" if person.female else "m", "test" if person.number % 4 == 0 else "dev"
        lines.append(f"{person.name}\tSynthetic_{person.number}\t{sex}\tnone\t{part}")
    (options.folder / "vox1_meta.csv").write_text("\n".join(lines) + "\n")
    return made


if __name__ == "__main__":
    made = write(tyro.cli(Options, description=__doc__))
    print(f"wrote {made} utterances")
