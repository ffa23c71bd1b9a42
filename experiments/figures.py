"""Rebuilds the tables of README.md and experiments/README.md: what ``make figures`` runs.

    python experiments/figures.py demo interaction digits --digits-data FOLDER

demo         the quickstart's experiments on the synthetic demo corpus, three seeds
interaction  late fusion and MBT where the label lies in heard and seen together (synthetic)
systems      every system that can tell an emotion, under one budget, three seeds (synthetic)
attention    losses on attention statistics, each beside a run without it (synthetic)
informativeness  shares of nine models against what the generator of their corpora planted (synthetic)
digits       spoken and handwritten digits, each speaker held out in turn, with logistic regression beside them
peers        metrics of a small network beside shap, captum and Quantus, which another Python has

Everything is kept below --out and gone on with, so a second run costs what is missing. Each part prints a Markdown
table and writes it to OUT/PART.md, with the command, the hardware, the date and the commit.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from commands import avjax, train_run

from avjax import __version__
from avjax.training.metrics import Measure, over_seeds

HERE = Path(__file__).resolve().parent
Part = Literal["demo", "interaction", "systems", "attention", "informativeness", "digits", "peers"]
SPEAKERS = ("george", "jackson", "lucas", "nicolas")


@dataclasses.dataclass(frozen=True)
class Options:
    """Rebuilds tables of results.

    Attributes:
      parts: which tables.
      out: folder for media, records, runs and tables.
      digits_data: folder of the Free Spoken Digit recordings; the digits part needs it.
      torch_python: a Python with PyTorch, shap, captum and Quantus; the peers part needs it.
      seeds: of the demo and systems parts.
      only: names of systems to take; all unless told.
      steps: optimizer steps of each run; the experiments' own number unless told.
      clips_per_actor: of the demo corpus.
      speakers: held out in turn, in the digits part.
    """

    parts: tyro.conf.Positional[tuple[Part, ...]] = (
        "demo", "interaction", "systems", "attention", "informativeness", "digits",
    )  # fmt: skip
    out: Path = Path("runs/figures")
    digits_data: Path | None = None
    torch_python: Path | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()
    steps: int | None = None
    clips_per_actor: int = 40
    speakers: tuple[str, ...] = SPEAKERS


def demo(options: Options) -> list[str]:
    """Accuracy of every demo experiment for each seed, and the mean with an interval over test clips and seeds."""
    folder = options.out / "demo"
    records = _prepare(folder, "demo", "--corpus.clips-per-actor", str(options.clips_per_actor))
    names = ("demo_audio", "demo_video", "demo_late", "demo_mbt")
    for seed in options.seeds:
        runs = {name: folder / f"seed{seed}" / name for name in names}
        for name, run in runs.items():
            _train(name, run, records, options, "--seed", str(seed))
        pair = [str(runs["demo_audio"]), str(runs["demo_video"])]
        avjax("eval", *pair, "--average", str(folder / f"seed{seed}" / "demo_late_averaged"))
    heading = ["experiment (synthetic data)", *(f"seed {seed}" for seed in options.seeds), "mean", "95 % interval"]
    rows = []
    for name in (*names[:3], "demo_late_averaged", names[3]):
        right = [_right(folder / f"seed{seed}" / name, "emotion") for seed in options.seeds]
        rows.append([name, *(f"{clips.mean():.3f}" for clips in right), *_mean_and_interval(np.stack(right))])
    return _table(heading, rows)


def interaction(options: Options) -> list[str]:
    """Late fusion against MBT where neither modality alone says anything about the label."""
    folder = options.out / "interaction"
    knobs = ["--corpus.interaction", "congruence", "--corpus.clips-per-actor", str(options.clips_per_actor)]
    records = _prepare(folder, "demo", *knobs)
    rows = []
    for name in ("demo_congruence_late", "demo_congruence_mbt"):
        run = folder / name
        _train(name, run, records, options)
        right = _right(run, "congruence")
        rows.append([name, *_mean_and_interval(right[None])])
    return _table(["experiment (synthetic data)", "accuracy", "95 % interval"], rows)


def systems(options: Options) -> list[str]:
    """``avjax compare`` of compare_demo.py; ``systems.py --results`` puts what it found into docs/systems.md."""
    folder = options.out / "systems"
    records = _prepare(options.out / "demo", "demo", "--corpus.clips-per-actor", str(options.clips_per_actor))
    words = ["--out", str(folder), "--records", str(records), "--seeds", *map(str, options.seeds)]
    words += ["--steps", str(options.steps)] if options.steps else []
    words += ["--only", *options.only] if options.only else []
    avjax("compare", str(HERE / "compare_demo.py"), *words)
    found = json.loads((folder / "comparison.json").read_text())["experiments"]
    rows = []
    for name, row in sorted(found.items(), key=lambda one: -(one[1]["accuracy"] or 0)):
        others = [row[condition] for condition in ("without_audio", "without_video", "misaligned")]
        rows.append([
            name,
            "failed" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
            "" if row["accuracy"] is None else f"{row['accuracy_low']:.3f} to {row['accuracy_high']:.3f}",
            *("" if value is None else f"{value:.3f}" for value in others),
        ])  # fmt: skip
    heading = ["system (synthetic)", "accuracy", "95 % interval", "without sound", "without pictures", "misaligned"]
    return _table(heading, rows)


# Term of the objective -> its weight, and what else its run is given.
TERMS = {
    "balance": ("1", ()),
    "entropy": ("30", ("--objective.floor", "0.95")),
    "decorrelation": ("1", ()),
    "stability": ("10", ()),
}


def attention(options: Options) -> list[str]:
    """Each term of ``AttentionTerms`` on the test split, in a run without any term and in one with it."""
    folder = options.out / "attention"
    records = _prepare(folder, "demo", "--corpus.clips-per-actor", str(options.clips_per_actor))

    def trained(name: str, *words: str) -> dict[str, float]:
        _train("demo_attention", folder / name, records, options, *words)
        results = json.loads((folder / name / "results.json").read_text())["test"]
        return {"accuracy": results["metrics"]["emotion"]["accuracy"]["value"], **results["losses"]}

    rows = []
    for term, (weight, words) in TERMS.items():
        without = trained(f"without_{term}", *words) if words else trained("without")
        with_it = trained(term, f"--objective.{term}", weight, *words)
        numbers = [found[f"attention/{term}"] for found in (without, with_it)]
        accuracies = [found["accuracy"] for found in (without, with_it)]
        rows.append([term, weight, *(f"{value:.4f}" for value in numbers), *(f"{value:.3f}" for value in accuracies)])
    heading = ["term (synthetic data)", "weight", "without", "with", "accuracy without", "accuracy with"]
    return _table(heading, rows)


def informativeness(options: Options) -> list[str]:
    """MM-SHAP and attention against what was planted; informativeness.py keeps JSON and a plot beside the table."""
    import informativeness as program

    steps = {"steps": options.steps} if options.steps else {}
    clips = {"clips_per_actor": min(options.clips_per_actor, program.Options.clips_per_actor)}
    return program.carry_out(program.Options(out=options.out / "informativeness", **clips, **steps))


def digits(options: Options) -> list[str]:
    """Four experiments and three logistic regressions, each speaker held out in turn."""
    if options.digits_data is None:
        raise SystemExit("figures: the digits part needs --digits-data, the folder of the Free Spoken Digit recordings")
    folder = options.out / "digits"
    names = ("digits_audio", "digits_video", "digits_late", "digits_mbt")
    found: dict[str, list[float]] = {}
    minutes = []
    for speaker in options.speakers:
        records = _prepare(folder / speaker, "digits", "--corpus.held-out", speaker, data=options.digits_data)
        baseline = [sys.executable, str(HERE / "baselines" / "digits_logistic.py"), str(records), "--json"]
        # One thread: scikit-learn's small products are slower with more.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        shown = subprocess.run(baseline, check=True, capture_output=True, text=True, env=environment).stdout
        (row,) = json.loads(shown)["rows"]
        for what in ("audio", "video", "both"):
            found.setdefault(f"logistic regression, {what}", []).append(row[what])
        seconds = 0.0
        for name in names:
            run = folder / speaker / name
            _train(name, run, records, options)
            results = json.loads((run / "results.json").read_text())
            seconds += results["seconds"]
            found.setdefault(name, []).append(results["test"]["metrics"]["digit"]["accuracy"]["value"])
        minutes.append(seconds / 60)
    rows = [[name, *(f"{value:.3f}" for value in values), f"{np.mean(values):.3f}"] for name, values in found.items()]
    rows.append(["minutes of training, all four", *(f"{value:.1f}" for value in minutes), f"{np.mean(minutes):.1f}"])
    return _table(["held-out speaker", *options.speakers, "mean"], rows)


def peers(options: Options) -> list[str]:
    """Every metric that a library of another framework has too, on the same numbers: peers/agreement.py."""
    if options.torch_python is None:
        raise SystemExit("figures: the peers part needs --torch-python, a Python with PyTorch and the libraries")
    folder = options.out / "peers"
    program = [sys.executable, str(HERE / "peers" / "agreement.py"), "--out", str(folder)]
    # It prints its own table, and which tolerance is broken.
    if status := subprocess.run([*program, "--torch-python", str(options.torch_python)], check=False).returncode:
        raise SystemExit(status)
    found = json.loads((folder / "agreement.json").read_text())
    heading = ["avjax", "peer", "between the two", "numbers", "difference", "tolerance"]
    rows = []
    for row in found["rows"]:
        amounts = (str(row["numbers"]), f"{row['difference']:.1e}", f"{row['tolerance']:.0e}")
        rows.append([f"`{row['metric']}`", row["peer"], row["conversion"], *amounts])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [*_table(heading, rows), "", f"Versions: {versions}."]


def _prepare(folder: Path, corpus: str, *words: str, data: Path | None = None) -> Path:
    records = folder / "records"
    avjax("prepare", corpus, "--data", str(data or folder / "media"), "--out", str(records), *words)
    return records


def _train(name: str, run: Path, records: Path, options: Options, *words: str) -> None:
    train_run(str(HERE / f"{name}.py"), run, records, *words, steps=options.steps)


def _right(run: Path, head: str) -> np.ndarray:
    """[N] whether each test clip was classified rightly."""
    with np.load(run / "predictions" / "test.npz", allow_pickle=False) as arrays:
        return arrays[f"predicted:{head}"].argmax(axis=1) == arrays[f"target:{head}"].argmax(axis=1)


def _mean_and_interval(right: np.ndarray) -> list[str]:
    """Bootstrap over seeds and, within them, test clips; [S, N] to text."""
    found = over_seeds([Measure.mean(row) for row in right])
    return [f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}"]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main(options: Options) -> None:
    """Makes each part's table, prints it, and keeps it with the command that made it."""
    makers = {
        "demo": demo, "interaction": interaction, "systems": systems, "attention": attention,
        "informativeness": informativeness, "digits": digits,
        "peers": peers,
    }  # fmt: skip
    for part in options.parts:
        table = makers[part](options)
        words = {"digits": " --digits-data FOLDER", "peers": " --torch-python PYTHON"}.get(part, "")
        command = f"python experiments/figures.py {part}{words}"
        made = f"`{command}`, {os.cpu_count()} cores of {_processor()}, {datetime.date.today()}, {_commit()}."
        text = "\n".join([*table, "", made, ""])
        (options.out / f"{part}.md").write_text(text)
        print(f"\n{text}")


def _commit() -> str:
    """The commit that made a table, or the version where this is no checkout."""
    words = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    try:
        return f"commit {subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        return f"avjax {__version__}"


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main(tyro.cli(Options, prog="figures"))
