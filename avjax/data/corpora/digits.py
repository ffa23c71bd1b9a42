"""Spoken digits paired with handwritten ones: the AV-MNIST recipe on recordings and pictures that are free to use.

Recordings: the Free Spoken Digit Dataset, Zohar Jackson and contributors, CC BY-SA 4.0, in its original layout,
``recordings/{digit}_{speaker}_{index}.wav``. Pictures: the 1,797 handwritten digits of 8x8 pixels that scikit-learn
ships (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, CC BY 4.0).
The recipe, pairing at random within the class and adding noise to both sides, is that of AV-MNIST (Vielzeuf et al.,
"CentralNet", arXiv:1808.07275); noise levels, held-out speaker and the pictures' resolution are ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from avjax.data.corpora import SPLITS, Clip
from avjax.data.media import Frames, MediaError, Waveform, decode

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RECORDING = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[A-Za-z]+)_(?P<index>[0-9]+)\.wav")

# The dataset's own test part is recordings 0 to 4 of every digit and speaker; here they are the training speakers'
# validation recordings.
VALIDATION_RECORDINGS = 5
# Shares of each class's pictures.
PICTURES = {"train": 0.7, "validation": 0.1, "test": 0.2}
FULL_SCALE = 32767


@dataclasses.dataclass(frozen=True)
class Recording:
    """One file of the spoken digits, and where it goes."""

    path: Path
    digit: int
    speaker: str
    index: int
    split: str
    group: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Which clips are made, and how noisy. Everything is fixed by ``seed`` and the recordings' names.

    A picture is drawn from its split's own pool of pictures, and no picture is in two pools. All of a clip's randomness
    hangs on its name alone, so a clip stays the same whatever other recordings lie in the folder.

    Attributes:
      held_out: the speaker of the test split; training never hears them.
      validation: "recordings" takes recordings 0 to 4 of each digit from every training speaker: it tells when training
        has settled, not how a new voice fares, and those recordings form a group of their own, ``SPEAKER-validation``,
        since a group never crosses splits. A speaker's name takes that whole speaker instead.
      snr: dB of each recording's mean power over that of the white noise added to it; None leaves it clean. The noise
        is white up to 8 kHz and the recordings end at 4 kHz, so within the speech band it is 3 dB weaker. Where the
        sum would leave the 16-bit range, it is scaled down as a whole.
      image_noise: standard deviation of the Gaussian noise on pixels in [0, 1]; the sum is clipped to [0, 1] and
        rounded to 8 bits. 0 leaves the picture clean.
      pairs: how many clips each training recording makes, every one with its own picture and noise. Validation and test
        recordings make one.
      frames: how often the one noisy picture is shown, evenly spaced over the recording.
      seed: of pools, pairing and noise.
    """

    name: ClassVar[str] = "digits"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC BY-SA 4.0 (Free Spoken Digit Dataset); CC BY 4.0 (handwritten digits)"

    # JPEG would smooth the noise of 8x8 pixels away: `avjax prepare` stores them as they are.
    video_codec: ClassVar[str] = "raw"

    held_out: str = "george"
    validation: str = "recordings"
    snr: float | None = 0.0
    image_noise: float = 0.5
    pairs: int = 8
    frames: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.frames < 1:
            raise ValueError(f"digits: pairs and frames are at least 1; they are {self.pairs} and {self.frames}")
        if self.image_noise < 0:
            raise ValueError(f"digits: image_noise is a standard deviation, at least 0; it is {self.image_noise}")
        if self.held_out == self.validation:
            raise ValueError(f"digits: held_out and validation are both {self.held_out!r}; name two speakers")

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {"digit": CLASSES}

    def recordings(self, root: Path) -> list[Recording]:
        """Every recording below ``root``, by digit, speaker and index, with its split.

        Raises:
          FileNotFoundError: ``root`` holds no recordings in the dataset's layout.
          ValueError: a speaker is named who is not there.
        """
        folder = _folder(root)
        matches = [(RECORDING.fullmatch(path.name), path) for path in _files(folder)]
        found = sorted((int(m["digit"]), m["speaker"], int(m["index"]), path) for m, path in matches if m)
        if not found:
            raise FileNotFoundError(
                f"digits: no file like 7_george_12.wav in {folder}; give the folder of the Free Spoken Digit Dataset "
                "that holds recordings/, or recordings/ itself"
            )
        speakers = sorted({speaker for _, speaker, _, _ in found})
        for field in ("held_out", "validation"):
            named = getattr(self, field)
            if named not in speakers and (field, named) != ("validation", "recordings"):
                nearest = difflib.get_close_matches(named, speakers, n=1)
                hint = f"did you mean {nearest[0]}? " if nearest else ""
                raise ValueError(f"digits: {field} is {named!r}; {hint}the speakers in {folder} are {speakers}")
        return [
            Recording(path, digit, speaker, index, *self._split(speaker, index))
            for digit, speaker, index, path in found
        ]

    def strangers(self, root: Path) -> list[tuple[Path, str]]:
        """Sound files whose name is not that of a recording."""
        sounds = (path for path in _files(_folder(root)) if path.suffix.lower() == ".wav")
        reason = "the name is not DIGIT_SPEAKER_NUMBER.wav"
        return [(path, reason) for path in sorted(sounds) if not RECORDING.fullmatch(path.name)]

    def _split(self, speaker: str, index: int) -> tuple[str, str]:
        """The split and the group of a recording."""
        if speaker == self.held_out:
            return "test", speaker
        if speaker == self.validation:
            return "validation", speaker
        if self.validation == "recordings" and index < VALIDATION_RECORDINGS:
            return "validation", f"{speaker}-validation"
        return "train", speaker

    def clips(self, root: Path) -> list[Clip]:
        """Every clip, in a stable order. A recording that does not decode is passed on as its path, to be reported."""
        images, pools = self._pictures()
        clips = []
        for recording in self.recordings(root):
            try:
                waveform = decode(recording.path, video=False).audio
            except MediaError:
                waveform = None
            for pair in range(self.pairs if recording.split == "train" else 1):
                name = f"{recording.path.stem}-{pair}"
                # crc32, since Python's own hash of a string changes from run to run.
                random = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
                number = int(random.choice(pools[recording.split][recording.digit]))
                cues = {"recording": float(recording.index), "image": float(number), "image_noise": self.image_noise}
                if self.snr is not None:
                    cues["snr"] = self.snr
                picture = add_image_noise(images[number], self.image_noise, random)
                audio = recording.path if waveform is None else add_audio_noise(waveform, self.snr, random)
                seconds = 0.0 if waveform is None else len(waveform.samples) / waveform.rate
                clips.append(
                    Clip(
                        name=name,
                        audio=audio,
                        video=show(picture, self.frames, seconds),
                        labels={"digit": recording.digit},
                        group=recording.group,
                        split=recording.split,
                        cues=cues,
                    )
                )
        return clips

    def _pictures(self) -> tuple[np.ndarray, dict[str, dict[int, np.ndarray]]]:
        """All pictures [N, 8, 8] in [0, 1], and split -> digit -> the numbers of the pictures in its pool."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "digits: the handwritten digits come with scikit-learn; install it: pip install 'avjax[demo]'"
            ) from error
        digits = load_digits()
        random = np.random.default_rng(self.seed)
        pools: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for digit in range(len(CLASSES)):
            numbers = random.permutation(np.flatnonzero(digits.target == digit))
            ends = np.cumsum([round(PICTURES[split] * len(numbers)) for split in SPLITS[:-1]])
            for split, pool in zip(SPLITS, np.split(numbers, ends), strict=True):
                pools[split][digit] = pool
        return digits.images / 16.0, dict(pools)


def _folder(root: Path) -> Path:
    """The folder of the recordings: ``root`` or its ``recordings``."""
    return root / "recordings" if (root / "recordings").is_dir() else root


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def add_audio_noise(waveform: Waveform, snr: float | None, random: np.random.Generator) -> Waveform:
    """White Gaussian noise at ``snr`` dB below the recording's mean power; None and silence are returned unchanged."""
    samples = waveform.samples.astype(np.float64)
    power = np.mean(np.square(samples)) if len(samples) else 0.0
    if snr is None or power == 0:
        return waveform
    noisy = samples + random.normal(0.0, np.sqrt(power / 10 ** (snr / 10)), len(samples))
    noisy *= min(1.0, FULL_SCALE / np.abs(noisy).max())
    return Waveform(np.rint(noisy).astype(np.int16), waveform.rate)


def add_image_noise(image: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise on an image in [0, 1]: clipped to [0, 1], rounded to uint8, of the same shape."""
    noisy = image + random.normal(0.0, deviation, image.shape)
    return np.rint(np.clip(noisy, 0.0, 1.0) * 255).astype(np.uint8)


def show(image: np.ndarray, frames: int, seconds: float) -> Frames:
    """The picture [H, W] as ``frames`` frames [T, H, W, 1], evenly spaced over ``seconds`` (1 s where that is 0)."""
    times = np.arange(frames, dtype=np.float64) * ((seconds or 1.0) / frames)
    return Frames(np.repeat(image[None, :, :, None], frames, axis=0), times)
