"""avjax bench: kernels measured against what a user would pick instead."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from avjax.commands import UsageError, Words

USAGE = "usage: avjax bench attention [--specs mbt_audioset ...] [--out FOLDER]"
ROW_STATISTICS = ("lse", "mass", "entropy", "group_entropy", "second_moment", "peak")


@dataclasses.dataclass(frozen=True)
class AttentionBench:
    """Times implementations of attention, taking turns within one run.

    Attributes:
      specs: shapes, by the names of kernels/attention/specs.py; "square" is 512 tokens of 12 heads of 64.
      batch: samples of a call.
      dtypes: of query, key and value.
      directions: the forward pass, or forward and backward.
      statistics: also measures our own with these, reported and not differentiated, beside the plain ones; none given,
        none measured.
      rounds: in which every contestant runs once.
      torch_python: a Python with PyTorch, for its attention and its compiler; `make bench-peers` makes one.
      out: folder for attention.json and attention.png.
      json: the measurements on standard output, in place of the table.
    """

    specs: tuple[str, ...] = ("square", "mbt_audioset", "mbt_merged", "cav_mae")
    batch: int = 8
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32",)
    directions: tuple[Literal["forward", "both"], ...] = ("forward", "both")
    statistics: tuple[str, ...] = ROW_STATISTICS
    rounds: int = 9
    torch_python: str | None = None
    out: Path | None = None
    json: bool = False


def bench(words: Words) -> int:
    """attention [--specs NAME ...] [--out FOLDER]    kernels against their peers: time, rate, memory"""
    words = ["attention", *words] if words and words[0] in ("-h", "--help") else list(words)
    if not words or words[0] != "attention":
        raise UsageError(f"there is one benchmark, attention. {USAGE}")
    options = tyro.cli(AttentionBench, prog="avjax bench attention", args=words[1:])
    found = measure(options)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "attention.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        _plot(found, options.out / "attention.png")
    if options.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        _show(found)
    return 0


def measure(options: AttentionBench) -> dict[str, Any]:
    """Every spec in every dtype and direction; see ``kernels.bench.Measured.plain`` for a contestant's numbers."""
    import jax

    from avjax.progress import progress
    from kernels import bench as benches
    from kernels.attention.specs import NAMED

    if unknown := [name for name in options.specs if name not in NAMED]:
        raise UsageError(f"--specs: there is no {unknown[0]!r}; there are {', '.join(NAMED)}")
    cases = [
        benches.Case(NAMED[name], options.batch, dtype, direction)
        for name in options.specs for dtype in options.dtypes for direction in options.directions
    ]  # fmt: skip
    results = []
    with progress("bench attention", len(cases) * options.rounds, quiet=options.json) as advance:
        for number, case in enumerate(cases):
            contestants, left_out = [], {}
            for name, make in benches.field(case, options.statistics, options.torch_python).items():
                try:
                    contestants.append(make())
                except Exception as error:  # A peer that cannot do this case is named and left out.
                    left_out[name] = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
            try:
                measured = benches.compete(
                    contestants, options.rounds, lambda done, number=number: advance(number * options.rounds + done)
                )
            finally:
                for contestant in contestants:
                    if isinstance(contestant, benches.Program):
                        contestant.close()
            results.append(
                {
                    "spec": case.spec.name, "batch": case.batch, "dtype": case.dtype, "direction": case.direction,
                    "contestants": [one.plain(case, measured[0]) for one in measured], "left_out": left_out,
                }
            )  # fmt: skip
    device = jax.devices()[0]
    return {
        "schema": 1, "jax": jax.__version__, "device": device.device_kind, "platform": device.platform,
        "processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "rounds": options.rounds,
        "ratios": "to the first contestant of a case, round by round", "cases": results,
    }  # fmt: skip


def _show(found: dict[str, Any]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    print("Medians; ± is half the distance of the quartiles; ratios are to the first line, round by round.")
    for case in found["cases"]:
        table = Table(title=_title(case), title_justify="left")
        for column in ("", "wall ms", "±", "ratio", "CPU ms", "ratio", "GFLOP/s", "MiB"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        for one in case["contestants"]:
            wall, cpu = one["wall"], one["cpu"]
            table.add_row(
                one["name"],
                f"{wall['median'] * 1e3:.2f}",
                f"{(wall['high'] - wall['low']) / 2 * 1e3:.2f}",
                f"{wall['ratio']:.2f}",
                f"{cpu['median'] * 1e3:.2f}",
                f"{cpu['ratio']:.2f}",
                f"{one['gflops']:.0f}",
                "" if one["memory"] is None else f"{one['memory'] / 2**20:.0f}",
            )
        console.print(table)
    left_out: dict[tuple[str, str], list[str]] = {}
    for case in found["cases"]:
        for reason in case["left_out"].items():
            left_out.setdefault(reason, []).append(_title(case))
    for (name, why), titles in left_out.items():
        where = "" if len(titles) == len(found["cases"]) else f" ({'; '.join(titles)})"
        print(f"left out: {name}: {why}{where}", file=sys.stderr)


def _title(case: dict[str, Any]) -> str:
    return f"{case['spec']}, batch {case['batch']}, {case['dtype']}, {case['direction']}"


def _plot(found: dict[str, Any], file: Path) -> None:
    """One bar a contestant: wall time against the first, with quartiles."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    cases = found["cases"]
    figure, axes = pyplot.subplots(len(cases), 1, figsize=(8, 2.4 * len(cases)), squeeze=False, layout="constrained")
    for axis, case in zip(axes[:, 0], cases, strict=True):
        names = [one["name"] for one in case["contestants"]]
        middle = [one["wall"]["median"] * 1e3 for one in case["contestants"]]
        low = [one["wall"]["low"] * 1e3 for one in case["contestants"]]
        high = [one["wall"]["high"] * 1e3 for one in case["contestants"]]
        spread = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        axis.barh(names, middle, xerr=spread, color=["#3b6ea5"] + ["#9db8d2"] * (len(names) - 1))
        axis.invert_yaxis()
        axis.set_xlabel("wall time, ms (median, quartiles)")
        axis.set_title(_title(case), loc="left")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
