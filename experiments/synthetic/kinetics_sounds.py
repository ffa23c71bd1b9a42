"""Writes a small SYNTHETIC corpus in the layout of Kinetics-Sounds: a thing that moves, and a noise that it makes.

python experiments/synthetic/kinetics_sounds.py data/kinetics_sounds

Eight actions, each a way of moving (seen) and a kind of noise (heard), as train, val or
test/CLASS/ID_SSSSSS_EEEEEE.mp4:

    ========  =======  ======  =====
    motion    impacts  motor   tone
    ========  =======  ======  =====
    bouncing  x        x
    sliding            x       x
    circling  x                x
    crossing  x        x
    ========  =======  ======  =====

Every motion belongs to two actions, so an ideal viewer is right half of the time; a noise belongs to three, three and
two of eight, so an ideal listener is right in 3 of 8; both together always. Colour, size, place, period and phase of
the motion, the scene's colours, pitch, rhythm and loudness of the noise, and the noise of the room say nothing of the
action.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from avjax.data import media, parallel
from avjax.data.corpora import mark_synthetic

MOTIONS = ("bouncing", "sliding", "circling", "crossing")
NOISES = ("impacts", "motor", "tone")
ACTIONS = tuple((MOTIONS[k], NOISES[(k + j) % 3]) for k in range(4) for j in range(2))
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
RATE, FRAME_RATE, SECONDS = 16_000, 10, 2.4
_LETTERS = np.array(list(string.ascii_letters + string.digits + "-_"))


@dataclasses.dataclass(frozen=True)
class Options:
    """A synthetic corpus in Kinetics-Sounds' layout.

    Attributes:
      folder: where to; must be new or empty.
      clips: of each action, in all splits together.
      seed: equal seeds make equal files.
      pixels: height and width.
      workers: processes; None takes one a core.
    """

    folder: tyro.conf.Positional[Path]
    clips: int = 200
    seed: int = 0
    pixels: int = 48
    workers: int | None = None


def write(options: Options) -> int:
    """Writes the corpus; returns how many videos it has."""
    if options.folder.is_dir() and any(options.folder.iterdir()):
        raise SystemExit(f"{options.folder}: is not empty; choose a new folder")
    note = f"SYNTHETIC: drawn and computed by experiments/synthetic/kinetics_sounds.py, seed {options.seed}"
    mark_synthetic(options.folder, note)
    tasks = [(options, action, number) for action in range(len(ACTIONS)) for number in range(options.clips)]
    for split in SHARES:
        for motion, noise in ACTIONS:
            (options.folder / split / f"{motion} with {noise}").mkdir(parents=True)
    groups = [tasks[begin : begin + 20] for begin in range(0, len(tasks), 20)]
    sizes = [len(group) for group in groups]
    return sum(
        parallel.run(
            _write_clips,
            [(group,) for group in groups],
            workers=options.workers,
            description="Kinetics-Sounds (synthetic)",
            sizes=sizes,
        )
    )


def split_of(number: int, clips: int) -> str:
    """The split of an action's clip by its number."""
    ends = np.cumsum([round(share * clips) for share in (SHARES["train"], SHARES["val"])])
    return tuple(SHARES)[int(np.searchsorted(ends, number, side="right"))]


def _write_clips(group: Sequence[tuple[Options, int, int]]) -> int:
    for options, action, number in group:
        random = np.random.default_rng([options.seed, action, number])
        (motion, noise), begin = ACTIONS[action], int(random.integers(0, 200))
        name = f"{''.join(random.choice(_LETTERS, 11))}_{begin:06d}_{begin + round(SECONDS):06d}.mp4"
        times = (np.arange(round(SECONDS * FRAME_RATE)) + 0.5) / FRAME_RATE
        images = draw(path_of(motion, times, random), options.pixels, random)
        samples = sound(noise, round(SECONDS * RATE), random)
        folder = options.folder / split_of(number, options.clips) / f"{motion} with {noise}"
        # x264's presets that look ahead make unequal files of equal clips.
        media.encode(
            folder / name,
            media.Frames(images, times - times[0]),
            media.Waveform(samples, RATE),
            preset="superfast",
        )
    return len(group)


def path_of(motion: str, times: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Where the thing is [T, 2], right and down, in a picture that runs from -1 to 1."""
    phase, reach = random.uniform(0, 2 * np.pi), random.uniform(0.45, 0.7)
    angle = phase + 2 * np.pi * times / random.uniform(0.8, 2.0) * random.choice((-1, 1))
    swing, turn = reach * np.sin(angle), reach * np.cos(angle)
    still = np.full_like(times, random.uniform(-0.6, 0.6))
    if motion == "bouncing":
        return np.stack([still, reach - 2 * reach * np.abs(np.sin(angle / 2))], axis=1)
    if motion == "sliding":
        return np.stack([swing, still], axis=1)
    if motion == "circling":
        return np.stack([swing, turn], axis=1)
    return np.stack([swing, swing * random.choice((-1, 1))], axis=1)


def draw(path: np.ndarray, pixels: int, random: np.random.Generator) -> np.ndarray:
    """uint8 [T, pixels, pixels, 3]: a disk or a square before a scene with sky, ground and light from one side."""
    axis = (np.arange(pixels) + 0.5) / pixels * 2 - 1
    x, y = axis[None, :], axis[:, None]
    sky, ground = random.uniform(0.55, 0.8, 3), random.uniform(0.2, 0.45, 3)
    depth = np.clip((y + 1) / 2, 0, 1)[..., None]
    scene = (sky * (1 - depth) + ground * depth) * (1 + 0.25 * x[..., None])
    colour = random.permutation([0.95, random.uniform(0.0, 0.9), 0.05])
    size, square = random.uniform(0.16, 0.26), random.random() < 0.5
    dx, dy = x[None] - path[:, 0, None, None], y[None] - path[:, 1, None, None]
    distance = np.maximum(np.abs(dx), np.abs(dy)) if square else np.hypot(dx, dy)
    cover = np.clip((size - distance) * pixels / 2 + 0.5, 0, 1)[..., None]
    picture = scene * (1 - cover) + colour * cover + 0.02 * random.standard_normal((len(path), pixels, pixels, 1))
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def sound(noise: str, samples: int, random: np.random.Generator) -> np.ndarray:
    """int16 [samples] at ``RATE``."""
    times = np.arange(samples) / RATE
    if noise == "impacts":
        every, decay = random.uniform(0.25, 0.5), random.uniform(0.02, 0.06)
        since = (times + random.uniform(0, every)) % every
        made = np.exp(-since / decay) * random.standard_normal(samples)
    elif noise == "motor":
        pitch, throb = random.uniform(60, 120), random.uniform(6, 14)
        buzz = sum(np.sin(2 * np.pi * k * pitch * times + random.uniform(0, 6)) / k for k in range(1, 25))
        made = 0.4 * buzz * (1 + 0.5 * np.sin(2 * np.pi * throb * times))
    else:
        pitch, waver = random.uniform(500, 1500), random.uniform(4, 7)
        made = np.sin(2 * np.pi * pitch * times + 3 * np.sin(2 * np.pi * waver * times))
    made = made / np.sqrt(np.mean(made**2)) * random.uniform(0.02, 0.08)
    room = random.uniform(0.002, 0.006) * random.standard_normal(samples)
    return np.rint(32767 * np.clip(made + room, -1, 1)).astype(np.int16)


if __name__ == "__main__":
    print(f"{write(tyro.cli(Options))} videos")
