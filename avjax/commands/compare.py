"""avjax compare: runs side by side."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro
from rich.console import Console
from tyro.conf import Positional

from avjax.commands import UsageError, Words


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Puts runs side by side: a table, and a self-contained HTML report with pictures.

    Attributes:
      runs: run directories.
      out: where to write the report, such as report.html; none is written unless told.
      title: of the report.
      json: prints the table as JSON.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path | None = None
    title: str = "avjax: runs compared"
    json: bool = False


def compare(words: Words) -> int:
    """RUN... [--out report.html]    runs side by side, with pictures"""
    from avjax.diagnostics import report

    options = tyro.cli(CompareOptions, prog="avjax compare", args=words)
    if not options.runs:
        raise UsageError("avjax compare needs run directories, such as runs/demo_audio runs/demo_mbt")
    if options.out:
        report.write_report(options.runs, options.out, title=options.title)
        print(f"wrote {options.out}", file=sys.stderr)
    table = report.compare(options.runs)
    if options.json:
        print(json.dumps(table, indent=1, allow_nan=False))
    else:
        Console().print(report.table(table))
    return 0
