"""What each modality says of the label, and of the prediction: alone, either, and only both together (1.12)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Num

from avjax.diagnostics.contribution.information import Decomposition, clusters, decompose, null, table
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.measured import Interval, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.ablation import remaining
from avjax.diagnostics.protocol.inside import inside
from avjax.diagnostics.protocol.study import Found, Study, joined

# At most so many symbols a modality; fewer where there are few clips for each cell of their table with the classes.
MOST_SYMBOLS = 20
COMPONENTS = 16
PERMUTATIONS = 8
RESAMPLES = 100
# Nats by which a draw of an interval may be off: far less than draws differ.
DRAWN_GAP = 1e-5

Symbols = Mapping[str, Int[np.ndarray, " N"]]
"""Modality -> what it says of each clip, one of few."""


def information(study: Study) -> Found:
    """Of what the model makes of each modality when it has that one alone: its prediction, and its tokens in clusters.

    Of the label it is what the modalities hold as this model reads them; of the prediction what it uses.
    """
    found = Found()
    if len(study.modalities) < 2:
        reason = "information is divided between two modalities, and the model has one"
        found.lines.append(skipped("contribution/pid_synergy", reason, estimator="predictions"))
        return found
    fill, tokens, told = study.fills[0], {}, {}
    for modality in study.modalities:
        alone = remaining(study, study.clips, frozenset([modality]), fill)
        told[modality] = study.said(alone).predicted
        if isinstance(study.probe, ModelProbe) and modality in (made := inside(study.probe, alone).tokens):
            tokens[modality] = made[modality]
    ways: dict[str, Symbols] = {"prediction of each modality alone": told}
    if len(tokens) == len(study.modalities):
        most = symbols_for(len(study.clips), len(study.probe.classes))
        ways[f"tokens of each modality alone, at most {most} clusters"] = {
            modality: clusters(principal(x, COMPONENTS), most, seed=study.seed) for modality, x in tokens.items()
        }
    targets = {"label": study.clips.label, "predicted": study.clean.predicted}
    for (estimator, symbols), (target, third) in itertools.product(ways.items(), targets.items()):
        for one, other in itertools.combinations(study.modalities, 2):
            found_in = estimator if len(study.modalities) == 2 else f"{estimator}, {one} and {other}"
            _decomposed(study, found, (one, other), symbols, third, estimator=found_in, target=target, fill=fill)
    return found


def symbols_for(clips: int, classes: int) -> int:
    """Symbols of each modality for which every cell of their table with the classes has a clip in the mean."""
    return min(max(math.isqrt(clips // max(classes, 1)), 2), MOST_SYMBOLS)


def principal(features: Num[np.ndarray, "N C"], count: int) -> Float[np.ndarray, "N c"]:
    """Coordinates of rows on the directions of their greatest variance."""
    rows = np.asarray(features, np.float64)
    if rows.shape[1] <= count:
        return rows
    left, scale, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return left[:, :count] * scale[:count]


def _decomposed(
    study: Study, found: Found, pair: tuple[str, str], symbols: Symbols, third: Int[np.ndarray, " N"], **fields: str
) -> None:
    """The four parts, and what is left of each when that of permuted labels is taken off."""
    first, second = (symbols[modality] for modality in pair)
    count, both = len(third), joined(pair)
    names = ("redundancy", *pair, "synergy")
    try:
        whole = decompose(table(first, second, third))
        nothing = null(first, second, third, permutations=PERMUTATIONS, seed=study.seed)
        above = whole - nothing
    except Undefined as undefined:
        found.lines.append(skipped("contribution/pid_synergy", undefined.reason, n=count, group=both, **fields))
        return
    parts = {
        "contribution/pid_redundancy": {both: whole.redundant},
        "contribution/pid_unique": dict(zip(pair, (whole.first, whole.second), strict=True)),
        "contribution/pid_synergy": {both: whole.synergy},
    }
    for id, own in parts.items():
        for group, bits in own.items():
            found.lines.append(number(id, lambda bits=bits: bits, n=count, group=group, **fields))
    edges = _intervals(study, above, first, second, third)
    for place, name in enumerate(names):
        low, high = (None, None) if edges is None else edges[place]
        found.lines.append(
            number("contribution/pid_above_null", lambda place=place: float(above.parts[place]), n=count, group=name,
                   ci_lo=low, ci_hi=high, **fields)
        )  # fmt: skip


def _intervals(
    study: Study, above: Decomposition, first: np.ndarray, second: np.ndarray, third: np.ndarray
) -> list[Interval] | None:
    """Basic bootstrap over source videos (Davison & Hinkley 1997, equation 2.10), each draw less a null of its own.

    2 v - quantiles of the draws: clips that are drawn twice look like more dependence than there is, by about as much
    as there is too much in v.
    """
    _, video = np.unique(np.array(study.clips.source), return_inverse=True)
    rows_of = [np.flatnonzero(video == each) for each in range(video.max() + 1)]
    if len(rows_of) < 2:
        return None
    random, draws = np.random.default_rng(study.seed), []
    for _ in range(min(RESAMPLES, study.resamples)):
        rows = np.concatenate([rows_of[each] for each in random.integers(0, len(rows_of), len(rows_of))])
        one, other, said = first[rows], second[rows], third[rows]
        try:
            tables = table(one, other, said), table(one, other, random.permutation(said))
            own, nothing = (decompose(each, gap=DRAWN_GAP) for each in tables)
        except Undefined:
            continue
        draws.append((own - nothing).parts)
    if len(draws) < 2:
        return None
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return [(float(2 * v - h), float(2 * v - b)) for v, b, h in zip(above.parts, low, high, strict=True)]
