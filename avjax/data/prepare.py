"""Prepare a corpus: decode every clip once, in parallel processes, into ArrayRecord shards with a report.

Which clips go into which shard depends on the corpus alone, so any number of workers writes the same bytes. A shard is
written under a temporary name, and counts as done once its sidecar (``plan/SHARD.json``) exists: a run that was stopped
or killed goes on where it was. A bad file costs its clip, never the run.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import avjax
from avjax.data.corpora import SPLITS, SYNTHETIC, Clip
from avjax.data.prepare_pool import PrepareError, run_tasks
from avjax.data.prepare_report import Report
from avjax.data.prepare_worker import Settings, Task, replace_text
from avjax.data.record import label_classes
from avjax.data.records import AUDIO_CODECS, DESCRIPTION_FILE, SCHEMA, VIDEO_CODECS
from avjax.data.series import Source
from avjax.progress import progress as show_progress

__all__ = ["PrepareError", "Report", "prepare"]

_OURS = re.compile(r"\.?[a-z]+-\d{5}-of-\d{5}\.arrayrecord(\.part)?|dataset\.json|report\.(json|txt)|plan")


def prepare(
    corpus: Any,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    video_codec: str = "jpeg",
    audio_codec: str = "pcm16",
    size: tuple[int, int] | None = None,
    rate: int = 16_000,
    quality: int = 2,
    workers: int | None = None,
    clips_per_shard: int = 64,
    limit_seconds: float = 300.0,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Writes the records of ``corpus`` below ``root`` into the folder ``out``; goes on where an earlier run stopped.

    Args:
      corpus: an object as avjax/data/corpora/__init__.py describes.
      root: the corpus's folder.
      out: a local folder, made where missing.
      video_codec: "jpeg" (a crop decodes only its frames), "raw" (exact, for corpora of arrays), or "h264" (the packets
        of the file, not encoded again).
      audio_codec: "pcm16" or "flac"; both are exact.
      size: (height, width) of the frames; None keeps each clip's.
      rate: Hz of the waveforms.
      quality: of "jpeg": ffmpeg's scale, 1 (best) to 31.
      workers: processes; by default one a core.
      clips_per_shard: at most.
      limit_seconds: a file that takes longer to decode is reported as bad.
      overwrite: delete what an earlier run with other settings wrote into ``out``.
      progress: show progress and time left on stderr.

    Raises:
      ValueError: settings or a corpus that cannot be; or ``out`` holds a corpus prepared in another way.
      PrepareError: no clip decodes, a worker cannot start, or the disk is full.
    """
    settings = Settings(video_codec, audio_codec, rate, size, quality, limit_seconds)
    _check_settings(settings, clips_per_shard)
    if "://" in os.fspath(out):
        raise ValueError(f"{out}: shards are written to a local disk; prepare there and copy the folder")
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: give the folder of the corpus {corpus.name!r}")
    clips = corpus.clips(root)
    _check_clips(corpus, clips, root)
    strangers = _strangers(corpus, root)
    shards = _assign(clips, clips_per_shard)
    note = _synthetic_note(root)
    plan = _plan(corpus, clips, shards, settings, root, note)
    out.mkdir(parents=True, exist_ok=True)
    with _alone_in(out):
        _adopt(out, plan, overwrite)
        done = {file: sidecar for file in shards if (sidecar := _finished(out, file)) is not None}
        tasks = [
            Task(file, os.fspath(out), os.fspath(root), members, settings)
            for file, members in shards.items()
            if file not in done
        ]
        count = min(workers or len(os.sched_getaffinity(0)), len(tasks))
        before, begin = sum(len(shards[file]) for file in done), time.monotonic()
        with show_progress("prepare", len(clips), start=before, quiet=not progress) as advance:

            def tell(behind: int, bad: int) -> None:
                advance(before + behind, note=f"{bad} bad" if bad else "")

            for sidecar in run_tasks(tasks, count, limit_seconds, tell):
                done[sidecar["file"]] = sidecar
        seconds = time.monotonic() - begin
        sidecars = [done[file] for file in shards]
        synthetic = bool(corpus.synthetic) or note is not None
        report = Report.of(corpus, synthetic, sidecars, strangers, os.fspath(out), seconds, len(tasks))
        replace_text(out / "report.json", json.dumps(report.to_json(), indent=2) + "\n")
        replace_text(out / "report.txt", report.text())
        if not sum(report.counts.values()):
            first = report.bad[0]
            raise PrepareError(
                f"none of the {len(clips)} clips could be decoded (see {out / 'report.txt'}); "
                f"the first: {first['file']}: {first['reason']}"
            )
        # Last, since it is what makes the folder a prepared one.
        description = _describe(corpus, settings, report, shards, done, note)
        replace_text(out / DESCRIPTION_FILE, json.dumps(description, indent=2) + "\n")
    return report


