"""Reads what libtpu writes down of a kernel's final schedule: bundles, and what each does.

A bundle is what a TPU core issues in one cycle. A kernel is a loop over the steps of its grid; within it, the bodies
that use the matrix unit are what a step costs. Waiting for memory is not in these figures.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

# Kernels whose figures are wanted: what their name contains, and what to call them.
KERNELS = {
    "attention_forward": "forward", "attention_of_queries": "of_queries", "attention_of_keys": "of_keys",
    "attention_of_bias": "of_bias", "attention_received": "received", "attention_found": "found",
    "splash_mha_fwd": "forward", "splash_mha_dq": "of_queries", "splash_mha_dkv": "of_keys",
}  # fmt: skip
_FILE = re.compile(r"^\d+-(?P<kernel>.+)-\d\d-(?P<kind>final_bundles|final_hlo-static-per-bundle-utilization)\.txt$")
_BUNDLE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+(?P<label>LB|LH|LE|PB|PF|CT)?:")
# Bundles after a branch that are still issued.
_DELAY = 4


@dataclasses.dataclass(frozen=True)
class Body:
    """One straight piece of a schedule.

    Attributes:
      bundles: cycles that it takes where it never waits.
      spills, fills: registers stored to memory for want of room, and read back.
      slots: how often each unit is used, by libtpu's name for it.
    """

    bundles: int
    spills: int
    fills: int
    slots: dict[str, int]

    def __add__(self, other: Body) -> Body:
        slots = {unit: count + other.slots[unit] for unit, count in self.slots.items()}
        return Body(self.bundles + other.bundles, self.spills + other.spills, self.fills + other.fills, slots)


def read(folder: Path) -> dict[str, list[Body]]:
    """The bodies that use the matrix unit, of every kernel of KERNELS that a folder has a dump of, in program order.

    Raises:
      ValueError: for dumps that are not as expected: another libtpu may write them differently.
    """
    files: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE.match(path.name):
            files.setdefault(match["kernel"], {})[match["kind"]] = path
    result = {}
    for kernel, kinds in files.items():
        name = next((name for part, name in KERNELS.items() if part in kernel), None)
        if name is None:
            continue
        if set(kinds) != {"final_bundles", "final_hlo-static-per-bundle-utilization"}:
            raise ValueError(f"{folder}: of {kernel} only {', '.join(kinds)} was written: another libtpu?")
        result[name] = bodies(
            kinds["final_bundles"].read_text(), kinds["final_hlo-static-per-bundle-utilization"].read_text()
        )
    return result


def bodies(bundles: str, utilization: str) -> list[Body]:
    """The straight pieces that use the matrix unit, from the text of the two files.

    Raises:
      ValueError: where the two do not fit together.
    """
    head, _, table = utilization.partition("== UTILIZATION:\n")
    units = next((line for line in head.splitlines() if line.startswith("MXU")), "").split(", ")
    rows = [list(map(int, line.split())) for line in table.splitlines() if line.strip()]
    lines = [match for line in bundles.splitlines() if (match := _BUNDLE.match(line))]
    if not rows or len(rows) != len(lines) or any(len(row) != len(units) for row in rows):
        raise ValueError(f"{len(lines)} bundles and {len(rows)} rows of {len(units)} units: another libtpu?")
    pieces, begin, left = [], 0, None
    for number, line in enumerate(lines):
        ended = left == 0
        left = None if left is None or ended else left - 1
        if (line["label"] or ended) and number > begin:
            pieces.append((begin, number))
            begin, left = number, None
        if "sbr.rel" in line.string:
            left = _DELAY
    pieces.append((begin, len(lines)))
    result = []
    for begin, end in pieces:
        slots = dict(zip(units, map(sum, zip(*rows[begin:end], strict=True)), strict=True))
        if not slots["MXU"]:
            continue
        body = Body(end - begin, slots["VSTORE:SPILL"], slots["VLOAD:FILL"], slots)
        # What lies beside a branch, with less than a quarter of the products, is the rest of the body before it.
        if result and 4 * slots["MXU"] < result[-1].slots["MXU"]:
            result[-1] = result[-1] + body
        else:
            result.append(body)
    return result
