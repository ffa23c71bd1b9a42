"""Imbalance made by learning rates: sound that learns at 0.1 to 10 times the rate of all else (synthetic).

    python experiments/encoder_rates.py --out runs/encoder_rates

The runs differ in that rate alone (experiments/demo_rates.py); each is diagnosed by the smoke tier, and asked what it
has made of either modality: what is lost without it (necessity), what it gives alone (sufficiency), and by how many
powers of ten it is ahead of the other (log rho). On the demo corpus each modality tells half of the label.

Writes OUT/encoder_rates.json and .md; what is done is kept, and a second run costs what is missing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro
from commands import avjax, train_run

from avjax.diagnostics.diagnosis import read

HERE = Path(__file__).resolve().parent
ALONE = "diagnosed clips, a forward pass of it alone"


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains one model at several learning rates of its sound, and diagnoses each, on synthetic data.

    Attributes:
      out: folder for media, records, runs and tables.
      rates: learning rates of sound as multiples of all others'.
      seeds: of the runs; the corpus stays the same.
      steps: optimizer steps of each run; the experiment's own number unless told.
      clips_per_actor: of the corpus, which has 24 actors.
    """

    out: Path = Path("runs/encoder_rates")
    rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    clips_per_actor: int = 40


def encoder_rates(options: Options) -> dict[str, Any]:
    """Trains and diagnoses; returns what encoder_rates.json holds."""
    records = options.out / "records"
    avjax("prepare", "demo", "--data", str(options.out / "media"), "--out", str(records),
          "--corpus.clips-per-actor", str(options.clips_per_actor))  # fmt: skip
    rows = [_diagnosed(rate, seed, records, options) for rate in options.rates for seed in options.seeds]
    return {"synthetic": True, "rows": rows}


def _diagnosed(rate: float, seed: int, records: Path, options: Options) -> dict[str, Any]:
    run = options.out / f"seed{seed}" / f"rate{rate:g}"
    words = ("--seed", str(seed), "--optimizer.rate", f"{rate:g}")
    train_run(str(HERE / "demo_rates.py"), run, records, *words, steps=options.steps)
    avjax("diagnose", str(run), "--tier", "smoke", "--out", str(run / "diagnosis"))
    found = read(run / "diagnosis")
    row: dict[str, Any] = {"rate": rate, "seed": seed, "accuracy": found.value("stress/accuracy", corruption=None)}
    for modality in found.modalities:
        own = {"group": modality, "fill": "drop", "corruption": None}
        row[modality] = {
            "necessity": found.value("contribution/necessity", **own),
            "sufficiency": found.value("contribution/sufficiency", **own),
            "log rho": found.value("contribution/imbalance_ratio", estimator=ALONE, **own),
        }
    return row


def table(found: Mapping[str, Any]) -> list[str]:
    """As Markdown: a row for each run; log rho is of sound against pictures."""
    names = [f"{what} of {name}" for name in ("sound", "pictures") for what in ("necessity", "sufficiency")]
    lines = [["rate of sound (synthetic data)", "seed", "accuracy", *names, "log rho of sound"]]
    lines.append(["---"] * len(lines[0]))
    for row in found["rows"]:
        values = [row["accuracy"], *(row[m][what] for m in ("audio", "video") for what in ("necessity", "sufficiency"))]
        ahead = row["audio"]["log rho"]
        lines.append([f"{row['rate']:g}", str(row["seed"]), *(f"{value:.3f}" for value in values),
                      "-" if ahead is None else f"{ahead:+.3f}"])  # fmt: skip
    return [f"| {' | '.join(line)} |" for line in lines]


def main(options: Options) -> None:
    """Writes both files, and prints the table."""
    found = encoder_rates(options)
    (options.out / "encoder_rates.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    text = "\n".join(table(found))
    (options.out / "encoder_rates.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="encoder_rates"))