def _check_settings(settings: Settings, clips_per_shard: int) -> None:
    if settings.video_codec not in VIDEO_CODECS:
        raise ValueError(f"video codec {settings.video_codec!r} is none of {', '.join(VIDEO_CODECS)}")
    if settings.audio_codec not in AUDIO_CODECS:
        raise ValueError(f"audio codec {settings.audio_codec!r} is none of {', '.join(AUDIO_CODECS)}")
    if settings.video_codec == "h264" and settings.size:
        raise ValueError("video codec h264 keeps the file's own frames: leave out size, or choose jpeg")
    if settings.size and min(settings.size) < 1:
        raise ValueError(f"size is (height, width) in pixels, not {settings.size}")
    if not 1 <= settings.quality <= 31:
        raise ValueError(f"quality is ffmpeg's scale, 1 (best) to 31, not {settings.quality}")
    if clips_per_shard < 1 or settings.limit_seconds <= 0 or settings.rate < 1:
        raise ValueError("clips_per_shard, limit_seconds and rate must be positive")


def _check_clips(corpus: Any, clips: Sequence[Clip], root: Path) -> None:
    if not clips:
        raise ValueError(f"the corpus {corpus.name!r} finds no clip below {root}: is this its folder?")
    names = Counter(clip.name for clip in clips)
    name, times = names.most_common(1)[0]
    if times > 1:
        raise ValueError(f"the corpus {corpus.name!r} names {times} clips {name!r}; names must be unique")
    vocabulary = _vocabulary(corpus)
    splits: dict[str, str] = {}
    for clip in clips:
        if clip.split not in SPLITS:
            raise ValueError(f"clip {clip.name!r} has split {clip.split!r}; splits are {', '.join(SPLITS)}")
        if splits.setdefault(clip.group, clip.split) != clip.split:
            raise ValueError(f"group {clip.group!r} is in splits {splits[clip.group]!r} and {clip.split!r}")
        if clip.labels.keys() != corpus.classes.keys():
            raise ValueError(
                f"clip {clip.name!r} has labels for {sorted(clip.labels)}, not for {sorted(corpus.classes)}"
            )
        for head, label in clip.labels.items():
            if not all(0 <= number < len(corpus.classes[head]) for number in label_classes(label)):
                raise ValueError(f"clip {clip.name!r} has label {head}={label}, which the corpus's classes do not have")
        _check_numbers(clip, vocabulary)


def _check_numbers(clip: Clip, vocabulary: Mapping[str, Sequence[str]]) -> None:
    for name, source in clip.series.items():
        if not isinstance(source, Source) or not dataclasses.is_dataclass(source):
            raise ValueError(
                f"clip {clip.name!r}: series {name!r} is a {type(source).__name__}; it must be a Series, or a source"
                " such as NpyFile or H5Row (avjax.data.series)"
            )
    for head, tokens in clip.sequences.items():
        names = vocabulary.get(head)
        wrong = [token for token in tokens if token < 1 or (names is not None and token >= len(names))]
        if wrong:
            known = "" if names is None else f"; the corpus's vocabulary ends at {len(names) - 1}"
            raise ValueError(f"clip {clip.name!r}: sequence {head!r} holds {wrong[0]}; tokens count from 1{known}")


def _vocabulary(corpus: Any) -> dict[str, list[str]]:
    """Head -> names of its tokens, where the corpus has sequences."""
    found = {head: list(names) for head, names in getattr(corpus, "vocabulary", {}).items()}
    for head, names in found.items():
        if not names or names[0] != "":
            raise ValueError(
                f'the corpus {corpus.name!r}: the vocabulary of {head!r} must begin with "", number 0, which is the'
                " end of a sequence"
            )
    return found


def _synthetic_note(root: Path) -> str | None:
    """What the file SYNTHETIC in a corpus's folder says; None where there is none."""
    file = root / SYNTHETIC
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def _strangers(corpus: Any, root: Path) -> list[dict[str, str]]:
    """Media files that the corpus does not take for its own; a corpus need not say."""
    found = corpus.strangers(root) if hasattr(corpus, "strangers") else []
    return [{"file": os.path.relpath(file, root), "reason": str(reason)} for file, reason in found]


