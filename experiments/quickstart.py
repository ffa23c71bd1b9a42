"""The whole job, from a folder of videos to a report, on a synthetic corpus: what ``make quickstart`` runs.

    python experiments/quickstart.py --out runs/quickstart

Generates the demo corpus as .mp4 files, prepares it, trains four experiments, evaluates them, classifies one clip, and
writes report.html and results.json. Each step is one avjax command, shown as it is run; interrupted, it goes on where
it stopped. Under 5 minutes on 2 cores.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from avjax.cli import main as avjax

EXPERIMENTS = ("demo_audio", "demo_video", "demo_late", "demo_mbt")
AVERAGED = "demo_late_averaged"
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Options:
    """The main job of avjax on its synthetic demo corpus.

    Attributes:
      out: folder for everything: media, records, runs, report.
      seed: of the runs; the corpus stays the same.
      steps: optimizer steps of each run; the experiments' own number unless told.
      clips_per_actor: of the corpus, which has 24 actors.
    """

    out: Path = Path("runs/quickstart")
    seed: int = 0
    steps: int | None = None
    clips_per_actor: int = 40


def quickstart(options: Options) -> dict[str, dict[str, Any]]:
    """Runs every step; returns what results.json holds: experiment -> accuracy, uar, intervals, seed, seconds."""
    out = options.out
    media, records = out / "media", out / "records"
    runs = [out / name for name in EXPERIMENTS]
    settings = ["--data.records", str(records), "--seed", str(options.seed)]
    if options.steps:
        settings += ["--training.steps", str(options.steps)]

    steps: list[list[str]] = [
        ["prepare", "demo", "--data", str(media), "--out", str(records),
         "--corpus.clips-per-actor", str(options.clips_per_actor)],
        *(["train", str(HERE / f"{run.name}.py"), "--out", str(run), *settings] for run in runs),
        ["eval", *map(str, runs[:2]), "--average", str(out / AVERAGED)],
        ["eval", *map(str, runs[2:])],
    ]  # fmt: skip
    begin = time.monotonic()
    for number, words in enumerate(steps, start=1):
        _run(words, f"{number} of {len(steps) + 2}", begin)
    clip = sorted(media.glob("Actor_*/*.mp4"))[-1]
    _run(["predict", str(runs[-1]), str(clip)], f"{len(steps) + 1} of {len(steps) + 2}", begin)
    compared = [*runs[:3], out / AVERAGED, runs[3]]
    title = "avjax quickstart: the synthetic demo corpus"
    _run(
        ["compare", *map(str, compared), "--out", str(out / "report.html"), "--title", title],
        f"{len(steps) + 2} of {len(steps) + 2}",
        begin,
    )
    results = {path.name: _summary(path, options.seed) for path in compared}
    (out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    print(f"\nDone in {time.monotonic() - begin:.0f} s: look at {out / 'report.html'}")
    return results


def _run(words: Sequence[str], place: str, begin: float) -> None:
    """One avjax command, shown as a user would type it."""
    print(f"\n[{place}, {time.monotonic() - begin:.0f} s] avjax {shlex.join(words)}", flush=True)
    status = avjax(words)
    if status:
        raise SystemExit(status)


def _summary(run: Path, seed: int) -> dict[str, Any]:
    """One line of results.json. Clips are synthetic, and the line says so."""
    results = json.loads((run / "results.json").read_text())
    metrics = results["test"]["metrics"]["emotion"]
    return {
        "accuracy": metrics["accuracy"]["value"],
        "interval": [metrics["accuracy"]["low"], metrics["accuracy"]["high"]],
        "uar": metrics["uar"]["value"],
        "uar_interval": [metrics["uar"]["low"], metrics["uar"]["high"]],
        "clips": metrics["accuracy"]["count"],
        "seed": seed,
        "seconds": results.get("seconds", 0.0),
        "synthetic": True,
    }


if __name__ == "__main__":
    quickstart(tyro.cli(Options, prog="quickstart"))
