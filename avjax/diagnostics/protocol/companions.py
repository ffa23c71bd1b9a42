"""Other distances of two states, beside CMSD, which split nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.drift import divergence, grid
from avjax.diagnostics.measured import Condition, Measured
from avjax.diagnostics.protocol.looking import Looking, Moved
from avjax.diagnostics.protocol.saliency import Cells

# The distance over a grid is a linear programme a clip, some hundredths of a second each.
TRANSPORTED = 4
Maps = Float[np.ndarray, "N h w"]


def companions(looking: Looking, moved: Moved, condition: Condition) -> list[Measured]:
    """Of whole states: total variation, cosine, shared top cells. Of each modality's map: rank correlation, and how far
    its mass has travelled, in time or over the picture."""
    study, one, other = looking.study, *moved.pair
    common = {**looking.fields, "condition": condition}
    found = [
        study.mean(f"drift/{id}", of(one, other), looking.clips, **common)
        for id, of in {
            "total_variation": divergence.total_variation, "cosine": divergence.cosine, "top_iou": divergence.top_iou,
        }.items()
    ]  # fmt: skip
    begin = 0
    for cells in looking.clean.cells:
        count = int(np.prod(cells.coarse))
        maps = [side[:, begin : begin + count].reshape(-1, *cells.coarse) for side in (one, other)]
        found += _of_maps(looking, cells, *maps, common)
        begin += count
    return found


def _of_maps(looking: Looking, cells: Cells, one: Maps, other: Maps, common: dict[str, Any]) -> list[Measured]:
    """Of the clips that have a map on either side."""
    fields = {**common, "group": cells.modality}
    moves = "drift/earth_mover_grid" if cells.axes == "picture" else "drift/earth_mover_time"
    there = np.flatnonzero((one.sum(axis=(1, 2)) > 0) & (other.sum(axis=(1, 2)) > 0))
    if not len(there):
        return [skipped(moves, f"no clip has saliency on {cells.modality}", **fields)]
    one, other = (grid.state([side[there].reshape(len(there), -1)]) for side in (one, other))
    varied = np.flatnonzero((np.ptp(one, axis=1) > 0) & (np.ptp(other, axis=1) > 0))
    found = []
    if len(varied):
        ranks = divergence.rank_correlation(one[varied], other[varied])
        found.append(_mean(looking, "drift/rank_correlation", ranks, there[varied], fields))
    maps = [side.reshape(-1, *cells.coarse) for side in (one, other)]
    if cells.axes == "time":
        travelled = divergence.earth_mover_time(*(side.sum(axis=1) for side in maps))
        return [*found, _mean(looking, moves, travelled, there, fields)]
    some = there[:TRANSPORTED]
    travelled = _each(divergence.earth_mover_grid, *(side[: len(some)] for side in maps))
    if len(some) < len(there):
        fields["estimator"] += f"; the first {len(some)} clips"
    return [*found, _mean(looking, moves, travelled, some, fields)]


def _each(of: Callable[[np.ndarray, np.ndarray], float], one: Maps, other: Maps) -> Float[np.ndarray, " N"]:
    return np.array([of(a, b) for a, b in zip(one, other, strict=True)])


def _mean(looking: Looking, id: str, values: np.ndarray, rows: np.ndarray, fields: dict[str, Any]) -> Measured:
    return looking.study.mean(id, values, looking.clips.take(rows), **fields)
