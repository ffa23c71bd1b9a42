"""Whether shares of a model tell how much each modality says, on corpora of which that is known (synthetic).

    python experiments/informativeness.py --out runs/informativeness

Nine demo corpora differ in how often what is heard, and what is seen, is the label's own. Of each the generator itself
tells what an ideal observer can learn of the label from sound alone and from pictures alone: mutual information, by
Bayes' rule over its own cues. A small model, of which every token chooses between both modalities, is trained on each,
and asked for its MM-SHAP share and its share of attention. Spearman's correlation over the nine says whether a share
ranks them as the generator does.

Writes OUT/informativeness.json, .md and .svg; what is done is kept, and a second run costs what is missing.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from commands import avjax, train_run

from avjax.data.synthesis import emotions
from avjax.data.synthesis.emotions import Knobs
from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution.attention import mass_shares
from avjax.diagnostics.diagnosis.arrays import SHARE
from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.probe import ModelProbe, reader_of
from avjax.diagnostics.protocol import explanation
from avjax.diagnostics.protocol.study import Study
from avjax.diagnostics.protocol.tiers import SMOKE
from avjax.run import read_json
from avjax.training.trained import Trained

HERE = Path(__file__).resolve().parent
# Probability that the heard level is the label's own, and the seen level; from sound alone to pictures alone.
SETTINGS = (
    (1.0, 0.0), (1.0, 0.5), (1.0, 0.7), (1.0, 0.85), (1.0, 1.0), (0.85, 1.0), (0.7, 1.0), (0.5, 1.0), (0.0, 1.0),
)  # fmt: skip
DRAWS = 20_000
SITE = "fusion.audio+video"  # where tokens of both modalities choose between them


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains nine small models on synthetic corpora of known cue strengths, and compares their shares with the truth.

    Attributes:
      out: folder for media, records, runs and results.
      settings: how many of the nine to take, evenly; a correlation needs three.
      actors: of each corpus, at most 24.
      clips_per_actor: of each corpus.
      steps: optimizer steps of each run.
      clips: of the test split, at most so many, that shares are means over.
      permutations: of Shapley values; a multiple of 4.
      seed: of the runs and of Shapley values; the corpora stay the same.
      keep_media: keeps the generated clips, which nothing needs once they are records.
    """

    out: Path = Path("runs/informativeness")
    settings: int = len(SETTINGS)
    actors: int = 24
    clips_per_actor: int = 16
    steps: int = 200
    clips: int = 48
    permutations: int = 8
    seed: int = 0
    keep_media: bool = False


def information(knobs: Knobs, draws: int = DRAWS) -> dict[str, float]:
    """I(label; cues of a modality) = H(label) - E[H(label | cues)] in bits, by "audio", "video" and "both".

    The posterior of each drawn clip is exact (``emotions.posteriors``); the mean over clips is a Monte Carlo estimate,
    the same for equal knobs, of a standard error below 1 / sqrt(draws) times the few bits that there are.
    """
    rng = np.random.default_rng([knobs.seed, 2**30])
    labels = emotions.draw_labels(knobs, draws, rng)
    cues = emotions.draw_cues(knobs, labels, rng)
    share = np.bincount(labels) / draws
    found = emotions.posteriors(knobs, cues.arousal, cues.expression)
    return {name: float(_bits(share) - _bits(posterior).mean()) for name, posterior in found.items()}


def planted_share(knobs: Knobs, draws: int = DRAWS) -> float:
    """What sound tells, of what sound and pictures tell each alone."""
    known = information(knobs, draws)
    return known["audio"] / (known["audio"] + known["video"])


def _bits(probability: np.ndarray) -> np.ndarray:
    """Entropy over the last axis."""
    return -(probability * np.log2(np.where(probability > 0, probability, 1))).sum(axis=-1)


def informativeness(options: Options) -> dict[str, Any]:
    """Every setting's shares, and the correlations; what informativeness.json holds."""
    if not 3 <= options.settings <= len(SETTINGS):
        raise SystemExit(f"informativeness: --settings {options.settings}; a correlation needs 3 to {len(SETTINGS)}")
    chosen = np.linspace(0, len(SETTINGS) - 1, options.settings).round().astype(int)
    rows = [_setting(*SETTINGS[place], options) for place in chosen]
    planted = np.array([row["planted"] for row in rows])
    found = {name: spearman(planted, np.array([row[name] for row in rows])) for name in ("mm_shap", "attention_share")}
    return {"synthetic": True, "modality": "audio", "rows": rows, "spearman": found}


def spearman(planted: np.ndarray, shares: np.ndarray) -> float | None:
    """Rank correlation over the settings; None where all have one share, which ranks nothing."""
    return None if np.ptp(shares) == 0 else float(rank_correlation(planted, shares))


