"""What each remedy of remedies.py moves: its own measure without it and with it, on a synthetic corpus with faults.

    python experiments/cures.py --out runs/cures --seeds 0 1 2

Prepares the corpora of remedies.py, trains every pair, and measures the test split. The interval of a difference
is bootstrapped over seeds and clips, the same clips without and with the remedy, so that what makes a clip hard for
both cancels. Writes OUT/cures.md and OUT/cures.json; what is done is kept, and a second run costs what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from commands import avjax, train_run
from kept import kept_arrays

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.probe import ModelProbe, reader_of
from avjax.diagnostics.stress.attacks.clips import adversary_of, attacked
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.diagnostics.stress.attacks.region import snr_radius
from avjax.diagnostics.stress.corruption import corrupted
from avjax.training.metrics import Measure, over_seeds
from avjax.training.trained import Trained

HERE = Path(__file__).resolve().parent
HEAD = "emotion"
CORPUS = ("--corpus.seen-jitter", "0.4", "--corpus.redundancy", "0.6")
# Rarer yet, and more clips, so that the test split has enough of the rare ones to tell.
RARE, MORE = ("--corpus.seen-jitter", "0.4", "--corpus.redundancy", "0.8"), 3
ON_RARE = ("late_groups",)
CORRUPTIONS = ("audio/white_noise", "video/gaussian_noise")
SEVERITY = 4
SITE = "fusion.audio+video"  # where tokens of both modalities choose between them
ATTACK, DECIBELS, PIXELS = PGD(steps=10), 30.0, 4 / 255

Arrays = Mapping[str, np.ndarray]
Rows = np.ndarray
Statistic = Callable[[Arrays, Rows], float]


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains remedies beside the runs without them, and says what each has moved; on synthetic data.

    Attributes:
      out: folder for media, records, runs, measures and tables.
      seeds: of the runs; the corpus stays the same.
      only: names of the runs with a remedy; all unless told.
      steps: optimizer steps of each run; the experiments' own number unless told.
      clips_per_actor: of the uneven corpus, which has 24 actors; that of rare classes has three times as many.
      clips: of the test split, at most so many, for what needs more than a pass: attacks, corruption, attention.
    """

    out: Path = Path("runs/cures")
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()
    steps: int | None = None
    clips_per_actor: int = 40
    clips: int = 128


@dataclasses.dataclass(frozen=True)
class Looked:
    """A trained run and clips of the test split."""

    probe: ModelProbe
    clips: Clips

    def right(self, clips: Clips) -> np.ndarray:
        return self.probe.logits(clips).argmax(axis=1) == clips.label

    def without(self) -> Arrays:
        """Whether clips are told without either modality."""
        return {f"without_{m}": self.right(self.clips.without(m)) for m in self.probe.modalities}

    def corrupted(self) -> Arrays:
        """Whether clips are told under noise."""
        found = {}
        for name in CORRUPTIONS:
            streams = corrupted(self.clips.streams, name, SEVERITY, seed=0, index=self.clips.index)
            found[name] = self.right(self.clips.replace(streams))
        return found

    def attacked(self) -> Arrays:
        """Whether clips withstand an attack on both modalities."""
        adversary = adversary_of(self.probe.program, self.clips, (ATTACK,), batch=self.probe.batch)
        sound = self.clips.streams["audio"]
        budget = {"audio": snr_radius(sound.values, sound.valid, DECIBELS), "video": PIXELS}
        return {"withstood": attacked(adversary, self.clips, budget)[0].right}

    def attention(self) -> Arrays:
        """Share of attention that goes to sound, of what goes to sound or pictures, by layer: [N, layer]."""
        site = self.probe.attention(self.clips, ("mass",))[SITE]
        mass = np.asarray(site["mass"], np.float64).mean(axis=(2, 3))
        audio, video = (mass[..., site.keys.names.index(m)] for m in ("audio", "video"))
        return {"audio_share": (audio / (audio + video)).T}


