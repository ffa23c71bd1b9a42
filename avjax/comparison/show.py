"""A comparison for a terminal and as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter, PercentFormatter
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from avjax.comparison.measure import CONDITIONS
from avjax.diagnostics.comparison import is_share, metric_text
from avjax.diagnostics.summary import METRICS

# The report's ink and series, for light paper.
_INK, _QUIET, _LINE = "#1a1c20", "#5b616b", "#e1e2e0"
_SERIES = ("#2f54c8", "#cf4a0a", "#0a7f62", "#8a4fbf", "#b08900")
_COSTS = ("parameters", "FLOPs a clip", "energy (estimate)", "step", "peak memory")
_SYNTHETIC = "SYNTHETIC DATA"


def table(found: Mapping[str, Any]) -> Group:
    """What ``outcome`` returns, for a terminal: scores, costs, and what the numbers are; the best first."""
    title = {"title": _SYNTHETIC if found["synthetic"] else None, "title_style": "bold yellow"}
    looks = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    scores, dear = Table(**title, **looks), Table(**looks)
    shown = {name: _heading(name) for name in (found["metric"], *found["conditions"]) if _known(found, name)}
    for part, headings in ((scores, (*shown.values(), "seeds")), (dear, _COSTS)):
        part.add_column("experiment", overflow="fold")
        for heading in headings:
            part.add_column(heading, justify="right")
    for name, row in ordered(found):
        seeds = str(len(row["seeds"])) + (f", {row['failed']} failed" if row["failed"] else "")
        scores.add_row(escape(name), *(_score(row, key, found["metric"]) for key in shown), seeds)
        dear.add_row(
            escape(name), scaled(row["parameters"]), scaled(row["flops_per_clip"]),
            scaled(row["energy_joules_per_clip"], "J"), scaled(row["step_seconds"], "s"),
            scaled(row["peak_bytes"], "B"),
        )  # fmt: skip
    return Group(scores, dear, *_notes(found))


def ordered(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The experiments, the best first, those without a number last."""
    metric, sign = found["metric"], 1 if found["higher_is_better"] else -1
    rows = found["experiments"].items()
    return sorted(rows, key=lambda item: -math.inf if item[1][metric] is None else sign * item[1][metric], reverse=True)


def _heading(name: str) -> str:
    return METRICS.get(name, name.replace("_", " "))


def _known(found: Mapping[str, Any], name: str) -> bool:
    """Whether to show a column: the usual ones, and any other in which something stands."""
    return name in (found["metric"], *CONDITIONS) or any(row[name] is not None for row in found["experiments"].values())


def _score(row: Mapping[str, Any], key: str, metric: str) -> str:
    if row[key] is None:
        return "–"
    low, high = (metric_text(row[f"{key}_{end}"], metric, 0) for end in ("low", "high"))
    return f"{metric_text(row[key], metric)} ({low}–{high})"


def scaled(value: float | int | None, unit: str = "") -> str:
    """1234567 -> "1.23 M": three digits and a prefix; a dash where there is nothing."""
    if value is None:
        return "–"
    if not value:
        return f"0 {unit}".strip()
    power = min(max(math.floor(math.log10(abs(value)) / 3), -4), 4)
    # What rounds to a thousand takes the next prefix.
    power += float(f"{abs(value) / 1000**power:.3g}") >= 1000 and power < 4
    prefix = ("p", "n", "µ", "m", "", "k", "M", "G", "T")[power + 4]
    return f"{value / 1000**power:.3g} {prefix}{unit}".strip()


def _notes(found: Mapping[str, Any]) -> list[str]:
    """Everything that the numbers need to be understood."""
    formulas, seconds = found["formulas"], found["misaligned_seconds"]
    lines = [
        f"{_heading(found['metric'])} of {found['head']} on the {found['split']} split"
        f"{' in percent' if is_share(found['metric']) else ''}: {formulas[found['metric']]}.",
        f"Without audio, without video: {formulas['without_audio']}.",
        f"Misaligned: {formulas['misaligned']}, by {seconds:g} s.",
        f"FLOPs: {formulas['flops_per_clip']}.",
        f"Energy: {formulas['energy_joules_per_clip']}.",
        f"Step: {formulas['step_seconds']}: {'; '.join(found['hardware']) or 'not known'}.",
        f"Peak memory: {formulas['peak_bytes']}.",
        *(f"Not shared: {line}." for line in unshared(found["differences"])),
    ]
    failures = [f"{name}, {failure}" for name, row in found["experiments"].items() for failure in row["failures"]]
    return [escape(line) for line in lines] + [f"[red]{escape(line)}[/red]" for line in failures]


