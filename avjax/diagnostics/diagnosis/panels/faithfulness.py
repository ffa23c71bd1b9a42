"""Whether explanations are the model's: deletion and insertion against random order, the randomised model, bad input;
and whether they point at what tells the label."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.arrays import CURVE
from avjax.diagnostics.diagnosis.charts import QUIET, Bar, Line
from avjax.diagnostics.diagnosis.panels.panel import (
    JOINT,
    Panel,
    Section,
    colour,
    commonest,
    distinct,
    section,
)
from avjax.diagnostics.diagnosis.result import Diagnosis


def deletion(diagnosis: Diagnosis) -> Markup | None:
    """Probability of the class predicted for the whole clip as the most salient cells go, over what it was."""
    return _curves(diagnosis, "deletion", "removed")


def insertion(diagnosis: Diagnosis) -> Markup | None:
    """The same as they come back."""
    return _curves(diagnosis, "insertion", "there")


def _curves(diagnosis: Diagnosis, kind: str, done: str) -> Markup | None:
    found = diagnosis.named(CURVE)
    curves = []
    for name in dict.fromkeys(key.rpartition("/")[0] for key in found):
        own, chance = found.get(f"{name}/{kind}"), found.get(f"{name}/{kind}_random")
        shade = colour(diagnosis, name)
        for array, dash, title in ((own, "solid", name), (chance, "dotted", f"{name}, random order")):
            if array is not None and len(array):
                cells = np.linspace(0.0, 1.0, array.shape[1])
                middle, error = array.mean(0), 1.96 * array.std(0) / np.sqrt(len(array))
                band = (middle - error, middle + error) if dash == "solid" else (None, None)
                curves.append(Line(title, cells, middle, *band, colour=shade, dash=dash))
    if not curves:
        return None
    label = f"Probability as cells are {done}, most salient first"
    return charts.lines(label, curves, x=f"share of cells {done}", y="p(q) / p(0) of the class",
                        x_ticks=[(tick, charts.percent(tick)) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)])  # fmt: skip


def gaps(diagnosis: Diagnosis) -> Markup | None:
    """Areas less those of random order, and other tests."""
    rows = []
    for id, name in NUMBERS.items():
        for line in diagnosis.find(f"faithfulness/{id}", corruption=None):
            if line.value is not None and line.layer is None and POINTS not in line.estimator:
                words = [name, line.estimator, "imputed" if line.fill == "imputed" else "",
                         "of the label" if line.target == "label" else ""]  # fmt: skip
                title = ", ".join(filter(None, words))
                rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
    return charts.bars("Tests of faithfulness", rows, zero=0.0, filled=True) if rows else None


POINTS = " points,"
"""In the estimators of numbers that stand beside those of bad input, to be compared with them alone."""
NUMBERS = {
    "deletion_gap": "least first less most first",
    "deletion_against_random": "deletion less random",
    "insertion_against_random": "insertion less random",
    "comprehensiveness": "comprehensiveness",
    "sufficiency": "sufficiency",
    "sensitivity_n": "sensitivity-n",
    "share_drop_agreement": "share against drop",
}


def cascade(diagnosis: Diagnosis) -> Markup | None:
    """Likeness of maps to those of the model with its top layers randomised."""
    lines = [line for line in diagnosis.find("faithfulness/rank_cascade", corruption=None) if line.value is not None]
    lines = [line for line in lines if line.layer is not None]
    if not lines:
        return None
    layers = [layer for (layer,) in distinct(lines, "layer")]
    marks = [(float(k), str(layer)) for k, layer in enumerate(layers)][:: max(1, -(-len(layers) // 5))]
    curves = []
    explained: dict[str, str] = {}
    for number, (estimator, group) in enumerate(distinct(lines, "estimator", "group")):
        own = {line.layer: line for line in lines if (line.estimator, line.group) == (estimator, group)}
        ordered = [own.get(layer) for layer in layers]
        # A colour is a modality's, and a dash an explanation's.
        name = estimator.split(",")[0]
        dash = explained.setdefault(name, ("solid", "dotted", "dashed")[len(explained) % 3])
        shade = (JOINT, 4, 5, 6, 7)[number % 5] if group is None else colour(diagnosis, group)
        curves.append(Line(
            name if group is None else f"{group}, {name}", range(len(layers)),
            [line and line.value for line in ordered], [line and line.ci_lo for line in ordered],
            [line and line.ci_hi for line in ordered], shade, dash="solid" if group is None else dash, dots=True,
        ))  # fmt: skip
    floor = diagnosis.value("faithfulness/random_floor", estimator=commonest(lines))
    floor = diagnosis.value("faithfulness/random_floor") if floor is None else floor
    curves += [] if floor is None else [
        Line("random", [0.0, len(layers) - 1.0], [floor, floor], colour=QUIET, dash="dashed")
    ]  # fmt: skip
    return charts.lines("Rank correlation with the model's own maps", curves, x="random down to", y="rank correlation",
                        x_ticks=marks)  # fmt: skip


def pointing(diagnosis: Diagnosis) -> Markup | None:
    """Pointing game, mass inside and overlap, beside the centre prior and chance."""
    rows = []
    for id, name in PLACES.items():
        for line in diagnosis.find(f"faithfulness/{id}", corruption=None):
            if line.value is None:
                continue
            words = ", ".join(line.estimator.split(";")[0].split(", ")[:2])
            rows.append(Bar(f"{line.group}: {name}, {words}", line.value, line.ci_lo, line.ci_hi,
                            QUIET if line.target is None else colour(diagnosis, line.group)))  # fmt: skip
            if line.target is not None and line.null_baseline is not None:
                rows.append(Bar("by chance", line.null_baseline, colour=QUIET, second=True))
    label = "Explanations against where the label is told"
    return charts.bars(label, rows, axis=(0.0, 1.0), zero=0.0, filled=True, form=charts.percent) if rows else None


PLACES = {
    "pointing_game": "points at it",
    "relevance_mass": "mass inside",
    "consensus_iou": "overlap with the box",
    "success_rate": "overlaps by half",
    "segment_f1": "F1 of its moments",
}


def degraded(diagnosis: Diagnosis) -> Markup | None:
    """What the deletion gap loses under each corruption and attack."""
    lines = [line for line in diagnosis.find("faithfulness/gap_change") if line.value is not None]
    rows = []
    for line in sorted(lines, key=lambda one: one.value):
        severity = "" if line.condition.severity is None else f" {line.condition.severity:g}"
        rows.append(Bar(f"{line.condition.corruption}{severity}", line.value, line.ci_lo, line.ci_hi, JOINT))
    return charts.bars("Deletion gap under a condition, less that of the clean clips", rows, zero=0.0) if rows else None


PANELS = (
    Panel("Deletion", "Solid: most salient cells first. Dotted: random order; a faithful map falls faster.",
          ("faithfulness/deletion",), deletion),
    Panel("Insertion", "Solid: most salient cells first. Dotted: random order; a faithful map rises faster.",
          ("faithfulness/insertion",), insertion),
    Panel("Sanity cascade", "Maps of the model with its layers made random from the top down: they must fall to the "
          "random floor, or they are not of the model.", ("faithfulness/rank_cascade",), cascade),
    Panel("Against random order, and other tests", "Above 0 is better but for deletion less random and sufficiency, "
          "which are better low.", ("faithfulness/deletion_gap", "faithfulness/deletion_against_random"), gaps),
    Panel("Where the label is told", "Whether the most salient cell, and how much saliency, lies where the corpus says "
          "that the label is told, and whether what is above half of a map's range is what lies there: agreement with "
          "the clip, not with the model. The centre prior knows nothing of it.",
          ("faithfulness/pointing_game",), pointing),
    Panel("When the input is bad", "Deletion gap of the explanation of each changed clip, less that of the clip as it "
          "is: below 0 an explanation is to be believed less.", ("faithfulness/gap_change",), degraded),
)  # fmt: skip


def faithfulness(diagnosis: Diagnosis) -> Section:
    lead = "Whether the maps above are the model's reasons, or look as if they were."
    return section(diagnosis, "faithfulness", "Faithfulness of explanations", lead, PANELS)