@dataclasses.dataclass(frozen=True)
class Cure:
    """How a remedy's own measure is had.

    Attributes:
      measure: in words.
      better: which way a remedy is to move it.
      look: of a run's clips, beside the predictions that the run has kept; None where those are enough.
      statistic: of the arrays, over some rows.
    """

    measure: str
    better: Literal["higher", "lower"]
    look: Callable[[Looked], Arrays] | None
    statistic: Statistic


def mean_right(arrays: Arrays, rows: Rows) -> float:
    """Accuracy, mean over all conditions."""
    return float(np.mean([right[rows].mean() for right in arrays.values()]))


def accuracy(arrays: Arrays, rows: Rows) -> float:
    label = arrays[f"target:{HEAD}"][rows].argmax(axis=1)
    return float((arrays[f"predicted:{HEAD}"][rows].argmax(axis=1) == label).mean())


def own_accuracy(arrays: Arrays, rows: Rows) -> float:
    """Accuracy of the modality that does worse by its own logits."""
    label = arrays[f"target:{HEAD}"][rows].argmax(axis=1)
    return min(float((arrays[key][rows].argmax(axis=1) == label).mean()) for key in own_predictions(arrays))


def own_ratio(arrays: Arrays, rows: Rows) -> float:
    """|log10 rho|, rho the two modalities' mean probabilities of the true class (``contribution/imbalance_ratio``)."""
    target = arrays[f"target:{HEAD}"][rows]
    one, other = ((arrays[key][rows] * target).sum(axis=1).mean() for key in own_predictions(arrays))
    return float(abs(np.log10(one / other)))


def own_predictions(arrays: Arrays) -> list[str]:
    return sorted(key for key in arrays if key.startswith(f"predicted:{HEAD}/"))


def worst_class(arrays: Arrays, rows: Rows) -> float:
    """Lowest accuracy of a class; one that no row has does not count."""
    return min(_of_classes(arrays, rows))


def class_gap(arrays: Arrays, rows: Rows) -> float:
    """By how much the best class fares better than the worst."""
    found = _of_classes(arrays, rows)
    return max(found) - min(found)


def _of_classes(arrays: Arrays, rows: Rows) -> list[float]:
    label = arrays[f"target:{HEAD}"][rows].argmax(axis=1)
    right = arrays[f"predicted:{HEAD}"][rows].argmax(axis=1) == label
    return [float(right[label == k].mean()) for k in np.unique(label)]


def uneven_attention(arrays: Arrays, rows: Rows) -> float:
    """|mean share of sound - 1/2|, mean over layers."""
    return float(np.abs(arrays["audio_share"][rows].mean(axis=0) - 0.5).mean())


WEAKER = Cure("accuracy of the weaker modality's own logits", "higher", None, own_accuracy)
RATIO = Cure("imbalance of own logits, size of log10 rho", "lower", None, own_ratio)
CURES: dict[str, tuple[Cure, ...]] = {
    "joint_modulation": (WEAKER, RATIO),
    "joint_prototypes": (WEAKER, RATIO),
    "late_noise": (Cure(f"accuracy in noise, severity {SEVERITY}", "higher", Looked.corrupted, mean_right),),
    "late_adversarial": (
        Cure(f"accuracy under {ATTACK.name}, {DECIBELS:g} dB and 4/255", "higher", Looked.attacked, mean_right),
    ),
    "late_groups": (
        Cure("accuracy of the worst class", "higher", None, worst_class),
        Cure("gap between the best and the worst class", "lower", None, class_gap),
    ),
    "merged_dropout": (Cure("accuracy without a modality", "higher", Looked.without, mean_right),),
    "merged_learned": (Cure("accuracy without a modality", "higher", Looked.without, mean_right),),
    "merged_balance": (Cure("attention, distance from even", "lower", Looked.attention, uneven_attention),),
}
ACCURACY = Cure("accuracy", "higher", None, accuracy)


