"""Fairness between groups of clips: the worst group, gaps, and rates that should not depend on the group.

One attribute at a time (speaker's sex, age or accent, device, language, whether there is background music): every row
has one group of it. Groups with fewer than 30 rows are hidden, since their numbers say more about chance than about the
model. Any number of rows goes by group: accuracy, calibration error, retention, contribution share.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, Shaped

from avjax.diagnostics.measured import OfRows, Undefined, wilson
from avjax.training.metrics import Estimate

SMALLEST = 30

Groups = Shaped[np.ndarray, " N"]


def rows_by_group(groups: Groups, *, smallest: int = SMALLEST) -> dict[str, Int[np.ndarray, " R"]]:
    """Group -> its rows, in order of name; groups with fewer than ``smallest`` rows are left out."""
    names, member, count = np.unique(groups, return_inverse=True, return_counts=True)
    return {
        str(name): np.flatnonzero(member.ravel() == place)
        for place, name in enumerate(names)
        if count[place] >= smallest
    }


def by_group(of: OfRows, groups: Groups, *, smallest: int = SMALLEST) -> dict[str, float]:
    """Group -> ``of`` its rows; groups too small to show, or where it is undefined, are left out."""
    found = {}
    for name, rows in rows_by_group(groups, smallest=smallest).items():
        try:
            found[name] = float(of(rows))
        except Undefined:
            continue
    return found


def rate_by_group(yes: Bool[np.ndarray, " N"], groups: Groups, *, smallest: int = SMALLEST) -> dict[str, Estimate]:
    """Group -> share of yes with its 95 % Wilson interval: accuracy where yes is "right"."""
    found = {}
    for name, rows in rows_by_group(groups, smallest=smallest).items():
        found[name] = Estimate(float(yes[rows].mean()), *wilson(int(yes[rows].sum()), len(rows)), len(rows))
    return found


def worst_group(values: Mapping[str, float]) -> tuple[str, float]:
    """The group with the lowest value, and it: worst-group accuracy (Sagawa et al. 2020), higher is better.

    Pitfall: the lowest of many noisy numbers lies below all their means even where groups do not differ; the count of
    groups and intervals belong beside it.
    """
    if not values:
        raise Undefined("no group is large enough to show")
    name = min(values, key=values.__getitem__)
    return name, values[name]


def gap(values: Mapping[str, float]) -> float:
    """max_{g, g'} |v_g - v_g'|, lower is better, 0 where all groups are equal.

    Of accuracies the largest accuracy gap; of mean contribution shares |share_a(g) - share_a(g')|, ours; of rates of
    yes the demographic parity difference. Pitfall: as of ``worst_group``, never below 0 and so biased upwards.
    """
    if len(values) < 2:
        raise Undefined(f"{len(values)} group is large enough to show, and a gap needs two")
    return max(values.values()) - min(values.values())


def demographic_parity_difference(
    predicted: Bool[np.ndarray, " N"], groups: Groups, *, smallest: int = SMALLEST
) -> float:
    """max_{g, g'} |P(yhat = 1 | g) - P(yhat = 1 | g')|, in [0, 1], lower is better.

    For more than two classes call it once a class. Pitfall: groups whose labels differ in truth differ here too, and a
    perfect model then has more than 0.
    """
    return gap(by_group(lambda rows: predicted[rows].mean(), groups, smallest=smallest))


def equalised_odds_difference(
    predicted: Bool[np.ndarray, " N"], true: Bool[np.ndarray, " N"], groups: Groups, *, smallest: int = SMALLEST
) -> float:
    """max_y max_{g, g'} |P(yhat = 1 | y, g) - P(yhat = 1 | y, g')|, in [0, 1] (Hardt et al. 2016), lower is better.

    0 where every group has the same rates of hits and of false alarms, a perfect model among them. For more than two
    classes call it once a class, as one against the rest. The rates are shares of the rows of one group and one label,
    so those are what must not be fewer than ``smallest``, which is ours; undefined where either label leaves fewer than
    two groups.
    """
    gaps = []
    for label in (False, True):
        rows = np.flatnonzero(true == label)
        try:
            gaps.append(demographic_parity_difference(predicted[rows], groups[rows], smallest=smallest))
        except Undefined as undefined:
            raise Undefined(f"of the rows whose label is {label}: {undefined.reason}") from None
    return max(gaps)
