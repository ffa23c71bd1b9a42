"""The commands of avjax, one file each, and what they share."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Words = Sequence[str]


class UsageError(Exception):
    """A command line that cannot be carried out; says what to write instead."""


def first_word(words: Words, command: str, what: str, known: list[str], usage: str) -> tuple[str, list[str]]:
    """The positional word behind a command, and the rest."""
    if not words or words[0].startswith("-"):
        usage = f"usage: avjax {command} {usage}\n\n{what} is one of {', '.join(known)}, or a path"
        if words and words[0] in ("-h", "--help"):
            print(f"{usage}.\navjax {command} {what} --help tells its options.")
            raise SystemExit(0)
        raise UsageError(usage)
    return words[0], list(words[1:])


def nearest(word: str, known: list[str]) -> str:
    """The end of a message about an unknown word."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def show_results(results: dict[str, Any], *, as_json: bool, split: str = "test") -> None:
    """Results of runs as JSON, or their metrics on a split as a table."""
    if as_json:
        print(json.dumps(results, indent=1, allow_nan=False))
        return
    synthetic = any(result.get("synthetic") for result in results.values())
    title = f"split {split}{', SYNTHETIC DATA' if synthetic else ''}"
    table = Table("run", "head", "metric", "value", "95 % interval", "clips", title=title)
    for name, result in results.items():
        for head, metrics in result.get(split, {}).get("metrics", {}).items():
            for metric, entry in metrics.items():
                interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
                table.add_row(name, head, metric, f"{entry['value']:.3f}", interval, str(entry["count"]))
    Console().print(table)
