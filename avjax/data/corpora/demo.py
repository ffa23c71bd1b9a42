"""The demo corpus: synthetic talking faces in RAVDESS's layout, with a known ceiling for each modality.

SYNTHETIC: drawn faces and computer speech; no person was recorded. 24 actors say two statements in eight emotions. Each
emotion is a pair of a heard cue and a seen cue (``avjax.data.synthesis.emotions`` has the table), so that sound or
picture alone is right half of the time at best and both together always. The clips are real h264 and aac files in
``Actor_NN`` folders with RAVDESS's names; they are listed by the RAVDESS reader, and a RAVDESS folder drops in.

Beside them lie ``demo.json`` (the knobs, each modality's ceiling) and ``cues.json`` (what each clip performs).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from avjax.data import media, parallel
from avjax.data.corpora import SPLITS, Clip, ravdess
from avjax.data.synthesis import actors, emotions, face, speech
from avjax.data.synthesis.emotions import Knobs

VERSION = 1  # of the generator: what equal knobs make
PROTOCOL = "14-4-6"
MANIFEST, CUES = "demo.json", "cues.json"
_NOTE = "SYNTHETIC: drawn faces and computer speech made by avjax's demo corpus; no person was recorded."
# x264's slower presets look ahead and, in pictures as small as these, read memory that was never written: equal clips
# then give unequal files. This one does not look ahead.
_PRESET = "superfast"
_CHUNK = 10  # clips a task: short enough for a steady progress bar


@dataclasses.dataclass(frozen=True)
class PlannedClip:
    """One clip before it is made. ``code`` is its file name, ``number`` counts within the actor."""

    code: ravdess.Code
    number: int
    label: int
    heard_level: int
    seen_level: int
    arousal: float
    expression: tuple[float, ...]
    timing: actors.Timing
    has_audio: bool
    has_video: bool

    @property
    def path(self) -> str:
        """Below the corpus's folder."""
        return f"Actor_{self.code.actor:02d}/{self.code.name}.mp4"

    def cues(self) -> dict[str, float]:
        """The truth about the clip: levels, jittered cues, and times in seconds."""
        facts = {
            "label": self.label,
            "heard_level": self.heard_level,
            "seen_level": self.seen_level,
            "strong": self.code.intensity - 1,
            "arousal": self.arousal,
            **dict(zip(face.EXPRESSION, self.expression, strict=True)),
            "onset": self.timing.onset,
            "speaking": self.timing.speaking,
            "delay": self.timing.delay,
            "has_audio": self.has_audio,
            "has_video": self.has_video,
        }
        return {name: float(value) for name, value in facts.items()}


def actor_numbers(count: int) -> list[int]:
    """Which actors exist where there are ``count``: of each split its share, and at least one."""
    test, validation = max(1, round(count / 4)), max(1, round(count / 6))
    sizes = {"train": count - test - validation, "validation": validation, "test": test}
    members = {split: [n for n in range(1, 25) if ravdess.split_of(n, PROTOCOL) == split] for split in SPLITS}
    return sorted(number for split in SPLITS for number in members[split][: sizes[split]])


def plan(knobs: Knobs) -> list[PlannedClip]:
    """Every clip that the corpus consists of, by actor."""
    numbers = enumerate(actor_numbers(knobs.actors))
    return [clip for place, actor in numbers for clip in _plan_actor(knobs, place, actor)]


def _plan_actor(knobs: Knobs, place: int, actor: int) -> list[PlannedClip]:
    rng = np.random.default_rng([knobs.seed, actor, 3])
    count = knobs.clips_per_actor
    labels = emotions.draw_labels(knobs, count, rng, first=place * count)
    cues = emotions.draw_cues(knobs, labels, rng)
    statements = rng.permutation(np.arange(count) % 2)
    missing = np.where(rng.random(count) < knobs.missing_rate, rng.integers(1, 3, count), 0)
    seen: dict[tuple[int, ...], int] = {}
    clips = []
    for number, label in enumerate(labels):
        emotion = int(label) + (1 if knobs.interaction == "none" else 2)
        key = (emotion, int(cues.strong[number]) + 1, int(statements[number]) + 1)
        seen[key] = seen.get(key, 0) + 1
        clips.append(
            PlannedClip(
                code=ravdess.Code(1, 1, *key, seen[key], actor),
                number=number,
                label=int(label),
                heard_level=int(cues.heard_level[number]),
                seen_level=int(cues.seen_level[number]),
                arousal=float(cues.arousal[number]),
                expression=tuple(float(value) for value in cues.expression[number]),
                timing=_draw_timing(knobs, int(label), rng),
                has_audio=bool(missing[number] != 1),
                has_video=bool(missing[number] != 2),
            )
        )
    return clips


