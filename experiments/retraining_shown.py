"""What retraining.py has found, as tables and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def curve(found: Mapping[str, Any], order: str) -> list[Mapping[str, Any]]:
    """Rows of one order, by the share that is removed."""
    return sorted((row for row in found["removed"] if row["order"] == order), key=lambda row: row["share"])


def tables(found: Mapping[str, Any]) -> str:
    """As Markdown: removal, what the models have learned, and how alike explanations are."""
    orders = list(dict.fromkeys(row["order"] for row in found["removed"]))
    first = [["removed (synthetic data)", "parts, sound and pictures", *(f"by {order}" for order in orders),
              *(f"{order} - random" for order in orders if order != "random"),
              *(f"label from where parts are gone, {order}" for order in orders)]]  # fmt: skip
    for rows in zip(*(curve(found, order) for order in orders), strict=True):
        line = [f"{rows[0]['share']:.0%}", rows[0]["parts"], *(_number(row, "accuracy") for row in rows)]
        for one in (row.get("against_random") for row in rows if row["order"] != "random"):
            line.append("" if one is None else f"{_number(one, 'value', '+')}, {one['said']}")
        first.append([*line, *(_number(row["outline"], "accuracy") if "outline" in row else "" for row in rows)])
    second = [["run (synthetic data)", "accuracy on its own training labels", "knows them by heart", "test accuracy"]]
    second += [[row["run"], f"{row['train']:.3f}", "yes" if row["memorised"] else "no", _number(row, "accuracy")]
               for row in found["trained"]]  # fmt: skip
    others = {"permuted": "labels permuted", "another": "another seed", "floor": "floor"}
    third = [["explanations alike (synthetic data)", "modality", *others.values()]]
    for measure, modality in dict.fromkeys((row["measure"], row["modality"]) for row in found["alike"]):
        own = {row["other"]: row for row in found["alike"] if (row["measure"], row["modality"]) == (measure, modality)}
        third.append([measure, modality, *(_number(own[o], "value", "+") if o in own else "" for o in others)])
    return "\n\n".join(_markdown(lines) for lines in (first, second, third))


def _number(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    return f"{row[name]:{sign}.3f} ({row['low']:{sign}.3f} to {row['high']:{sign}.3f})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    # A bar within a cell would end it.
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ["---"] * len(cells[0]), *cells[1:]))


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Accuracy by the share removed, a line an order; likeness of explanations, a group of bars a measure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "avjax"}):
        figure = Figure(figsize=(11, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        for order in dict.fromkeys(row["order"] for row in found["removed"]):
            rows = curve(found, order)
            share, value = ([row[name] for row in rows] for name in ("share", "accuracy"))
            left.plot(share, value, marker="o", label=order)
            left.fill_between(share, [row["low"] for row in rows], [row["high"] for row in rows], alpha=0.15)
        left.set(xlabel="share of each modality removed before training", ylabel="test accuracy", ylim=(0, 1.02))
        left.legend(fontsize=8)
        groups = list(dict.fromkeys((row["measure"], row["modality"]) for row in found["alike"]))
        for place, other in enumerate(("permuted", "another", "floor")):
            rows = [row for row in found["alike"] if row["other"] == other]
            where = np.array([groups.index((row["measure"], row["modality"])) for row in rows]) + (place - 1) * 0.27
            error = np.abs([[row["value"] - row["low"], row["high"] - row["value"]] for row in rows]).T
            right.barh(where, [row["value"] for row in rows], 0.27, xerr=error, label=other)
        right.set_yticks(range(len(groups)), [f"{measure}\n{modality}" for measure, modality in groups], fontsize=7)
        right.invert_yaxis()
        right.set(xlabel="like the explanation of the true model")
        right.legend(fontsize=8)
        figure.suptitle("explanations that train again (SYNTHETIC)", fontsize=10)
        figure.savefig(path, metadata={"Date": None})
