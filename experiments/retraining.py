"""Explanations that train again: remove-and-retrain (ROAR), and the model that learned random labels (synthetic).

    python experiments/retraining.py --out runs/retraining

ROAR (Hooker et al. 2019, "A Benchmark for Interpretability Methods in Deep Neural Networks"). A model explains every
clip of every split; of each modality the most salient share goes, at its mean, and the same experiment is trained on
what is left, from scratch. What the explanation names is worth something where accuracy falls faster than without as
many parts at random; the reversed order takes the least salient first. The explanation is |gradient x input| of the
class that the model predicts (of the label where it is right), on the raw players of a diagnosis: 16 windows of the
sound, 16 cells of the pictures. A model that is trained again may learn from what the first did not use: where one
part tells what another told, accuracy stays, and the explanation need not be wrong. And where parts are gone may itself
tell the class: what a linear probe knows from that alone stands beside each accuracy (Rong et al. 2022, "A Consistent
and Efficient Evaluation Strategy for Attribution Methods").

Data randomisation (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"). The same experiment is trained on the same
clips with the training labels in random order, for as many steps and from other initial weights; both models explain
the same test clips, the class that the true one predicts. An explanation of what was learned must be near the floor of
shuffled cells. Beside it stands a third model, of true labels and those other weights: how alike the explanations of
two models are that learned the same.

Clips are the windows in the middle that an explanation is of, kept as exact samples and frames, so that no crop and no
codec comes between. The corpus is the uneven one of cures.py. Writes OUT/retraining.json, .md and .svg; what is done is
kept, and a second run costs what is missing. Records of changed clips take 2.2 GB a seed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from changed import Change, Order, changed_records, ordered, removed, saliency_of
from commands import avjax, train_run
from cures import CORPUS, HEAD
from jaxtyping import Bool, Float, Int
from kept import kept_arrays
from retraining_shown import plot, tables

from avjax.data.pipeline import Data
from avjax.data.records import Records
from avjax.diagnostics.clips import ClipReader, Clips
from avjax.diagnostics.contribution.probing import linear_probe
from avjax.diagnostics.faithfulness import retraining, sanity
from avjax.diagnostics.faithfulness.localisation import unit_range
from avjax.diagnostics.fills import moments
from avjax.diagnostics.players import Baseline, Players, raw_players
from avjax.diagnostics.probe import ModelProbe, reader_of
from avjax.diagnostics.protocol.faithfulness import by_gradient
from avjax.diagnostics.protocol.randomised import gradient_maps
from avjax.diagnostics.protocol.study import Part, Said, Study
from avjax.diagnostics.protocol.tiers import SMOKE
from avjax.experiment import load
from avjax.training.metrics import Measure, over_seeds
from avjax.training.trained import Trained

HERE = Path(__file__).resolve().parent
EXPERIMENT = f"{HERE / 'remedies.py'}:merged"
ANOTHER = 1000
"""Between the seed of a run and that of the run which is only to differ in it."""
MEMORISED = 0.9
"""Share of its own training clips that a model tells which knows them by heart."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains one model again without what it says matters, and again on random labels, on synthetic data.

    Attributes:
      out: folder for media, records, runs, tables and the figure.
      shares: of each modality's parts, removed before training.
      orders: in which parts go; random is what the others are read against.
      seeds: of the runs, of random orders and of random labels; the corpus stays the same.
      steps: optimizer steps of each run; the experiment's own number unless told.
      clips_per_actor: of the corpus, which has 24 actors.
      clips: of the test split, at most so many, whose explanations by two models are compared.
    """

    out: Path = Path("runs/retraining")
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    orders: tuple[Order, ...] = ("explanation", "random", "reversed")
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    clips_per_actor: int = 40
    clips: int = 240


def retrained(options: Options) -> dict[str, Any]:
    """Trains and measures; returns what retraining.json holds."""
    avjax("prepare", "demo", "--data", str(options.out / "media"), "--out", str(options.out / "records"), *CORPUS,
          "--corpus.clips-per-actor", str(options.clips_per_actor))  # fmt: skip
    seeds = [OfSeed(options, seed) for seed in options.seeds]
    rows = removal_rows(seeds)
    alike, trained = randomised_rows(seeds)
    label = seeds[0].labels["test"]
    commonest = float(np.bincount(label).max() / len(label))
    about = {"synthetic": True, "experiment": "remedies:merged", "seeds": options.seeds, "clips": len(label)}
    return {**about, "commonest": commonest, "removed": rows, "alike": alike, "trained": trained}


@dataclasses.dataclass(frozen=True)
class OfSeed:
    """All runs of one seed, each trained when it is first asked for."""

    options: Options
    seed: int

    @property
    def folder(self) -> Path:
        return self.options.out / f"seed{self.seed}"

    @functools.cached_property
    def data(self) -> Data:
        """What the experiment reads of the corpus."""
        return load(EXPERIMENT, ("--data.records", str(self.options.out / "records")))[0].data

    def read(self, split: str) -> Clips:
        """The windows in the middle of all clips of a split."""
        reader = ClipReader(self.data, split, HEAD)
        return reader.read(reader.choose(None))

    def train(self, name: str, change: Change, seed: int | None = None, *, clips: str | None = None) -> Path:
        """A run on changed clips.

        Args:
          seed: of the run, where it is another.
          clips: under which name the changed clips are kept, where that is not the run's.
        """
        records, run = self.folder / "records" / (clips or name), self.folder / name
        changed_records(self.data, HEAD, records, change)
        words = ("--seed", str(self.seed if seed is None else seed))
        train_run(EXPERIMENT, run, records, *words, steps=self.options.steps)
        return run

    @functools.cached_property
    def whole(self) -> Path:
        """The run on clips as they are, whose explanations are in question."""
        return self.train("whole", lambda split, clips: clips)

    @functools.cached_property
    def another(self) -> Path:
        """The same from another seed."""
        return self.train("another", lambda split, clips: clips, self.seed + ANOTHER, clips="whole")

    @functools.cached_property
    def permuted(self) -> Path:
        """The same of training labels in random order; from the other seed too: models that began with the same
        weights are alike in more than what they have learned."""

        def change(split: str, clips: Clips) -> Clips:
            own = split == "train"
            return dataclasses.replace(clips, label=retraining.permuted(clips.label, seed=self.seed)) if own else clips

        return self.train("permuted", change, self.seed + ANOTHER)

    @functools.cached_property
    def players(self) -> Players:
        return raw_players(ClipReader(self.data, "train", HEAD).read(np.arange(1)).streams)

    @functools.cached_property
    def means(self) -> Baseline:
        """Of each modality over the training split: of sound one number, of pictures one a pixel and channel."""
        train = self.read("train")
        return {m: np.asarray(moments(train, m).mean, np.float32) for m in train.streams}

    @functools.cached_property
    def salient(self) -> dict[str, np.ndarray]:
        """Split -> saliency of every clip's players, of the class that the run predicts; kept in the run."""

        def explain() -> dict[str, np.ndarray]:
            trained = Trained.load(self.whole)
            probe = ModelProbe.of(trained, HEAD)
            splits = Records(self.data.records).description.shards
            return {split: saliency_of(probe, self.read(split), self.players) for split in splits}

        return kept_arrays(self.whole / "measured" / "salient.npz", explain)

    def without(self, order: Order, share: float) -> Path:
        """The run on clips without this share of each modality, in this order."""

        def change(split: str, clips: Clips) -> Clips:
            return removed(clips, self.kept(split, order, share), self.players, self.means)

        return self.train(f"{order}{share:g}", change)

    def kept(self, split: str, order: Order, share: float) -> Bool[np.ndarray, "B n"]:
        """Which players of a split's clips are left."""
        ranked = ordered(self.salient[split], order, seed=(self.seed, *map(ord, split)))
        return retraining.without_top(ranked, self.players.groups, share)

    @functools.cached_property
    def labels(self) -> dict[str, Int[np.ndarray, " N"]]:
        return {split: self.read(split).label for split in ("train", "test")}

    def by_outline(self, order: Order, share: float) -> Bool[np.ndarray, " N"]:
        """Which test clips a linear probe tells that knows which parts are gone, and nothing of what is left.

        What accuracy has of that it does not owe to the parts that are left (Rong et al. 2022).
        """
        left = {split: self.kept(split, order, share).astype(float) for split in ("train", "test")}
        weights, bias = linear_probe(left["train"], self.labels["train"], int(self.labels["train"].max()) + 1)
        return (left["test"] @ weights + bias).argmax(axis=1) == self.labels["test"]