def unshared(differences: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a setting: the commonest value, and who has another."""
    lines = []
    for setting, values in differences.items():
        shown = {name: "none" if value is None else str(value) for name, value in values.items()}
        common = max(shown.values(), key=list(shown.values()).count)
        others = ", ".join(f"{name} {value}" for name, value in shown.items() if value != common)
        lines.append(f"{setting}: {common}, but {others}")
    return lines


def plot(found: Mapping[str, Any], out: Path) -> None:
    """A picture: the metric with its interval against parameters, and what is left without a modality or misaligned."""
    metric, heading = found["metric"], _heading(found["metric"])
    rows = [(name, row) for name, row in ordered(found) if row[metric] is not None]
    series = [key for key in found["conditions"] if _known(found, key)]
    height = max(3.4, 1.4 + 0.44 * len(rows))
    with matplotlib.rc_context({"font.size": 9, "text.color": _INK, "axes.labelcolor": _QUIET}):
        figure = Figure(figsize=(11, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
        for axes in (left, right):
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.spines["bottom"].set_color(_LINE)
            axes.grid(color=_LINE, linewidth=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(which="both", color=_LINE, labelcolor=_QUIET, length=0)
        for place, (_, row) in enumerate(rows, start=1):
            # The value of all clips may lie outside an interval of resampled ones.
            ends = np.maximum([[row[metric] - row[f"{metric}_low"]], [row[f"{metric}_high"] - row[metric]]], 0)
            left.errorbar(row["parameters"], row[metric], ends, fmt="o", color=_INK, markersize=4, linewidth=1.2)
            spot = (row["parameters"], row[metric])
            left.annotate(str(place), spot, (4, 3), textcoords="offset points", color=_QUIET, fontsize=8)
            right.errorbar(row[metric], place, xerr=ends, fmt="o", color=_INK, markersize=4, linewidth=1.2)
        left.set(xscale="log", xlabel="parameters", title=f"{heading} against parameters")
        wide = 0.78 / max(len(series), 1)
        for number, key in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * wide
            shown = [(place + offset, row[key]) for place, (_, row) in enumerate(rows, start=1) if row[key] is not None]
            places, values = [place for place, _ in shown], [value for _, value in shown]
            colour = _SERIES[number % len(_SERIES)]
            right.barh(places, values, wide * 0.92, color=colour, alpha=0.75, label=_heading(key))
        title = "Without a modality, and misaligned"
        right.set(xlabel=f"{heading if heading != 'Accuracy' else 'accuracy'} (dot: everything there)", title=title)
        right.set_yticks(range(1, len(rows) + 1), [f"{place}  {name}" for place, (name, _) in enumerate(rows, start=1)])
        right.set_ylim(max(len(rows), 1) + 0.5, 0.5)
        right.grid(visible=False, axis="y")
        left.xaxis.set_major_formatter(EngFormatter())
        left.xaxis.set_minor_formatter(EngFormatter() if _narrow(rows) else NullFormatter())
        if is_share(metric):
            left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            values = [row[key] for _, row in rows for key in (metric, *series) if row[key] is not None]
            right.set_xlim(min([0, *values]), max([1, *values]))
        figure.legend(loc="outside lower right", ncols=max(len(series), 1), frameon=False, fontsize=8)
        note = f"misaligned by {found['misaligned_seconds']:g} s; intervals: 95 %, over seeds and clips"
        figure.suptitle(f"{_SYNTHETIC} · {note}" if found["synthetic"] else note, fontsize=9, color=_QUIET)
        partial = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
        figure.savefig(partial, dpi=150, metadata={"Software": None})
    os.replace(partial, out)


def _narrow(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether the parameters span less than a power of ten or so, whose axis would have one number."""
    parameters = [row["parameters"] for _, row in rows]
    return bool(parameters) and max(parameters) < 8 * min(parameters)
