"""Searches for sizes of blocks by static figures, and keeps them: kernels/tuned/TARGET.json.

A candidate's cost is bundles of a step times executed steps at a shape, plain and with statistics, added up. It knows
nothing of memory or of what a step costs beside its body, so blocks below 256 are not candidates.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kernels.aot.compiler import CannotCompile, Compiler, libtpu
from kernels.aot.jobs import Job
from kernels.attention.mosaic_tpu.target import DIRECTIONS as KERNELS

TUNED = Path(__file__).parents[1] / "tuned"
BLOCKS, ROW_CHUNKS, COLUMN_CHUNKS = (256, 512, 1024), (128, 256, 512), (128, 256)
STATISTICS = ("lse", "mass", "entropy")
# Shapes are of the first class that has as many tokens as they have.
CLASSES = (1024, 2**31)


def candidates() -> Iterator[tuple[int, int, int, int]]:
    """Sizes to try; the two sides of a block differ by a factor of two at most."""
    for rows, columns, row_chunk, column_chunk in itertools.product(BLOCKS, BLOCKS, ROW_CHUNKS, COLUMN_CHUNKS):
        if row_chunk <= rows and max(rows, columns) <= 2 * min(rows, columns) and rows * columns <= 512 * 1024:
            yield rows, columns, row_chunk, column_chunk


def search(
    compiler: Compiler, job: Job, after: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, tuple[int, tuple[int, int, int, int]]]:
    """The cheapest sizes of every kernel at the shape of a job, kernel -> (cost, sizes), of those that compile.

    Raises:
      CannotCompile: where every candidate fails, with what the last one said.
    """
    tried, costs, error = list(candidates()), {}, None
    for number, sizes in enumerate(tried):
        at = dataclasses.replace(job, sizes=sizes)
        wanted = (
            dataclasses.replace(at, direction="both", statistics=()),
            dataclasses.replace(at, direction="forward", statistics=STATISTICS),
            dataclasses.replace(at, direction="forward", statistics=("received",)),
        )
        try:
            found = [compiler.compile(one).cycles() for one in wanted]
        except CannotCompile as refusal:
            error = refusal
        else:
            found[0]["forward"] += found[1]["forward"]
            found[0]["received"] = found[2]["received"]
            for kernel in KERNELS:
                costs.setdefault(kernel, []).append((found[0][kernel], sizes))
        after(number + 1, len(tried))
    if not costs:
        raise error or CannotCompile("there is no candidate")
    return {kernel: min(found) for kernel, found in costs.items()}


def entry(kernel: str, job: Job, sizes: tuple[int, int, int, int]) -> dict[str, Any]:
    """As the file of a target has it (see target.tuned): for shapes up to this width, of the class of this length."""
    spec = job.shape()
    width = max(spec.width, spec.value_width or spec.width)
    tokens = next(most for most in CLASSES if max(spec.queries.length, spec.keys.length) <= most)
    return {"direction": kernel, "dtype": job.dtype, "width": width, "tokens": tokens, "sizes": list(sizes)}


def keep(target: str, entries: list[dict[str, Any]], folder: Path = TUNED) -> Path:
    """Writes entries into the file of a target, in place of those for the same kernel, dtype, width and length."""
    path = folder / f"{target}.json"
    old = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.exists() else []

    def key(one: dict[str, Any]) -> tuple:
        return (KERNELS.index(one["direction"]), one["dtype"], one["width"], one["tokens"])

    merged = {key(one): one for one in [*old, *entries]}
    lines = ",\n".join("  " + json.dumps(merged[at]) for at in sorted(merged))
    text = f'{{\n "target": "{target}",\n "libtpu": "{libtpu()}",\n "basis": "static estimate, not measured",\n'
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text} "sizes": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return path