def _draw_timing(knobs: Knobs, label: int, rng: np.random.Generator) -> actors.Timing:
    """When speech begins and how long it lasts: drawn apart from the cues, so that no length tells a label."""
    onset, speaking, tail = rng.uniform(0.04, 0.12), rng.uniform(1.17, 1.32), rng.uniform(0.05, 0.12)
    if knobs.interaction == "order":
        frames = int(np.ceil((onset + speaking + tail) * face.RATE))
        delay = rng.uniform(0.16, 0.32) * (1 if label == 1 else -1)
        return actors.Timing(frames, onset, speaking, delay, turn=rng.uniform(0, frames / face.RATE))
    delay = knobs.misalignment * rng.standard_normal()
    onset += max(0.0, -delay)
    frames = int(np.ceil((onset + max(0.0, delay) + speaking + tail) * face.RATE))
    return actors.Timing(frames, onset, speaking, delay, turn=None)


@dataclasses.dataclass(frozen=True)
class Corpus(Knobs):
    """The demo corpus: ``clips`` makes what is missing in its folder and lists it.

    Attributes:
      workers: processes that make clips; None takes one a core. It changes no file.
    """

    workers: int | None = None

    name: ClassVar[str] = "demo"
    synthetic: ClassVar[bool] = True
    licence: ClassVar[str] = "Apache-2.0 (made by avjax; the voice is espeak-ng's)"

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        return {self.head: self.class_names}

    @property
    def knobs(self) -> Knobs:
        return Knobs(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Knobs)})

    def facts(self) -> dict[str, Any]:
        """What an ideal observer of the true cues reaches; kept with the records."""
        return {"ceilings": ceilings(self.knobs)}

    def clips(self, root: Path) -> list[Clip]:
        """Lists the corpus in ``root``, made there as far as it is missing: started again, it goes on where it stopped.

        Raises:
          ValueError: ``root`` holds a corpus of other knobs, or media files that are not the demo corpus's.
          ImportError: espeak-ng is needed and not installed.
        """
        root = Path(root)
        planned = {clip.code.name: clip for clip in plan(self.knobs)}
        _claim(root, self.knobs, list(planned.values()))
        missing = [clip for clip in planned.values() if not (root / clip.path).is_file()]
        if missing:
            speech.check_installed()
            _generate(root, self.knobs, missing, self.workers)
        listed = ravdess.Corpus(protocol=PROTOCOL).clips(root)
        if strangers := [clip.name for clip in listed if clip.name not in planned]:
            raise ValueError(
                f"{root}: holds {len(strangers)} files that are not the demo corpus's, such as {strangers[0]}; "
                "move them away, or choose another folder"
            )
        return [self._label(clip, planned[clip.name]) for clip in listed]

    def _label(self, clip: Clip, planned: PlannedClip) -> Clip:
        return dataclasses.replace(
            clip,
            audio=clip.audio if planned.has_audio else None,
            video=clip.video if planned.has_video else None,
            labels={self.head: planned.label},
            cues=planned.cues(),
        )


def ceilings(knobs: Knobs) -> dict[str, Any]:
    """What an ideal observer of the true cues reaches.

    Returns:
      "expected": accuracy by "audio", "video" and "both" over corpora of these knobs (``emotions.ceilings``), and for
      each split the share of its very clips that the observer gets right from their recorded cues.
    """
    found: dict[str, Any] = {"expected": emotions.ceilings(knobs)}
    by_split: dict[str, list[PlannedClip]] = {}
    for clip in plan(knobs):
        by_split.setdefault(ravdess.split_of(clip.code.actor, PROTOCOL), []).append(clip)
    for split in SPLITS:
        clips = by_split[split]
        labels = np.array([clip.label for clip in clips])
        found[split] = emotions.attained(knobs, labels, [clip.cues() for clip in clips])
    return found