def removal_rows(seeds: Sequence[OfSeed]) -> list[dict[str, Any]]:
    """Test accuracy without each share, in each order; and how much lower it is than in the random one."""
    options, whole = seeds[0].options, [_right(one.whole) for one in seeds]
    rows = [{"order": order, "share": 0.0, "parts": "0", **_mean(whole)} for order in options.orders]
    for share in options.shares:
        right = {order: [_right(one.without(order, share)) for one in seeds] for order in options.orders}
        groups = seeds[0].players.groups
        parts = ", ".join(f"{n} of {groups.count(m)}" for m, n in retraining.counts(groups, share).items())
        for order, of in right.items():
            row = {"order": order, "share": share, "parts": parts, **_mean(of)}
            row["outline"] = _mean([one.by_outline(order, share) for one in seeds])
            if order != "random" and "random" in right:
                row["against_random"] = against(of, right["random"])
            rows.append(row)
    return rows


def against(own: Sequence[np.ndarray], random: Sequence[np.ndarray]) -> dict[str, Any]:
    """Accuracy less that of the random order, of the same seeds and clips, and what its interval says."""
    found = _mean([one.astype(float) - other for one, other in zip(own, random, strict=True)], "value")
    said = "not told apart" if found["low"] <= 0 <= found["high"] else "lower" if found["value"] < 0 else "higher"
    return {**found, "said": said}


