"""Bundles of some jobs as they were, by version of libtpu: kernels/tuned/baseline.json.

    python -m kernels.aot.baseline             compares what is compiled now with the baseline, line by line
    python -m kernels.aot.baseline --write     makes it the baseline of the libtpu that is installed

Other versions' figures stay in the file. A schedule that got longer is a regression only under the same libtpu.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kernels.aot.compiler import CannotCompile, Compiler, Figures, libtpu
from kernels.aot.jobs import Job
from kernels.aot.tuning import STATISTICS, TUNED
from kernels.attention.mosaic_tpu.target import TARGETS

FILE = TUNED / "baseline.json"
MOST = 1.05
JOBS = tuple(
    Job(target, "mbt_audioset", batch=1, dtype=dtype, direction="both", statistics=statistics)
    for target in TARGETS
    for dtype, statistics in (("bfloat16", ()), ("bfloat16", STATISTICS), ("float32", ()))
)


def stored(version: str | None = None) -> dict[str, dict[str, dict[str, int]]] | None:
    """Job -> kernel -> body -> bundles, of a version of libtpu (default the one installed), or None."""
    if not FILE.exists():
        return None
    return json.loads(FILE.read_text(encoding="utf-8"))["libtpu"].get(version or libtpu())


def plain(figures: Figures) -> dict[str, dict[str, int]]:
    """As the file has it."""
    return {
        kernel: {body: found["bundles"] for body, found in bodies.items()} for kernel, bodies in figures.kernels.items()
    }


def compared(found: dict[str, Figures]) -> tuple[list[str], list[str]]:
    """A line for every kernel against the baseline, and those that are regressions; none without a baseline."""
    lines, worse, before = [], [], stored() or {}
    for name, figures in found.items():
        for kernel, bodies in plain(figures).items():
            for body, bundles in bodies.items():
                old = before.get(name, {}).get(kernel, {}).get(body)
                line = f"{name}: {kernel}, {body}: {bundles} bundles, before {old if old is not None else 'unknown'}"
                lines.append(line)
                if old is not None and bundles > MOST * old:
                    worse.append(line)
    return lines, worse


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.aot.baseline", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="store what is found")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    arguments = parser.parse_args()
    found: dict[str, Figures] = {}
    try:
        for target in arguments.targets:
            with Compiler(target) as compiler:
                found |= {job.name: compiler.compile(job) for job in JOBS if job.target == target}
    except CannotCompile as error:
        print(f"baseline: {error}", file=sys.stderr)
        return 1
    lines, worse = compared(found)
    print("\n".join(lines))
    if arguments.write:
        start: dict[str, Any] = {"basis": "static estimate, not measured"}
        whole = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else start
        kept = whole.setdefault("libtpu", {}).setdefault(libtpu(), {})
        kept.update({name: plain(figures) for name, figures in found.items()})
        FILE.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        return 0
    if stored() is None:
        print(f"there is no baseline for libtpu {libtpu()}: nothing is judged", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
