"""Runs side by side: a table, JSON, and one self-contained report.html with pictures.

The page needs no network, no JavaScript and no file beside it. Every name in it (runs, classes, clips) is data and is
escaped by the template; what was generated is labelled SYNTHETIC DATA wherever a result of it is shown.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from avjax.data.media import MediaError
from avjax.data.records import RecordError
from avjax.diagnostics import figures
from avjax.diagnostics.comparison import SPLIT, compare, describe, is_share, table
from avjax.diagnostics.page import machine, write_page
from avjax.diagnostics.summary import METRICS, Summary, read_runs
from avjax.training.metrics import confusion
from avjax.training.metrics.tasks import higher_is_better

__all__ = ["compare", "table", "write_report"]

CLIPS_EACH = 3
"""Clips shown that the best run gets right, and as many that it gets wrong."""
MOST_CLASSES = 24
"""Confusion matrices of more classes are told as their commonest mistakes."""
_WITHOUT_CLASSES = {
    "map": "several labels each",
    "segment_accuracy": "a class in every segment",
    "ap_50": "moments, not classes",
    "wer": "transcripts, not classes",
    "eer": "partners, not classes",
}


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "avjax: runs compared",
    notes: Sequence[str] = (),
    split: str = SPLIT,
    date: datetime.datetime | None = None,
) -> Path:
    """Writes one HTML file that shows the runs side by side; returns its path.

    Equal runs and an equal date give equal bytes.

    Args:
      runs: run directories, or folders with results.json and predictions/. One that cannot be read is listed with the
        reason.
      out: the file to write; its folder is made.
      notes: paragraphs shown below the title.
      date: shown as the time of writing; now, unless given.
    """
    summaries = read_runs(runs, split)
    return write_page("report.html.j2", _page(summaries, title, notes, split, date), out)


def _page(
    summaries: Sequence[Summary], title: str, notes: Sequence[str], split: str, date: datetime.datetime | None
) -> dict[str, Any]:
    """Everything that the template shows."""
    shown = [summary for summary in summaries if not summary.missing]
    best = max(shown, key=lambda summary: summary.score, default=None)
    synthetic = [summary.name for summary in shown if summary.synthetic]
    date = date or datetime.datetime.now().astimezone()
    remarks = [(summary.name, remark) for summary in shown for remark in summary.remarks]
    curves = _curves(shown)
    clips, rule = _clips(best, shown) if best is not None else ([], "")
    kinds = [name for name in METRICS if any(name in heads for run in shown for heads in run.heads.values())]
    return {
        "title": title,
        "notes": list(notes),
        "split": split,
        "synthetic": synthetic,
        "all_synthetic": bool(synthetic) and len(synthetic) == len(shown),
        "metrics": {name: METRICS[name] for name in kinds},
        "runs": [_row(place, summary) for place, summary in enumerate(shown)],
        "higher": best is None or higher_is_better(best.measure),
        "share": best is None or is_share(best.measure),
        "best": None if best is None else _row(shown.index(best), best),
        "missing": [(summary.name, summary.missing) for summary in summaries if summary.missing],
        "remarks": remarks,
        "chance": _chance(shown),
        "clip_count": None if best is None else best.heads[best.head][best.measure]["count"],
        "trained_seconds": sum(summary.fact("seconds") or 0.0 for summary in shown),
        "curves": curves,
        "curve_places": {place for plot in curves for place in plot["places"]},
        "confusions": [_confusion(place, summary) for place, summary in enumerate(shown)],
        "clips": clips,
        "clip_rule": rule,
        "corpora": _corpora(shown),
        "machine": machine(),
        "date": date.strftime("%Y-%m-%d %H:%M %Z").strip(),
    }


def _row(place: int, summary: Summary) -> dict[str, Any]:
    """One run in the table; ``colour`` is its own throughout the page."""
    return {
        **describe(summary),
        "name": summary.name,
        "place": place,
        "colour": place % figures.COLOURS + 1,
        "dash": ("solid", "dashed", "dotted")[place // figures.COLOURS % 3],
        "measure": summary.measure,
        "others": _others(summary),
        "command": summary.command,
        "averaged": summary.averaged,
        "modalities": summary.modalities,
        "records": None if summary.records is None else str(summary.records.path),
    }


def _others(summary: Summary) -> list[str]:
    """The heads shown below the first; the logits of an only modality are the head's own and say nothing new."""
    own = summary.heads[summary.head]
    rest = [head for head in summary.heads if head != summary.head]
    return [head for head in rest if len(summary.modalities) != 1 or summary.heads[head] != own]