def _claim(root: Path, knobs: Knobs, planned: list[PlannedClip]) -> None:
    """Writes the manifest, or checks that the one there is of the same knobs."""
    wanted = {"version": VERSION, "knobs": dataclasses.asdict(knobs)}
    path = root / MANIFEST
    if path.is_file():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            known = {"version": there["version"], "knobs": dict(there["knobs"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the manifest of a demo corpus; delete {root} and make it anew") from error
        if known != wanted:
            old = {"generator version": known["version"], **known["knobs"]}
            new = {"generator version": VERSION, **wanted["knobs"]}
            changes = ", ".join(f"{k} is {old.get(k)}, not {v}" for k, v in new.items() if old.get(k) != v)
            raise ValueError(
                f"{root}: holds a demo corpus made otherwise ({changes or 'more knobs than these'}); "
                "choose another folder, or delete this one"
            )
        if (root / CUES).is_file():
            return
    elif root.is_dir() and any(root.iterdir()):
        raise ValueError(f"{root}: is not empty and holds no {MANIFEST}; choose a new folder for the demo corpus")
    root.mkdir(parents=True, exist_ok=True)
    cues = {"note": _NOTE, "clips": {clip.code.name: clip.cues() for clip in planned}}
    _write_json(root / CUES, cues)
    manifest = {
        "note": _NOTE,
        "synthetic": True,
        **wanted,
        "classes": {knobs.head: list(knobs.class_names)},
        "split": PROTOCOL,
        "clips": len(planned),
        "seconds": round(sum(clip.timing.frames for clip in planned) / face.RATE, 2),
        "ceilings": ceilings(knobs),
    }
    _write_json(path, manifest)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _generate(root: Path, knobs: Knobs, missing: list[PlannedClip], workers: int | None) -> None:
    for folder in sorted({(root / clip.path).parent for clip in missing}):
        folder.mkdir(exist_ok=True)
    tasks = _tasks(missing)
    made = parallel.run(
        make_clips,
        [(root, knobs, task) for task in tasks],
        workers=workers,
        description="demo corpus (synthetic)",
        sizes=[len(task) for task in tasks],
    )
    assert sum(made) == len(missing)


def _tasks(clips: list[PlannedClip]) -> list[list[PlannedClip]]:
    """Runs of clips of one actor: a voice is measured once a task."""
    by_actor: dict[int, list[PlannedClip]] = {}
    for clip in clips:
        by_actor.setdefault(clip.code.actor, []).append(clip)
    return [own[k : k + _CHUNK] for own in by_actor.values() for k in range(0, len(own), _CHUNK)]


def make_clips(root: Path, knobs: Knobs, clips: Sequence[PlannedClip]) -> int:
    """Makes the files of ``clips`` below ``root``, each whole or not at all; returns how many."""
    for clip in clips:
        performed = perform(knobs, clip)
        times = np.arange(len(performed.images)) / face.RATE
        path = root / clip.path
        partial = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        media.encode(
            partial,
            media.Frames(performed.images, times) if clip.has_video else None,
            media.Waveform(performed.samples, speech.RATE) if clip.has_audio else None,
            preset=_PRESET,
        )
        os.replace(partial, path)
    return len(clips)


def perform(knobs: Knobs, clip: PlannedClip) -> actors.Performed:
    """Draws and speaks one clip; depends on nothing but its arguments."""
    return actors.perform(
        actors.look(knobs, clip.code.actor),
        actors.voice(knobs, clip.code.actor),
        statement=clip.code.statement - 1,
        arousal=clip.arousal,
        expression=np.array(clip.expression),
        timing=clip.timing,
        pixels=knobs.pixels,
        rng=np.random.default_rng([knobs.seed, clip.code.actor, 4, clip.number]),
    )
