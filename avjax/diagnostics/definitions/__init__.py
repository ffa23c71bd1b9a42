"""The definition of every metric: id, equation, range, direction, null baseline, pitfalls, source, version.

definition.py                     the type
contribution.py with balance.py, drift.py, consistency.py, stress.py, faithfulness.py   one table a section

docs/metrics.md shows them. A line of report.json is made with ``line``, ``number`` or ``skipped``, which take from here
what a metric's lines have in common, so that no caller says it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from avjax.diagnostics.definitions import balance, consistency, contribution, drift, faithfulness, stress
from avjax.diagnostics.definitions.definition import SECTIONS, Definition, table
from avjax.diagnostics.measured import SAMPLES, Measured, OfRows, Undefined, measured

DEFINITIONS: Mapping[str, Definition] = table(
    row for section in (contribution, balance, drift, consistency, stress, faithfulness) for row in section.ROWS
)

LIBRARY_ONLY = frozenset({"stress/robustness_among_methods"})
"""Metrics to be called by whoever wants them: no stage of ``avjax diagnose`` reports them."""

__all__ = ["DEFINITIONS", "LIBRARY_ONLY", "SECTIONS", "Definition", "facts", "line", "number", "skipped"]


def facts(id: str) -> dict[str, Any]:
    """What all lines of a metric have in common, as ``Measured`` takes it: id, version, unit, direction, baseline."""
    one = DEFINITIONS[id]
    return {
        "id": id,
        "version": one.version,
        "unit": one.unit,
        "direction": one.direction,
        "null_baseline": one.null_baseline,
    }


def line(
    id: str, of: OfRows, clusters: Shaped[np.ndarray, " N"], *, estimator: str, samples: int = SAMPLES, **fields: Any
) -> Measured:
    """A metric of some rows with its interval over source videos: ``measured.measured``.

    Args:
      clusters: source video of each row.
      fields: of ``Measured`` that apply: target, fill, layer, head, group, condition; ``null_baseline`` where it
        depends on the data.
    """
    return measured(of, clusters, samples=samples, estimator=estimator, **{**facts(id), **fields})


def number(id: str, of: Callable[[], float], *, estimator: str, n: int, **fields: Any) -> Measured:
    """A metric without an interval of rows, such as of a whole training; None and the reason where it is undefined.

    Args:
      n: samples behind it.
      fields: as of ``line``; ``ci_lo`` and ``ci_hi`` too, where they are known otherwise.
    """
    common = {**facts(id), **fields, "estimator": estimator, "n": n}
    try:
        return Measured(value=float(of()), **common)
    except Undefined as undefined:
        common.update(ci_lo=None, ci_hi=None)
        return Measured(value=None, status="undefined", reason=undefined.reason, **common)


def skipped(id: str, reason: str, *, estimator: str, n: int = 0, **fields: Any) -> Measured:
    """A metric that was not computed, and why."""
    return Measured(value=None, status="skipped", reason=reason, n=n, estimator=estimator, **{**facts(id), **fields})
