"""What report.html shows of a diagnosis: nine sections, each with what was measured and why the rest was not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avjax.diagnostics.comparison import duration
from avjax.diagnostics.definitions import DEFINITIONS
from avjax.diagnostics.diagnosis import pictures
from avjax.diagnostics.diagnosis.charts import QUIET, Bar, bars, number
from avjax.diagnostics.diagnosis.headline import headline
from avjax.diagnostics.diagnosis.panels.consistency import consistency
from avjax.diagnostics.diagnosis.panels.contribution import contribution
from avjax.diagnostics.diagnosis.panels.drift import drift
from avjax.diagnostics.diagnosis.panels.faithfulness import faithfulness
from avjax.diagnostics.diagnosis.panels.panel import colour
from avjax.diagnostics.diagnosis.panels.stress import stress
from avjax.diagnostics.diagnosis.result import Diagnosis
from avjax.diagnostics.diagnosis.rules import Light
from avjax.diagnostics.diagnosis.verdicts import counts, verdicts
from avjax.diagnostics.diagnosis.versus import Difference, Versus

MOST_CLIPS = 20
WORDS: Mapping[Light, str] = {"good": "good", "warn": "watch", "bad": "bad", "unknown": "not measured"}
# A difference of so many lines alone is read in report.json.
MOST_LINES = 60


def page(diagnosis: Diagnosis, versus: Versus | None = None) -> dict[str, Any]:
    """Everything that the template shows."""
    found = verdicts(diagnosis)
    ids = dict.fromkeys([*(line.id for line in diagnosis.measured), *(one.rule.id for one in found)])
    return {
        "title": f"Diagnosis of {diagnosis.about['model']['name']}",
        "synthetic": diagnosis.synthetic,
        "model": diagnosis.about["model"],
        "data": diagnosis.about["data"],
        "tier": diagnosis.about["protocol"]["tier"],
        "headline": headline(diagnosis),
        "verdicts": [one for one in found if one.light != "unknown"],
        "unknown": [one for one in found if one.light == "unknown"],
        "counts": counts(found),
        "words": WORDS,
        "number": number,
        "sections": [make(diagnosis) for make in (contribution, drift, consistency, stress, faithfulness)],
        "clips": [pictures.shown(clip) for clip in diagnosis.clips[:MOST_CLIPS]],
        "colours": [colour(diagnosis, name) for name in diagnosis.modalities],
        "made": _made(diagnosis),
        "skipped": [(stage["name"], stage["reason"]) for stage in _stages(diagnosis) if stage["reason"]],
        "times": _times(diagnosis),
        "versus": None if versus is None else _versus(versus),
        "definitions": [DEFINITIONS[id] for id in ids if id in DEFINITIONS],
        "anchor": anchor,
    }


def anchor(id: str) -> str:
    """Of a definition, within the page."""
    return f"definition-{id.replace('/', '-')}"


def _stages(diagnosis: Diagnosis) -> list[Mapping[str, Any]]:
    return list(diagnosis.about["protocol"].get("stages", []))


def _times(diagnosis: Diagnosis) -> Any:
    """Wall time of each stage."""
    spent = [(stage["name"], stage["seconds"]) for stage in _stages(diagnosis) if stage["seconds"] is not None]
    rows = [Bar(name, seconds, colour=QUIET, text=duration(seconds)) for name, seconds in spent]
    top = max((seconds for _, seconds in spent), default=0.0)
    return bars("Wall time of each stage in seconds", rows, axis=(0.0, max(top, 1e-3)), zero=0.0, filled=True) \
        if rows else None  # fmt: skip


def _made(diagnosis: Diagnosis) -> list[tuple[str, list[tuple[str, str]]]]:
    """Model, data, protocol and environment, as names and words."""
    protocol = {name: value for name, value in diagnosis.about["protocol"].items() if name != "stages"}
    seconds = sum(stage["seconds"] or 0.0 for stage in _stages(diagnosis))
    protocol |= {"wall time": duration(seconds)} if seconds else {}
    peak = protocol.pop("peak_memory_bytes", None)
    protocol |= {"peak memory": f"{peak / 2**30:.2f} GiB"} if peak else {}
    parts = {"Model": diagnosis.about["model"], "Data": diagnosis.about["data"], "Protocol": protocol,
             "Environment": diagnosis.about["env"]}  # fmt: skip
    return [(title, _facts(part)) for title, part in parts.items()]


def _facts(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _words(value)) for name, value in part.items() if value not in (None, "")]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_words, value[:24]))
        return f"{shown} and {len(value) - 24} more" if len(value) > 24 else shown
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _versus(versus: Versus) -> dict[str, Any]:
    """Section 9: a forest of differences, and tables."""
    rows = [_difference(row) for row in versus.paired]
    forest = bars(f"Differences of {versus.one} and {versus.other}", rows, zero=0.0, mark=0.0) if rows else None
    different = [row for row in versus.lines if row.difference]
    different.sort(key=lambda row: (row.id, -abs(row.difference)))
    more = max(len(different) - MOST_LINES, 0)
    return {"one": versus.one, "other": versus.other, "clips": versus.clips, "forest": forest,
            "lines": different[:MOST_LINES], "more": more}  # fmt: skip


def _difference(row: Difference) -> Bar:
    shade = {True: 3, False: 7, None: QUIET}[row.better]
    title = f"{DEFINITIONS[row.id].title if row.id in DEFINITIONS else row.id}: {row.name}"
    return Bar(title, row.difference, row.low, row.high, shade, text=f"{row.difference:+.3f}".replace("-", "−"))