def cures(options: Options) -> dict[str, Any]:
    """Trains and measures; returns what cures.json holds."""
    sys.path.insert(0, str(HERE))
    from remedies import PAIRS

    if unknown := set(options.only) - set(CURES):
        raise SystemExit(f"cures: {sorted(unknown)[0]} is no remedy; there are {', '.join(CURES)}")
    rows = []
    for remedy in options.only or CURES:
        pair, folder = (PAIRS[remedy], remedy), _prepared(remedy, options)
        runs = [[_trained(name, seed, folder, options) for name in pair] for seed in options.seeds]
        for cure in (*CURES[remedy], ACCURACY):
            pairs = [[_arrays(run, cure, options) for run in of] for of in runs]
            rows.append({"remedy": remedy, "measure": cure.measure, "better": cure.better, **difference(pairs, cure)})
    return {"synthetic": True, "seeds": options.seeds, "rows": rows}


def difference(pairs: list[list[Arrays]], cure: Cure) -> dict[str, Any]:
    """Without, with, and the paired difference with its interval over seeds and clips.

    Args:
      pairs: of each seed, the arrays of the run without and of the run with the remedy, of the same clips.
    """

    def moved(without: Arrays, remedied: Arrays, rows: Rows) -> float:
        return cure.statistic(remedied, rows) - cure.statistic(without, rows)

    count = len(next(iter(pairs[0][0].values())))
    found = over_seeds([Measure(functools.partial(moved, *pair), count) for pair in pairs])
    means = [float(np.mean([cure.statistic(pair[k], np.arange(count)) for pair in pairs])) for k in (0, 1)]
    said = "not told apart"
    if found.low > 0 or found.high < 0:
        said = "better" if (found.value > 0) == (cure.better == "higher") else "worse"
    return {"without": means[0], "with": means[1], "difference": found.value, "low": found.low, "high": found.high,
            "clips": count, "said": said}  # fmt: skip


def _prepared(remedy: str, options: Options) -> Path:
    """The folder of a remedy's corpus, below which its records and its runs lie."""
    rare = remedy in ON_RARE
    folder, corpus = (options.out / "rare", RARE) if rare else (options.out, CORPUS)
    count = options.clips_per_actor * (MORE if rare else 1)
    avjax("prepare", "demo", "--data", str(folder / "media"), "--out", str(folder / "records"), *corpus,
          "--corpus.clips-per-actor", str(count))  # fmt: skip
    return folder


def _trained(name: str, seed: int, folder: Path, options: Options) -> Path:
    run = folder / f"seed{seed}" / name
    train_run(f"{HERE / 'remedies.py'}:{name}", run, folder / "records", "--seed", str(seed), steps=options.steps)
    return run


def _arrays(run: Path, cure: Cure, options: Options) -> dict[str, np.ndarray]:
    """What the run has predicted, or what looking at it gives, which is kept in the run."""
    if cure.look is None:
        with np.load(run / "predictions" / "test.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    def look() -> Arrays:
        trained = Trained.load(run)
        reader = reader_of(trained, HEAD, "test")
        return cure.look(Looked(ModelProbe.of(trained, HEAD), reader.read(reader.choose(options.clips))))

    return kept_arrays(run / "measured" / f"{cure.look.__name__}_{options.clips}.npz", look)


def table(found: Mapping[str, Any]) -> str:
    """As Markdown."""
    heading = ["remedy (synthetic data)", "measure", "without", "with", "difference", "95 % interval", ""]
    lines = [heading, ["---"] * len(heading)]
    for row in found["rows"]:
        numbers = (f"{row['without']:.3f}", f"{row['with']:.3f}", f"{row['difference']:+.3f}")
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}"
        lines.append([row["remedy"], f"{row['measure']} ({row['better']})", *numbers, interval, row["said"]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(options: Options) -> None:
    """Writes cures.json and cures.md, and prints the table."""
    found = cures(options)
    (options.out / "cures.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    text = table(found)
    (options.out / "cures.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="cures"))
