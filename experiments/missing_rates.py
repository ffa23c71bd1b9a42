"""Trained without a modality so often, tested without one so often: accuracy over both rates (synthetic).

    python experiments/missing_rates.py --out runs/missing_rates

Modality dropout takes a modality from a share of the training clips, sound and pictures equally often; the runs differ
in that share alone. Each is then asked about test clips of which a share lacks sound, or pictures, or half of them
either, under each fill. The corpus is the uneven one of cures.py, in which six clips of ten can be told from one
modality alone and the others half of the time. What a model loses where clips are incomplete and its training was not
is read off the first row, what dropout costs where all is there off the first column.

Writes OUT/missing_rates.json, .md and .svg; what is done is kept, and a second run costs what is missing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from commands import avjax, train_run
from cures import CORPUS
from kept import kept_arrays

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.fills import Fill, moments
from avjax.diagnostics.probe import ModelProbe, Probe, reader_of
from avjax.diagnostics.stress.missing import missing
from avjax.training.metrics import Measure, over_seeds
from avjax.training.trained import Trained

HERE = Path(__file__).resolve().parent
HEAD = "emotion"
# What clips of a share lack: each of these modalities equally often.
PATTERNS = {"sound": ("audio",), "pictures": ("video",), "either": ("audio", "video")}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains one model at several rates of missing modalities, and tests each at several, on synthetic data.

    Attributes:
      out: folder for media, records, runs, tables and the figure.
      train_rates: shares of the training clips that lose a modality.
      test_rates: shares of the test clips that lack one.
      fills: of the test clips; training drops, as when nothing was recorded.
      seeds: of the runs; the corpus stays the same.
      steps: optimizer steps of each run; the experiment's own number unless told.
      clips_per_actor: of the corpus, which has 24 actors.
      clips: of the test split, at most so many.
    """

    out: Path = Path("runs/missing_rates")
    train_rates: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7)
    test_rates: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    fills: tuple[Fill, ...] = ("drop", "mean")
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    clips_per_actor: int = 40
    clips: int = 240


def missing_rates(options: Options) -> dict[str, Any]:
    """Trains and tests; returns what missing_rates.json holds."""
    records = options.out / "records"
    avjax("prepare", "demo", "--data", str(options.out / "media"), "--out", str(records), *CORPUS,
          "--corpus.clips-per-actor", str(options.clips_per_actor))  # fmt: skip
    cells = []
    for rate in options.train_rates:
        seen = [_right(rate, seed, records, options) for seed in options.seeds]
        for key in seen[0]:
            fill, pattern, test = key.split(",")
            found = over_seeds([Measure(lambda rows, right=right[key]: float(right[rows].mean()), len(right[key]))
                                for right in seen])  # fmt: skip
            cells.append({"fill": fill, "lacking": pattern, "train_rate": rate, "test_rate": float(test),
                          "accuracy": found.value, "low": found.low, "high": found.high})  # fmt: skip
    return {"synthetic": True, "seeds": options.seeds, "clips": found.count, "cells": cells}


def right_at(probe: Probe, clips: Clips, options: Options) -> dict[str, np.ndarray]:
    """Names of fill, pattern and rate, with commas between -> which of the clips are told then."""
    known = {modality: moments(clips, modality) for modality in probe.modalities}
    found = {}
    for fill in options.fills:
        for name, modalities in PATTERNS.items():
            for rate in options.test_rates:
                some = missing(clips, modalities, rate, fill, seed=0, of=known)
                found[f"{fill},{name},{rate:g}"] = probe.logits(some).argmax(axis=1) == clips.label
    return found


def _right(rate: float, seed: int, records: Path, options: Options) -> dict[str, np.ndarray]:
    """Of one run, which is trained where it is not there; kept in the run."""
    run = options.out / f"seed{seed}" / f"trained{rate:g}"
    words = ("--seed", str(seed), "--frontend.augment.dropout.drop", f"{rate:g}")
    train_run(f"{HERE / 'remedies.py'}:merged_dropout", run, records, *words, steps=options.steps)
    asked = f"{','.join(options.fills)}_{','.join(f'{one:g}' for one in options.test_rates)}_{options.clips}"

    def ask() -> dict[str, np.ndarray]:
        trained = Trained.load(run)
        reader = reader_of(trained, HEAD, "test")
        return right_at(ModelProbe.of(trained, HEAD), reader.read(reader.choose(options.clips)), options)

    return kept_arrays(run / "measured" / f"missing_{asked}.npz", ask)


def matrix(found: Mapping[str, Any], fill: str, pattern: str) -> tuple[list[float], list[float], np.ndarray]:
    """Rates of training and of testing, rising, and accuracy [train, test]."""
    cells = [cell for cell in found["cells"] if (cell["fill"], cell["lacking"]) == (fill, pattern)]
    train, test = (sorted({cell[f"{when}_rate"] for cell in cells}) for when in ("train", "test"))
    of = {(cell["train_rate"], cell["test_rate"]): cell["accuracy"] for cell in cells}
    return train, test, np.array([[of[one, other] for other in test] for one in train])


def table(found: Mapping[str, Any]) -> list[str]:
    """As Markdown: a row for each fill, pattern and rate of training."""
    fills = list(dict.fromkeys(cell["fill"] for cell in found["cells"]))
    _, rates, _ = matrix(found, fills[0], "sound")
    lines: list[Sequence[str]] = [
        ["fill (synthetic data)", "lacking", "trained without", *(f"tested without {rate:g}" for rate in rates)],
        ["---"] * (3 + len(rates)),
    ]
    for fill in fills:
        for pattern in PATTERNS:
            train, _, accuracy = matrix(found, fill, pattern)
            lines += [[fill, pattern, f"{rate:g}", *(f"{one:.3f}" for one in row)]
                      for rate, row in zip(train, accuracy, strict=True)]  # fmt: skip
    return [f"| {' | '.join(line)} |" for line in lines]


def plot(found: Mapping[str, Any], path: Path) -> None:
    """A map for each fill and pattern."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    fills = list(dict.fromkeys(cell["fill"] for cell in found["cells"]))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "avjax"}):
        figure = Figure(figsize=(9, 2.6 * len(fills) + 0.4), layout="constrained")
        axes = figure.subplots(len(fills), len(PATTERNS), squeeze=False)
        for row, fill in enumerate(fills):
            for column, pattern in enumerate(PATTERNS):
                train, test, accuracy = matrix(found, fill, pattern)
                own = axes[row][column]
                drawn = own.imshow(accuracy, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
                own.set_xticks(range(len(test)), [f"{rate:g}" for rate in test])
                own.set_yticks(range(len(train)), [f"{rate:g}" for rate in train])
                own.set_title(f"without {pattern}, {fill}", fontsize=9)
                for (y, x), value in np.ndenumerate(accuracy):
                    own.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8,
                             color="black" if value > 0.6 else "white")  # fmt: skip
        figure.colorbar(drawn, ax=axes, label="accuracy")
        figure.supxlabel("share of test clips without it", fontsize=9)
        figure.supylabel("share of training clips without one", fontsize=9)
        figure.suptitle("missing modalities in training and test (SYNTHETIC)", fontsize=10)
        figure.savefig(path, metadata={"Date": None})


def main(options: Options) -> None:
    """Writes the three files, and prints the table."""
    found = missing_rates(options)
    (options.out / "missing_rates.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    plot(found, options.out / "missing_rates.svg")
    text = "\n".join(table(found))
    (options.out / "missing_rates.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="missing_rates"))
