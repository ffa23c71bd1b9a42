"""Logistic regression on the digits' records: what each modality, and both together, give without a network.

    python experiments/baselines/digits_logistic.py records/digits

It reads the same records as the digits experiments: sound as mean and standard deviation over time of its log-mel, the
picture as its pixels, both as the two side by side. Features are standardised on the training split, and the strength
of regularisation is the best of a few on the validation split. Several folders (one for each held-out speaker, say)
make one row each, and a row of means.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avjax.data.logmel import LogMel
from avjax.data.records import Records, Split
from avjax.streams import Stream

# Inverse strengths of the L2 penalty that are tried.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
CLIPS_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class Options:
    """Logistic regression on prepared digits.

    Attributes:
      records: folders that `avjax prepare digits` wrote.
      mels: mel bins of the spectrogram.
      json: print JSON instead of a table.
    """

    records: tyro.conf.Positional[tuple[Path, ...]]
    mels: int = 64
    json: bool = False


@dataclasses.dataclass(frozen=True)
class Features:
    """Of one split: sound [N, 2F], pixels [N, P], label [N]."""

    audio: np.ndarray
    video: np.ndarray
    label: np.ndarray

    def of(self, name: str) -> np.ndarray:
        return np.hstack([self.audio, self.video]) if name == "both" else getattr(self, name)


def spectrum_statistics(waveforms: list[np.ndarray], logmel: LogMel) -> np.ndarray:
    """Mean and standard deviation over each clip's own frames of its log-mel: [N, 2F]."""
    samples = max(logmel.samples(1), *(len(waveform) for waveform in waveforms))
    # Every batch has one shape, so the log-mel compiles once.
    transform = jax.jit(logmel)
    found = []
    for begin in range(0, len(waveforms), CLIPS_AT_ONCE):
        chosen = waveforms[begin : begin + CLIPS_AT_ONCE]
        values = np.zeros((CLIPS_AT_ONCE, samples), np.int16)
        valid = np.zeros(values.shape, bool)
        for row, waveform in enumerate(chosen):
            values[row, : len(waveform)] = waveform
            valid[row, : len(waveform)] = True
        spectrum = transform(Stream(values, valid, np.zeros(CLIPS_AT_ONCE, np.float32), float(logmel.rate)))
        for row in range(len(chosen)):
            frames = np.asarray(spectrum.values[row])[np.asarray(spectrum.valid[row])]
            found.append(np.concatenate([frames.mean(0), frames.std(0)]))
    return np.stack(found)


def features(split: Split, logmel: LogMel) -> Features:
    records = [split[index] for index in range(len(split))]
    return Features(
        spectrum_statistics([record.audio.read() for record in records], logmel),
        np.stack([record.video.read([0]).reshape(-1) / 255 for record in records]),
        np.array([record.labels["digit"] for record in records]),
    )


def best_fit(train: Features, validation: Features, name: str) -> LogisticRegression:
    """The regression on modality ``name`` that does best on validation; the first, most regularised, among equals."""
    fits = [make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2_000)) for strength in STRENGTHS]
    for fit in fits:
        fit.fit(train.of(name), train.label)
    return max(fits, key=lambda fit: fit.score(validation.of(name), validation.label))


def measure(folder: Path, logmel: LogMel) -> dict[str, float | str | int]:
    """Test accuracies of one records folder, and its held-out speaker."""
    records = Records(folder)
    train, validation, test = (features(records.split(name), logmel) for name in ("train", "validation", "test"))
    row: dict[str, float | str | int] = {
        "records": str(folder),
        "held_out": records.description.corpus["held_out"],
        "train": len(train.label),
        "test": len(test.label),
    }
    for name in ("audio", "video", "both"):
        row[name] = float(best_fit(train, validation, name).score(test.of(name), test.label))
    return row


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not options.records:
        sys.exit("digits_logistic: name at least one folder that `avjax prepare digits` wrote")
    rows = [measure(folder, LogMel(mels=options.mels)) for folder in options.records]
    means = {name: float(np.mean([row[name] for row in rows])) for name in ("audio", "video", "both")}
    if options.json:
        print(json.dumps({"rows": rows, "mean": means}, indent=2))
        return
    table = Table("held out", "train", "test", "audio", "video", "both", title="Logistic regression: test accuracy")
    for row in rows:
        counts = (str(row["held_out"]), str(row["train"]), str(row["test"]))
        table.add_row(*counts, *(f"{row[name]:.3f}" for name in means))
    if len(rows) > 1:
        table.add_section()
        table.add_row("mean", "", "", *(f"{mean:.3f}" for mean in means.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
