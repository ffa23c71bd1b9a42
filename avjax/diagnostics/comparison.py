"""Runs side by side as JSON and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from avjax.diagnostics.summary import METRICS, Summary, number, read_runs

SPLIT = "test"


def compare(runs: Sequence[Path], split: str = SPLIT) -> dict[str, dict[str, Any]]:
    """What the runs reached, as JSON takes it.

    Returns:
      Run -> path, split, head; accuracy, uar, macro_f1, or what its task has instead, each with value, low, high (95 %
      bootstrap interval) and count; heads (the same for every head and ``head/modality``), seed, steps, seconds,
      clips_per_second, ceiling, synthetic. Run -> path, missing where it has no results, and why. What is not known is
      None.
    """
    return {summary.name: describe(summary) for summary in read_runs(runs, split)}


def describe(summary: Summary) -> dict[str, Any]:
    """What ``compare`` returns of one run."""
    if summary.missing:
        return {"path": str(summary.path), "missing": summary.missing}
    whole = {name: int(value) for name in ("seed", "steps") if (value := summary.fact(name)) is not None}
    return {
        "path": str(summary.path),
        "split": summary.split,
        "head": summary.head,
        **summary.heads[summary.head],
        "heads": dict(summary.heads),
        "seed": whole.get("seed"),
        "steps": whole.get("steps"),
        "seconds": summary.fact("seconds"),
        "clips_per_second": summary.fact("speed", "speed/clips_per_second"),
        "ceiling": summary.ceiling,
        "synthetic": summary.synthetic,
    }


def table(compared: Mapping[str, Mapping[str, Any]]) -> Table:
    """What ``compare`` returns, for a terminal."""
    shown = {name: entry for name, entry in compared.items() if "missing" not in entry}
    metrics = [name for name in METRICS if any(name in entry for entry in shown.values())]
    # A column that nobody fills is left out: a terminal has 80 characters.
    facts = {
        label: (key, form)
        for label, key, form in (
            ("ceiling", "ceiling", percent), ("seed", "seed", plain), ("trained", "seconds", duration),
            ("clips/s", "clips_per_second", plain),
        )
        if any(entry[key] is not None for entry in shown.values())
    }  # fmt: skip
    title = "SYNTHETIC DATA" if any(entry["synthetic"] for entry in shown.values()) else None
    shares = "percent" if all(is_share(metric) for metric in metrics) else "percent, but for errors"
    caption = [f"{shares}; in brackets 95 % bootstrap intervals over clips"]
    caption += [f"[red]{escape(name)}: {escape(compared[name]['missing'])}" for name in compared if name not in shown]
    result = Table(
        title=title, title_style="bold yellow", caption="\n".join(caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    result.add_column("run", no_wrap=True)
    # Where the terminal is narrow, the interval moves below its number.
    for metric in metrics:
        result.add_column(METRICS[metric], justify="right", min_width=9)
    for label in facts:
        result.add_column(label, justify="right", no_wrap=True)
    for name, entry in shown.items():
        for head in (entry["head"], *(head for head in entry["heads"] if head != entry["head"])):
            found = [_interval(entry["heads"][head].get(metric), metric) for metric in metrics]
            if head == entry["head"]:
                result.add_row(escape(name), *found, *(form(entry[key]) for key, form in facts.values()))
            else:
                result.add_row(f"  {escape(head)}", *found, style="dim")
    return result


def _interval(estimate: Mapping[str, Any] | None, metric: str) -> str:
    if estimate is None:
        return "–"
    value, low, high = (metric_text(estimate[key], metric, int(key == "value")) for key in ("value", "low", "high"))
    return value + ("" if estimate["low"] is None else f" ({low}–{high})")


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent: an error in the unit of its values is not."""
    return metric.split("_")[0] not in ("mae", "rmse", "d")


def metric_text(value: float | int | None, metric: str, decimals: int = 1) -> str:
    """0.1234 of a share -> "12.3", of another metric -> "0.123"; a dash where there is nothing."""
    return percent(value, decimals) if is_share(metric) or number(value) is None else f"{value:.{decimals + 2}f}"


def percent(value: float | int | None, decimals: int = 1) -> str:
    """0.1234 -> "12.3"; a dash where there is nothing."""
    return "–" if number(value) is None else f"{100 * value:.{decimals}f}"


def plain(value: float | int | None) -> str:
    """A count or a rate in three digits or more; a dash where there is nothing."""
    if number(value) is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float | int | None) -> str:
    """75 -> "1 min 15 s"; a dash where there is nothing."""
    if number(seconds) is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
