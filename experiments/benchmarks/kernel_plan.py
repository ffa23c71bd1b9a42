"""The TPU kernels beside what JAX has, for TPUs that are not here: the tables of docs/kernels.md.

    python experiments/benchmarks/kernel_plan.py [blocks] [shapes] [dense] [--targets v5e v6e] [--out FOLDER]

blocks: bundles of one block and registers spilled in it, ours and splash attention's at equal blocks, plain and with
lse, mass and entropy. shapes: bundles times executed steps at audio-visual shapes, where tokens are padding or a
modality is missing. dense: the same against XLA's dense attention, by libtpu's own estimate. Everything is a static
estimate, not measured; it needs libtpu (`pip install 'avjax[tpu]'`). A target takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from avjax.progress import progress
from kernels.aot import jobs
from kernels.aot.compiler import CannotCompile, Compiler, libtpu
from kernels.attention.mosaic_tpu.target import TARGETS

STATISTICS = ("lse", "mass", "entropy")
KERNELS = ("forward", "of_queries", "of_keys")
CHUNKS = ((128, 128), (256, 128), (256, 256), (512, 128), (512, 256))
SHAPES = ("mbt_audioset", "mbt_merged", "cav_mae", "avsr_cross")
# Title -> share of samples with the last modality, share of keys that are no padding.
SCENES = {"all there": (1.0, 1.0), "half without": (0.5, 1.0), "a quarter padding": (1.0, 0.75)}


def blocks(compiler: Compiler, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Of every block size and kernel: the fewest bundles of any chunks, and splash's."""
    for size in sizes:
        theirs = compiler.compile(jobs.Job(compiler.target, "square", "splash", direction="both", sizes=(size,) * 4))
        for statistics in ((), STATISTICS):
            tried = []
            for rows, columns in CHUNKS:
                if max(rows, columns) <= size:
                    job = jobs.Job(
                        compiler.target, "square", direction="both", statistics=statistics,
                        sizes=(size, size, rows, columns),
                    )  # fmt: skip
                    tried.append(compiler.compile(job))
            for kernel in KERNELS:
                peer = theirs.kernels[kernel]["whole"]
                ours = _fewest([one.kernels[kernel]["whole"] for one in tried], peer["spills"])
                yield {
                    "target": compiler.target, "block": size, "kernel": kernel, "statistics": bool(statistics),
                    "bundles": ours["bundles"], "splash": peer["bundles"], "ratio": ours["bundles"] / peer["bundles"],
                    "spills": ours["spills"], "splash spills": peer["spills"],
                }  # fmt: skip


def _fewest(bodies: list[dict[str, Any]], spills: int) -> dict[str, Any]:
    """The fewest bundles of those that spill no more than the peer, or of all where none does."""
    modest = [body for body in bodies if body["spills"] <= spills]
    return min(modest or bodies, key=lambda body: body["bundles"])


def shapes(compiler: Compiler, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Thousands of cycles, ours at the sizes on file, splash's at the block of 256 or 512 that is the cheaper."""
    for name in names:
        job = jobs.Job(compiler.target, name, direction="both", dynamic=True)
        ours = compiler.compile(job)
        theirs = []
        for size in (256, 512):
            peer = dataclasses.replace(job, implementation="splash", sizes=(size,) * 4)
            theirs.append(compiler.compile(peer))
        for title, (share, valid) in SCENES.items():
            if share < 1 and len(job.shape().keys.names) == 1:
                continue  # Without its only modality nothing is left.
            last = job.shape().keys.names[-1]
            mask = jobs.mask_at(job.shape(), job.batch, {last: share}, valid)
            mine = ours.cycles(mask)
            for direction, kernels in (("forward", KERNELS[:1]), ("both", KERNELS)):
                own = sum(mine[kernel] for kernel in kernels)
                peer = min(sum(one.cycles()[kernel] for kernel in kernels) for one in theirs)
                yield {
                    "target": compiler.target, "spec": name, "scene": title, "direction": direction,
                    "kcycles": own / 1e3, "splash": peer / 1e3, "ratio": own / peer,
                }  # fmt: skip


def dense(compiler: Compiler, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Thousands of cycles of the forward pass: kernel and what XLA does around it, and dense attention with a bias."""
    for name in names:
        for bias in (False, True):
            job = jobs.Job(compiler.target, name, bias=bias, dynamic=True)
            ours = compiler.compile(job)
            if ours.xla_cycles is None:
                continue
            own = sum(ours.cycles().values()) + ours.xla_cycles
            for peer in ("reference", "jax.nn"):
                theirs = compiler.compile(dataclasses.replace(job, implementation=peer))
                if theirs.xla_cycles is None:
                    continue  # libtpu has no estimate.
                yield {
                    "target": compiler.target, "spec": name, "bias": bias, "peer": peer, "kcycles": own / 1e3,
                    "dense": theirs.xla_cycles / 1e3, "ratio": own / theirs.xla_cycles,
                    "MiB": ours.memory["temporary"] / 2**20, "dense MiB": theirs.memory["temporary"] / 2**20,
                }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=["blocks", "shapes", "dense"], help="blocks, shapes, dense")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--blocks", nargs="+", type=int, default=[256, 512], help="sizes compared in `blocks`")
    parser.add_argument("--specs", nargs="+", default=list(SHAPES), help="of `shapes` and `dense`")
    parser.add_argument("--out", type=Path, help="folder for kernel_plan.json")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    makers = {
        "blocks": lambda compiler: blocks(compiler, tuple(arguments.blocks)),
        "shapes": lambda compiler: shapes(compiler, tuple(arguments.specs)),
        "dense": lambda compiler: dense(compiler, tuple(arguments.specs)),
    }
    if unknown := set(arguments.tables) - set(makers):
        parser.error(f"there is no table {sorted(unknown)[0]!r}; there are {', '.join(makers)}")
    found: dict[str, list[dict[str, Any]]] = {table: [] for table in arguments.tables}
    try:
        with progress("tables", len(arguments.targets) * len(found)) as advance:
            for number, target in enumerate(arguments.targets):
                with Compiler(target) as compiler:
                    for place, table in enumerate(found):
                        found[table] += list(makers[table](compiler))
                        advance(number * len(found) + place + 1)
    except CannotCompile as error:
        print(f"kernel_plan: {error}", file=sys.stderr)
        return 1
    print(f"Static estimate, not measured; libtpu {libtpu()}.")
    for table, rows in found.items():
        print(f"\n{table}")
        _print(rows)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        facts = {"kind": "static estimate, not measured", "libtpu": libtpu()}
        (arguments.out / "kernel_plan.json").write_text(json.dumps({**facts, **found}, indent=1) + "\n")
    return 0


def _print(rows: list[dict[str, Any]]) -> None:
    """As a table of Markdown."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        cells = (
            ("yes" if value else "") if isinstance(value, bool)
            else f"{value:.2f}" if name == "ratio"
            else f"{value:.0f}" if isinstance(value, float) else str(value)
            for name, value in row.items()
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
