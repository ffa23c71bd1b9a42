"""The list of metrics, docs/metrics.md, from the table of their definitions, and figures of what some of them see.

    python experiments/metrics.py [--out docs/metrics.md]

Figures go beside it, into docs/figures; they show made-up data, drawn by the metrics' own functions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avjax.diagnostics.definitions import DEFINITIONS, LIBRARY_ONLY, SECTIONS, Definition
from avjax.diagnostics.drift.axes import reliability_following
from avjax.diagnostics.drift.divergence import Drift, drift
from avjax.diagnostics.faithfulness.curves import FRACTIONS, deletion, deletion_curve, ranking

HEAD = """# Metrics

What the numbers of `avjax diagnose` are; this page is written by `python experiments/metrics.py` from
[avjax/diagnostics/definitions](../avjax/diagnostics/definitions). Every line of report.json names one of these ids, its
version, and how it was estimated. Modalities are m or g, clips x with label y, logits f(x), their softmax p(x), c the
class that is looked at, V(S) performance with the modalities S. *Ours* is what has no published standard, or none that
we could read. A version rises when the same input would give another number.

The null baseline is the value of a model without the property; where it is left out, it depends on the data, and the
report's line has it if it is known. A metric without a value on some data says why, and is never NaN.
"""

TITLES = {
    "contribution": "Contribution of modalities",
    "drift": "Saliency drift",
    "consistency": "Consistency",
    "stress": "Stress tests",
    "faithfulness": "Faithfulness, and the form of saliency",
}

NAMES = ("audio", "video")
CELLS = ("audio",) * 8 + ("video",) * 8
FIGURES = {
    "drift": (
        "cmsd",
        "CMSD of a made-up saliency state to its start. In the first half attention moves from audio to video, and only"
        " the part between modalities grows; in the second it moves within video, and only that part grows.",
    ),
    "stress": (
        "following",
        "Made-up masses of attention on a modality that is corrupted more and more: one model leaves it, the other is"
        " captured by the noise.",
    ),
    "faithfulness": (
        "deletion",
        "Deletion on a made-up linear model of 32 cells. The area says nothing by itself: the order of saliency has to"
        " be below random order.",
    ),
}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(name) for name in SECTIONS)


def _section(section: str) -> str:
    rows = [row for row in DEFINITIONS.values() if row.section == section]
    lines = [f"\n## {TITLES[section]}\n"]
    if section in FIGURES:
        name, caption = FIGURES[section]
        lines.append(f"![{caption}](figures/{name}.svg)\n\n*{caption}*\n")
    return "\n".join(lines + [_metric(row) for row in rows])


def _metric(row: Definition) -> str:
    facts = {
        "equation": f"`{row.equation}`",
        "range": f"{row.range}, {row.unit}",
        "better": "" if row.direction == "none" else row.direction,
        "null baseline": "" if row.null_baseline is None else f"{row.null_baseline:g}",
        "pitfalls": row.pitfalls,
        "source": row.source,
        "computed by": _function(row),
        "version": str(row.version),
    }
    title = row.title[0].upper() + row.title[1:]
    if row.id in LIBRARY_ONLY:
        facts["library only"] = "no stage of `avjax diagnose` reports it"
    return f"### {row.id}\n\n{title}.\n\n" + "".join(f"- **{key}**: {value}\n" for key, value in facts.items() if value)


def _function(row: Definition) -> str:
    """A link to the file that it stands in."""
    found = row.resolve()
    file = (found.fget if isinstance(found, property) else found).__module__.replace(".", "/") + ".py"
    return f"[`{row.function.removeprefix('avjax.')}`](../{file})"


def moving_state(steps: int = 40) -> Drift:
    """Drift from its start of a state that moves between modalities first and within video then."""
    start = np.array([0.5] * 2)
    rows = []
    for step in range(2 * steps + 1):
        between, within = min(step / steps, 1), max(step / steps - 1, 0)
        audio, video = start[0] * (1 - 0.8 * between), start[1] + 0.8 * start[0] * between
        place = np.exp(-((np.arange(8) - 1.5 - 5 * within) ** 2) / 2)
        rows.append(np.concatenate([np.full(8, audio / 8), video * place / place.sum()]))
    states = np.stack(rows)
    return drift(np.broadcast_to(states[0], states.shape), states, CELLS, NAMES)


def draw_cmsd(axes: Axes) -> None:
    found = moving_state()
    step = np.linspace(0, 1, len(found.total))
    parts = [found.allocation, *found.localisation.T]
    labels = ["between modalities", "within audio", "within video"]
    axes.stackplot(step, parts, labels=labels, colors=["#4477aa", "#228833", "#ee6677"], alpha=0.85)
    axes.plot(step, found.total, color="black", linewidth=1.2, label="CMSD")
    axes.set(xlabel="way", ylabel="bits", xlim=(0, 1), ylim=(0, None))


def draw_deletion(axes: Axes) -> None:
    weights = np.random.default_rng(0).gamma(0.6, size=32)

    def value(kept: np.ndarray) -> np.ndarray:
        return (kept @ weights)[:, None] / weights.sum()

    order = ranking(weights, np.ones(len(weights), bool))
    area = deletion(value, order, len(weights), draws=200)
    random = np.random.default_rng(1)
    drawn = np.stack([deletion_curve(value, random.permutation(order), len(weights))[:, 0] for _ in range(200)])
    middle, spread = drawn.mean(axis=0), drawn.std(axis=0)
    axes.fill_between(FRACTIONS, middle - spread, middle + spread, color="#bbbbbb", alpha=0.6)
    for label, way, found, colour in (
        ("saliency", order, area.area, "#4477aa"),
        ("reversed", order[::-1], area.reversed, "#ee6677"),
    ):
        curve = deletion_curve(value, way, len(weights))[:, 0]
        axes.plot(FRACTIONS, curve, color=colour, label=f"{label}, area {found[0]:.2f}")
    axes.plot(FRACTIONS, middle, color="#666666", label=f"random, area {area.random[0]:.2f}")
    axes.set(xlabel="share of cells removed", ylabel="p / p of all", xlim=(0, 1), ylim=(0, 1.02))


def draw_following(axes: Axes) -> None:
    severity = np.arange(6)
    random = np.random.default_rng(2)
    for label, way, colour in (("leaves it", -0.06, "#4477aa"), ("is captured", 0.06, "#ee6677")):
        mass = 0.5 + way * severity[:, None] + random.normal(0, 0.04, (6, 40))
        rfi = reliability_following(mass[0], mass[1:])
        axes.plot(severity, mass.mean(axis=1), "o-", color=colour, label=f"{label}: RFI {rfi:+.0f}")
    axes.set(xlabel="severity", ylabel="mass on the corrupted modality", ylim=(0, 1))


DRAW = {"cmsd": draw_cmsd, "deletion": draw_deletion, "following": draw_following}


def write_figure(name: str, folder: Path) -> None:
    """As folder/name.svg; the same bytes every time."""
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    style = {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9, "path.simplify_threshold": 0.5}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        DRAW[name](axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.svg", metadata=nothing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/metrics.md"))
    arguments = parser.parse_args()
    for name in DRAW:
        write_figure(name, arguments.out.parent / "figures")
    arguments.out.write_text(page())
    print(f"wrote {arguments.out} and {len(DRAW)} figures")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