def _setting(heard: float, seen: float, options: Options) -> dict[str, Any]:
    """Corpus, run and shares of sound at one setting."""
    folder = options.out / f"heard{heard:g}_seen{seen:g}"
    knobs = Knobs(
        actors=options.actors, clips_per_actor=options.clips_per_actor,
        heard_informativeness=heard, seen_informativeness=seen,
    )  # fmt: skip
    kept = folder / "shares.json"
    if not kept.is_file():
        records, run = folder / "records", folder / "run"
        if not (run / "results.json").is_file():
            avjax("prepare", "demo", "--data", str(folder / "media"), "--out", str(records),
                   "--corpus.actors", str(knobs.actors), "--corpus.clips-per-actor", str(knobs.clips_per_actor),
                   "--corpus.heard-informativeness", f"{heard:g}",
                   "--corpus.seen-informativeness", f"{seen:g}")  # fmt: skip
            train_run(f"{HERE / 'remedies.py'}:merged", run, records, "--seed", str(options.seed),
                  "--model.size.depth", "2", "--model.fusion-layer", "0", steps=options.steps)  # fmt: skip
        if not options.keep_media:
            shutil.rmtree(folder / "media", ignore_errors=True)
        kept.write_text(json.dumps(_shares(run, options), indent=1, allow_nan=False) + "\n")
    ideal = emotions.ceilings(knobs)
    known = information(knobs)
    return {
        "heard": heard, "seen": seen, "ideal_audio": ideal["audio"], "ideal_video": ideal["video"],
        "bits_audio": known["audio"], "bits_video": known["video"],
        "planted": known["audio"] / (known["audio"] + known["video"]), **read_json(kept),
    }  # fmt: skip


def _shares(run: Path, options: Options) -> dict[str, float]:
    """Mean shares of sound over test clips, and the run's accuracy."""
    trained = Trained.load(run)
    probe = ModelProbe.of(trained)
    reader = reader_of(trained, probe.head, "test")
    tier = dataclasses.replace(SMOKE, clips=options.clips, shapley=None, permutations=(options.permutations,) * 2)
    study = Study(probe, reader.read(reader.choose(options.clips)), tier, seed=options.seed)
    shap = explanation.shapley_values(study).arrays[f"{SHARE}mm_shap"][:, study.modalities.index("audio")]
    found = {"mm_shap": float(shap.mean()), "attention_share": attention_share(probe, study.clips)}
    return {"accuracy": float(study.clean.right.mean()), "clips": len(study.clips), **found}


def attention_share(probe: ModelProbe, clips: Clips) -> float:
    """Attention to sound, of what goes to sound or pictures: mean over layers, heads, tokens that ask, and clips."""
    found = mass_shares(probe.attention(clips, ("mass",))[SITE], {})
    audio, video = (found.values[..., found.keys.index(m)].mean() for m in ("audio", "video"))
    return float(audio / (audio + video))


COLUMNS = {
    "heard": "heard", "seen": "seen", "ideal_audio": "ideal listener", "ideal_video": "ideal viewer",
    "bits_audio": "bits heard", "bits_video": "bits seen", "planted": "planted share of sound",
    "mm_shap": "MM-SHAP share", "attention_share": "attention share", "accuracy": "accuracy",
}  # fmt: skip


def table(found: Mapping[str, Any]) -> list[str]:
    """As Markdown: a row a setting, then the correlations with the planted share."""
    lines: list[Sequence[str]] = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    lines += [[f"{row[name]:.2f}" if name in ("heard", "seen") else f"{row[name]:.3f}" for name in COLUMNS]
              for row in found["rows"]]  # fmt: skip
    rho = {name: "none" if value is None else f"{value:.3f}" for name, value in found["spearman"].items()}
    lines.append(["Spearman", *[""] * 6, rho["mm_shap"], rho["attention_share"], ""])
    return [f"| {' | '.join(line)} |" for line in lines]


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Both shares over the planted one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "avjax"}):
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        axes = figure.subplots()
        planted = [row["planted"] for row in found["rows"]]
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for name, mark, colour in (("mm_shap", "o", "#0072b2"), ("attention_share", "s", "#d55e00")):
            rho = found["spearman"][name]
            label = f"{COLUMNS[name]}, Spearman {'none' if rho is None else f'{rho:.2f}'}"
            axes.plot(planted, [row[name] for row in found["rows"]], mark, color=colour, label=label)
        axes.set(xlabel="planted share of sound", ylabel="share of sound in the model", xlim=(-0.03, 1.03), ylim=(0, 1))
        axes.set_title(
            "nine demo corpora (SYNTHETIC)" if len(planted) == 9 else "demo corpora (SYNTHETIC)", fontsize=10
        )
        axes.legend(fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def carry_out(options: Options) -> list[str]:
    """Everything; returns the table."""
    found = informativeness(options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "informativeness.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    plot(found, options.out / "informativeness.svg")
    lines = table(found)
    (options.out / "informativeness.md").write_text("\n".join(lines) + "\n")
    return lines


if __name__ == "__main__":
    print("\n" + "\n".join(carry_out(tyro.cli(Options, prog="informativeness"))))