def _assign(clips: Sequence[Clip], clips_per_shard: int) -> dict[str, list[Clip]]:
    """Shard file -> its clips, in the corpus's order: splits one after the other, shards of nearly equal length."""
    shards: dict[str, list[Clip]] = {}
    for split in dict.fromkeys(clip.split for clip in clips):
        members = [clip for clip in clips if clip.split == split]
        count = -(-len(members) // clips_per_shard)
        bounds = [len(members) * shard // count for shard in range(count + 1)]
        for shard in range(count):
            shards[f"{split}-{shard:05d}-of-{count:05d}.arrayrecord"] = members[bounds[shard] : bounds[shard + 1]]
    return shards


def _plan(
    corpus: Any,
    clips: Sequence[Clip],
    shards: Mapping[str, Sequence[Clip]],
    settings: Settings,
    root: Path,
    note: str | None,
) -> dict[str, Any]:
    """What must be equal for shards of an earlier run to be used: settings, corpus, and every clip and its source."""
    digest = hashlib.sha256()
    for clip in clips:
        sources = [_identity(source, root) for source in (clip.audio, clip.video)]
        facts = [clip.name, clip.split, clip.group, *sources, *sorted(clip.labels.items()), *sorted(clip.cues.items())]
        series = [(name, _identity(source, root)) for name, source in sorted(clip.series.items())]
        sequences = [(head, tuple(map(int, tokens))) for head, tokens in sorted(clip.sequences.items())]
        digest.update(repr([*facts, series, sequences]).encode())
    plan = {
        "schema": SCHEMA,
        "settings": dataclasses.asdict(settings),
        "corpus": {"name": corpus.name, **_fields(corpus), "vocabulary": _vocabulary(corpus), "synthetic": note},
        "clips": {"count": len(clips), "sha256": digest.hexdigest()},
        "shards": {file: len(members) for file, members in shards.items()},
    }
    return json.loads(json.dumps(plan))


def _identity(source: Any, root: Path) -> str:
    """A file by its path below the root and its size; an array by its content; a source by its fields."""
    if source is None:
        return ""
    if isinstance(source, os.PathLike | str):
        where = os.path.relpath(source, root)
        return f"{where} {os.path.getsize(source) if os.path.exists(source) else 'missing'}"
    digest = hashlib.sha256()
    for field in dataclasses.fields(source):
        value = getattr(source, field.name)
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            digest.update((_identity(value, root) if isinstance(value, os.PathLike) else repr(value)).encode())
    return digest.hexdigest()


def _fields(corpus: Any) -> dict[str, Any]:
    """The corpus's settings as JSON holds them."""
    if not dataclasses.is_dataclass(corpus):
        return {}
    return json.loads(json.dumps(dataclasses.asdict(corpus), default=str))


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Holds a lock on the folder for as long as this process writes to it."""
    (out / "plan").mkdir(exist_ok=True)
    with (out / "plan" / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PrepareError(
                f"another `avjax prepare` is writing to {out}: wait for it, or choose another folder"
            ) from error
        yield


def _adopt(out: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Goes on in a folder of the same plan; refuses, or empties, one of another."""
    file = out / "plan" / "plan.json"
    try:
        earlier = json.loads(file.read_text()) if file.exists() else None
    except ValueError:
        earlier = {}
    records = [entry.name for entry in out.iterdir() if _OURS.fullmatch(entry.name) and entry.name != "plan"]
    if earlier is None and not records:
        earlier = plan
        replace_text(file, json.dumps(plan, indent=2) + "\n")
    if earlier != plan:
        differing = [part for part in plan if (earlier or {}).get(part) != plan[part]]
        if not overwrite:
            raise ValueError(
                f"{out} holds records prepared in another way (different: {', '.join(differing)}): "
                "choose another folder, or delete them with overwrite (--overwrite)"
            )
        for name in records:
            (out / name).unlink()
        for sidecar in (out / "plan").glob("*.json"):
            sidecar.unlink()
        replace_text(file, json.dumps(plan, indent=2) + "\n")


def _finished(out: Path, file: str) -> dict[str, Any] | None:
    """The sidecar of a shard that an earlier run finished and that is still whole."""
    try:
        sidecar = json.loads((out / "plan" / f"{file}.json").read_text())
        return sidecar if (out / file).stat().st_size == sidecar["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def _describe(
    corpus: Any,
    settings: Settings,
    report: Report,
    shards: Mapping[str, Sequence[Clip]],
    done: Mapping[str, Mapping[str, Any]],
    note: str | None,
) -> dict[str, Any]:
    """The fields of ``Description``. Nothing here depends on when or where the run was made."""
    listed: dict[str, list[dict[str, Any]]] = {}
    for file, members in shards.items():
        sidecar = done[file]
        entry = {"file": file, "records": len(sidecar["records"])} | {key: sidecar[key] for key in ("bytes", "sha256")}
        listed.setdefault(members[0].split, []).append(entry)
    records = [record for sidecar in done.values() for record in sidecar["records"]]
    videos = [record["video"] for record in records if record["video"]]
    sizes = Counter(tuple(video["size"]) for video in videos)
    rates = Counter(video["rate"] for video in videos)
    video = None
    if videos:
        height, width, channels = min(size for size, times in sizes.items() if times == max(sizes.values()))
        rate = min(rate for rate, times in rates.items() if times == max(rates.values()))
        video = {"height": height, "width": width, "channels": channels, "rate": rate, "uniform": len(sizes) == 1}
    return {
        "name": corpus.name,
        "schema": SCHEMA,
        "classes": {head: list(names) for head, names in corpus.classes.items()},
        "counts": dict(report.counts),
        "audio": {"rate": settings.rate} if any(record["audio"] for record in records) else None,
        "video": video,
        "synthetic": report.synthetic,
        "licence": corpus.licence,
        "corpus": _fields(corpus),
        "provenance": {
            **dataclasses.asdict(settings),
            "avjax": avjax.__version__,
            "pyav": version("av"),
            **({} if note is None else {"synthetic": note}),
            **(corpus.facts() if hasattr(corpus, "facts") else {}),
        },
        "shards": listed,
        "series": {
            name: {key: facts[key] for key in ("shape", "rate", "dtype", "longest")}
            for name, facts in report.series.items()
        },
        "vocabulary": _vocabulary(corpus),
    }