def _chance(shown: Sequence[Summary]) -> float | None:
    """The accuracy of guessing evenly, where all runs have the same number of classes."""
    counts = {s.predictions.predicted[s.head].shape[1] for s in shown if _has_classes(s)}
    return 1.0 / counts.pop() if len(counts) == 1 else None


def _has_classes(summary: Summary) -> bool:
    """Whether every clip has one class, and the predictions are there."""
    found = summary.predictions is not None and summary.head in summary.predictions.predicted
    return found and summary.measure == "accuracy" and len(summary.predictions.index) > 0


def _scores(summary: Summary) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets [N, K] of the head that the run is compared by."""
    return summary.predictions.predicted[summary.head], summary.predictions.target[summary.head.split("/")[0]]


# ------------------------------------------------------------------------------------------------- learning curves


def _curves(shown: Sequence[Summary]) -> list[dict[str, Any]]:
    """Training loss, and the validation metric that the runs are compared by."""
    measure = next((summary.measure for summary in shown), "accuracy")
    plots = (
        ("loss", "Training loss", [s.curve("train/loss") for s in shown], False),
        ("validation", f"Validation {'accuracy' if measure == 'accuracy' else METRICS[measure]}",
         [s.curve(f"validation/{s.head}/{s.measure}") for s in shown], is_share(measure)),
    )  # fmt: skip
    found = []
    for name, label, lines, share in plots:
        curves = [figures.Curve(place, *line) for place, line in enumerate(lines) if line[0]]
        if curves:
            described = f"{label} over training steps, one line a run"
            svg = figures.plot(curves, described, share=share, name=name)
            found.append({"label": label, "svg": Markup(svg), "places": [curve.place for curve in curves]})
    return found


# ------------------------------------------------------------------------------------------------- confusions


def _confusion(place: int, summary: Summary) -> dict[str, Any]:
    """A run's confusion matrix with names, or why there is none."""
    shown: dict[str, Any] = {"run": _row(place, summary), "why": "", "rows": [], "mistakes": []}
    shown |= {"share": is_share(summary.measure)}
    if summary.measure != "accuracy":
        what = _WITHOUT_CLASSES.get(summary.measure, "values, not classes")
        return shown | {"why": f"its clips have {what}, so there is no confusion matrix"}
    if not _has_classes(summary):
        return shown | {"why": "there are no predictions to count"}
    scores, target = _scores(summary)
    count = scores.shape[1]
    names = summary.classes(summary.head, count)
    matrix = confusion(scores.argmax(axis=1), target.argmax(axis=1), count)
    share = figures.normalised(matrix)
    if count > MOST_CLASSES:
        wrong = matrix * (1 - np.eye(count, dtype=matrix.dtype))
        order = np.argsort(-wrong, axis=None, kind="stable")[:12]
        pairs = [(int(k) // count, int(k) % count) for k in order if wrong.flat[k]]
        mistakes = [(names[t], names[p], int(matrix[t, p]), float(share[t, p])) for t, p in pairs]
        return shown | {"mistakes": mistakes, "classes": count}
    rows = [
        {"name": names[k], "count": int(matrix[k].sum()), "cells": list(zip(matrix[k].tolist(), share[k], strict=True))}
        for k in range(count)
    ]
    return shown | {"names": names, "rows": rows}


# ------------------------------------------------------------------------------------------------- clips


def _clips(best: Summary, shown: Sequence[Summary]) -> tuple[list[dict[str, Any]], str]:
    """Clips that the best run gets right and wrong, with what every run makes of them; or none, and why."""
    if not _has_classes(best):
        return [], f"{best.name}, the best run, has no predictions of single classes to choose clips by."
    if best.records is None:
        return [], f"The records of {best.name}, the best run, cannot be read."
    scores, target = _scores(best)
    right, wrong = choose(scores, target, CLIPS_EACH)
    names = best.classes(best.head, scores.shape[1])
    try:
        split = best.records.split(best.split)
        records = {row: split[int(best.predictions.index[row])] for row in (*right, *wrong)}
        pictures = {row: figures.picture_clip(record) for row, record in records.items()}
    except (RecordError, MediaError, OSError, ValueError, IndexError, RuntimeError) as error:
        return [], f"The clips of {best.name}, the best run, cannot be shown: {error}"
    clips = []
    for row, record in records.items():
        answers = [
            {"run": _row(place, run), "top": _top(probabilities, int(target[row].argmax()), names)}
            for place, run in enumerate(shown)
            if (probabilities := _same_clip(run, best, row)) is not None
        ]
        clips.append({
            "name": record.name,
            "group": record.group,
            "right": row in right,
            "true": names[int(target[row].argmax())],
            "said": names[int(scores[row].argmax())],
            "picture": dataclasses.asdict(pictures[row]),
            "answers": answers,
        })  # fmt: skip
    return clips, ""


def choose(scores: np.ndarray, target: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Rows [N, K] that are typical of what is right, and the most confident mistakes; true classes differ if they can.

    Right are those nearest to the median probability of the right clips.
    """
    true, confidence = target.argmax(axis=1), scores.max(axis=1)
    correct = scores.argmax(axis=1) == true
    hits, misses = np.flatnonzero(correct), np.flatnonzero(~correct)
    middle = float(np.median(confidence[hits])) if len(hits) else 0.0
    hits = hits[np.argsort(np.abs(confidence[hits] - middle), kind="stable")]
    misses = misses[np.argsort(-confidence[misses], kind="stable")]
    return _varied(hits, true, count), _varied(misses, true, count)


def _varied(rows: np.ndarray, true: np.ndarray, count: int) -> list[int]:
    """The first of each class, then the others, in order: ``count`` in all."""
    first = [int(row) for place, row in enumerate(rows) if true[row] not in true[rows[:place]]]
    return (first + [int(row) for row in rows if row not in first])[:count]


def _same_clip(run: Summary, best: Summary, row: int) -> np.ndarray | None:
    """What ``run`` says of the clip in row ``row`` of ``best``'s predictions; None where it has other clips."""
    if not _has_classes(run) or run.head != best.head:
        return None
    if run.records is not None and run.records.fingerprint != best.records.fingerprint:
        return None
    head = best.head.split("/")[0]
    at = np.flatnonzero(run.predictions.index == best.predictions.index[row])
    if not len(at) or not np.array_equal(run.predictions.target[head][at[0]], best.predictions.target[head][row]):
        return None
    return run.predictions.predicted[run.head][at[0]]


def _top(probabilities: np.ndarray, true: int, names: Sequence[str]) -> list[dict[str, Any]]:
    best = np.argsort(-probabilities, kind="stable")[:3]
    return [{"name": names[k], "value": float(probabilities[k]), "true": int(k) == true} for k in best]


# ------------------------------------------------------------------------------------------------- how it was made


def _corpora(shown: Sequence[Summary]) -> list[dict[str, Any]]:
    """Each folder of records once, with the runs that were scored on it."""
    found: dict[str, dict[str, Any]] = {}
    for summary in shown:
        if summary.records is not None:
            description = summary.records.description
            settings = {"corpus": description.corpus, "preparation": description.provenance}
            entry = {
                "path": str(summary.records.path),
                "name": description.name,
                "synthetic": bool(description.synthetic),
                "licence": description.licence,
                "counts": dict(description.counts),
                "classes": {head: len(names) for head, names in description.classes.items()},
                "audio": description.audio,
                "video": description.video,
                "fingerprint": summary.records.fingerprint,
                "settings": "" if not any(settings.values()) else json.dumps(settings, indent=1, default=str),
                "runs": [],
            }
            found.setdefault(str(summary.records.path), entry)["runs"].append(summary.name)
    return list(found.values())