def _mean(values: Sequence[np.ndarray], name: str = "accuracy") -> dict[str, Any]:
    """Mean over seeds and clips, with its interval."""
    found = over_seeds([Measure.mean(of) for of in values])
    return {name: found.value, "low": found.low, "high": found.high, "clips": found.count}


def _right(run: Path) -> Bool[np.ndarray, " N"]:
    """Which test clips a run tells, from what it has kept."""
    with np.load(run / "predictions" / "test.npz", allow_pickle=False) as arrays:
        return arrays[f"predicted:{HEAD}"].argmax(axis=1) == arrays[f"target:{HEAD}"].argmax(axis=1)


def randomised_rows(seeds: Sequence[OfSeed]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How alike explanations are, and how well the models have learned."""
    alike, first = [], [comparison(one) for one in seeds]
    for name in first[0]:
        measure, modality, other = name.split("/")
        values = np.stack([one[name] for one in first])
        there = np.isfinite(values).all(axis=0)
        if there.any():
            row = {"measure": measure, "modality": modality, "other": other}
            alike.append({**row, **_mean(list(values[:, there]), "value")})
    trained = []
    for run in ("whole", "another", "permuted"):
        fitted = float(np.mean([_fitted(getattr(one, run)) for one in seeds]))
        row = {"run": run, "train": fitted, "memorised": fitted >= MEMORISED}
        trained.append({**row, **_mean([_right(getattr(one, run)) for one in seeds])})
    return alike, trained


def _fitted(run: Path) -> float:
    """Accuracy of a run on its own training clips, by the labels that it was given."""

    def ask() -> dict[str, np.ndarray]:
        trained = Trained.load(run)
        reader = reader_of(trained, HEAD, "train")
        clips = reader.read(reader.choose(None))
        return {"right": ModelProbe.of(trained, HEAD).logits(clips).argmax(axis=1) == clips.label}

    return float(kept_arrays(run / "measured" / "fitted.npz", ask)["right"].mean())


def comparison(of: OfSeed) -> dict[str, np.ndarray]:
    """Measure/modality/other model -> a number of each test clip; kept in the run of the true model."""

    def ask() -> dict[str, np.ndarray]:
        reader = ClipReader(of.data, "test", HEAD)
        clips = reader.read(reader.choose(of.options.clips))
        probes = {run: ModelProbe.of(Trained.load(getattr(of, run)), HEAD) for run in ("whole", "another", "permuted")}
        logits = probes["whole"].logits(clips)
        maps = {run: _maps(probe, clips, logits) for run, probe in probes.items()}
        found = {}
        for measure in maps["whole"]:
            for modality, original in maps["whole"][measure].items():
                for run in ("another", "permuted"):
                    found |= likeness(measure, modality, run, original, maps[run][measure][modality])
                found[f"rank of {measure}/{modality}/floor"] = _steady(
                    lambda own: sanity.random_floor(own, seed=of.seed), original
                )
        return found

    return kept_arrays(of.whole / "measured" / f"alike_{of.options.clips}.npz", ask)


MAGNITUDE, SIGNED = "|gradient x input|, cells", "gradient x (input - mean), raw parts"


def _maps(probe: ModelProbe, clips: Clips, logits: Float[np.ndarray, "N K"]) -> dict[str, dict[str, np.ndarray]]:
    """Explanations of the class that these logits name: explanation -> modality -> [N, H, W]."""
    magnitude = gradient_maps(probe, clips, logits.argmax(axis=1))
    study = Study(probe, clips, SMOKE)
    signed = by_gradient(study, Part(np.arange(len(clips)), clips, Said(logits, clips.label))).signed
    return {MAGNITUDE: magnitude, SIGNED: {m: signed[:, None, study.raw_players.of(m)] for m in study.modalities}}


def likeness(
    measure: str, modality: str, run: str, one: Float[np.ndarray, "N H W"], other: Float[np.ndarray, "N H W"]
) -> dict[str, np.ndarray]:
    """Spearman's rho of two models' maps, and their SSIM where its window fits; NaN where a map is constant."""
    found = {
        f"rank of {measure}/{modality}/{run}": _steady(lambda a, b: sanity.rank_cascade(a, b[None])[0], one, other)
    }
    if min(one.shape[1:]) >= sanity.WINDOW:
        found[f"SSIM of {measure}/{modality}/{run}"] = _steady(
            lambda a, b: sanity.structural_similarity(unit_range(a), unit_range(b)), one, other
        )
    return found


def _steady(function: Callable[..., np.ndarray], *maps: Float[np.ndarray, "N H W"]) -> Float[np.ndarray, " N"]:
    """Of the clips whose maps are not constant, which have neither ranks nor a range."""
    steady = np.all([np.ptp(one, axis=(1, 2)) > 0 for one in maps], axis=0)
    found = np.full(len(steady), np.nan)
    if steady.any():
        found[steady] = function(*(one[steady] for one in maps))
    return found


def main(options: Options) -> None:
    """Writes the three files, and prints the tables."""
    found = retrained(options)
    (options.out / "retraining.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    plot(found, options.out / "retraining.svg")
    text = tables(found)
    (options.out / "retraining.md").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="retraining"))
