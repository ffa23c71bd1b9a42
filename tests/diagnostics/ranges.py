"""Whether lines of a report lie where their definitions say."""

from __future__ import annotations

from collections.abc import Iterable

from avjax.diagnostics.definitions import DEFINITIONS
from avjax.diagnostics.measured import Measured

# What sums of float32 weights may be above their bound by rounding.
ROUNDING = 1e-6


def out_of_range(lines: Iterable[Measured]) -> list[str]:
    """Every value, end of an interval and null baseline outside of its definition's range, in words."""
    found = []
    for line in lines:
        one = DEFINITIONS[line.id]
        for name in ("value", "ci_lo", "ci_hi", "null_baseline"):
            number = getattr(line, name)
            if number is not None and not any(one.holds(number + step) for step in (0, -ROUNDING, ROUNDING)):
                found.append(f"{line.id} ({line.estimator}, {line.layer}, {line.group}): {name} {number}, {one.range}")
    return found
