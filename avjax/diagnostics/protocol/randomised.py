"""Whether explanations depend on what the model has learned (section 4).

Its weights are made random from the last layer down, and another class is explained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.drift import grid
from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.faithfulness import localisation, sanity
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.training.optimizer import layers_above, path_names
from avjax.training.step import TrainState

GRADIENT, OCCLUSION = "gradient x input", "tokens left out"
CELLS = 16
"""Along each side of the maps that are compared."""
SHUFFLED = "weights shuffled, 1 draw"
SHIFT = 1.0
"""Deviations of a clip's features by which their zero is moved."""
FEWEST = 3
"""Clips of a rank correlation over clips."""

Maps = dict[str, Float[np.ndarray, "N H W"]]


class Level(NamedTuple):
    """A layer of the model, and the parameters down to it.

    Attributes:
      name: "head", such as "fusion.1", or "encoders".
      above: layers between it and the head.
    """

    name: str
    above: int


def levels(params: Any) -> list[Level]:
    """The layers of a model from the head down, as its parameters' paths tell them (``layers_above``)."""
    by_above: dict[int, list[tuple[str, ...]]] = {}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, _), above in zip(leaves, jax.tree.leaves(layers_above(params)), strict=True):
        by_above.setdefault(above, []).append(tuple(map(str, path_names(path))))
    last, found = max(by_above, default=0), []
    for above, paths in sorted(by_above.items()):
        together = [len(set(names)) == 1 for names in zip(*(path[:-1] for path in paths), strict=False)]
        shared = paths[0][: (*together, False).index(False)]
        # A place in a list is where a layer's own names begin.
        place = next((number + 1 for number, name in enumerate(shared) if name.isdigit()), len(shared))
        shared = ".".join(shared[:place])
        found.append(Level("head" if above == 0 else shared or ("encoders" if above == last else str(above)), above))
    return found


def shuffled(state: TrainState, above: int, *, seed: int) -> TrainState:
    """With every array of parameters down to this layer in random order, each by itself (ours: Adebayo et al. 2018 draw
    weights anew; a shuffle keeps their size, so that activations keep theirs)."""
    params = state.params if state.average is None else state.average
    random, place = np.random.default_rng(seed), layers_above(params)

    def one(leaf: jax.Array, number: int) -> jax.Array:
        # Drawn for all, so that a layer is shuffled alike at every level.
        order = random.permutation(leaf.size)
        if number > above:
            return leaf
        mixed = np.asarray(leaf).reshape(-1)[order].reshape(leaf.shape)
        return jax.device_put(mixed, getattr(leaf, "sharding", None))

    mixed = jax.tree.map(one, params, place)
    return dataclasses.replace(state, params=mixed, average=None if state.average is None else mixed)


def randomised(study: Study) -> Found:
    """Rank correlation and likeness of maps with those of the model made random, layer by layer; random logit."""
    found, probe = Found(), study.probe
    if not isinstance(probe, ModelProbe):
        reason = "a plain function has no weights that could be made random"
        found.lines.append(skipped("faithfulness/rank_cascade", reason, estimator=GRADIENT))
        return found
    ladder = levels(probe.state.params)
    if not ladder:
        reason = "the model has no weights that could be made random"
        found.lines.append(skipped("faithfulness/rank_cascade", reason, estimator=GRADIENT))
        return found
    part = study.part(study.tier.randomised)
    original = gradient_maps(probe, part.clips, part.clean.predicted)
    changed = [random_probe(study, level) for level in ladder]
    found.lines += cascade(study, part, GRADIENT, ladder, original,
                           [gradient_maps(one, part.clips, part.clean.predicted) for one in changed])  # fmt: skip
    found.lines += another_class(study, part, original)
    found.lines += another_zero(study, part, original)
    # Every player out by itself costs as many passes as there are players, and that for every layer.
    if study.tier.faithful != 0:
        found.lines += cascade(study, part, OCCLUSION, ladder, occlusion_maps(study, probe, part),
                               [occlusion_maps(study, one, part) for one in changed])  # fmt: skip
    return found


def random_probe(study: Study, level: Level) -> ModelProbe:
    """The study's model with its layers down to this one made random."""
    return study.probe.with_state(shuffled(study.probe.state, level.above, seed=study.seed))


def gradient_maps(probe: ModelProbe, clips: Any, target: Int[np.ndarray, " N"], *, shift: float = 0.0) -> Maps:
    """|x df_c/dx| behind the front end: frequency by time of sound, height by width of pictures, time of features.

    Args:
      shift: as of ``ModelProbe.saliency``.
    """
    found, _ = probe.saliency(clips, target, shift=shift)
    maps = {}
    for modality, mass in found.items():
        mass = np.asarray(mass, np.float64)
        flat = {4: lambda x: x.sum(axis=1), 3: lambda x: x.swapaxes(1, 2), 2: lambda x: x[:, None]}[mass.ndim](mass)
        maps[modality] = grid.pooled(flat, tuple(min(CELLS, extent) for extent in flat.shape[1:]))
    return maps


def occlusion_maps(study: Study, probe: ModelProbe, part: Part) -> Maps:
    """f_c(x) - f_c(x without a player's tokens), signed, in one row."""
    players, target = study.token_players, (np.arange(len(part.rows)), part.clean.predicted)
    kept = np.concatenate([np.ones((1, len(players)), bool), ~np.eye(len(players), dtype=bool)])
    value = probe.coalitions(part.clips, kept, players)[:, *target].astype(np.float64)
    lost = (value[0] - value[1:]).T
    return {m: lost[:, None, players.of(m)] for m in study.modalities}


def cascade(
    study: Study, part: Part, name: str, ladder: Sequence[Level], original: Maps, after: Sequence[Maps],
    **fields: Any,
) -> list[Measured]:  # fmt: skip
    """Lines of every layer, by modality; the share of the first modality besides, over clips."""
    lines, named = [], {"target": "predicted", **fields}
    for modality in study.modalities:
        maps, levels_after = original[modality], np.stack([one[modality] for one in after])
        steady = np.all([np.ptp(x, axis=(-2, -1)) > 0 for x in (maps, *levels_after)], axis=0)
        rows, own = np.flatnonzero(steady), {"group": modality, **named}
        words = f"{name}, {SHUFFLED}" + ("" if steady.all() else f"; {len(rows)} of {len(steady)} clips have maps")
        if not len(rows):
            reason = f"none of {len(steady)} clips has a map of {modality} that is not constant"
            lines.append(skipped("faithfulness/rank_cascade", reason, n=len(steady), estimator=words, **own))
            continue
        clips, maps, levels_after = part.clips.take(rows), maps[rows], levels_after[:, rows]
        ranks = sanity.rank_cascade(maps, levels_after)
        for level, values in zip(ladder, ranks, strict=True):
            lines.append(
                study.mean("faithfulness/rank_cascade", values, clips, estimator=words, layer=level.name, **own)
            )
        floor = sanity.random_floor(maps, seed=study.seed)
        lines.append(study.mean("faithfulness/random_floor", floor, clips, estimator=words, **own))
        rise = _entropy_rise(maps.reshape(len(maps), -1), levels_after[-1].reshape(len(maps), -1))
        if rise is not None:
            lines.append(study.mean("faithfulness/entropy_rise", rise, clips, estimator=words, **own))
        if min(maps.shape[1:]) >= sanity.WINDOW:
            alike = sanity.similarity_cascade(
                localisation.unit_range(maps), np.stack([localisation.unit_range(one) for one in levels_after])
            )
            for level, values in zip(ladder, alike, strict=True):
                lines.append(
                    study.mean("faithfulness/similarity_cascade", values, clips, estimator=words, layer=level.name,
                               **own)
                )  # fmt: skip
    if len(study.modalities) > 1:
        lines += _shares(study, part, f"{name}, {SHUFFLED}", ladder, original, after, **named)
    return lines


def _entropy_rise(before: np.ndarray, after: np.ndarray) -> np.ndarray | None:
    try:
        return sanity.entropy_rise(before, after)
    except Undefined:
        return None


def _shares(
    study: Study, part: Part, words: str, ladder: Sequence[Level], original: Maps, after: Sequence[Maps], **named: Any
) -> list[Measured]:
    """Whether clips are ranked by their share of the first modality as they were."""
    first, lines = study.modalities[0], []
    for level, maps in zip(ladder, after, strict=True):
        one, other = _share(original, first), _share(maps, first)
        rows = np.flatnonzero(np.isfinite(one) & np.isfinite(other))
        fields = {"estimator": words, "layer": level.name, "group": first, **named}
        if len(rows) < FEWEST:
            reason = f"{len(rows)} clips have shares"
            lines.append(skipped("faithfulness/share_cascade", reason, n=len(rows), **fields))
            continue

        def agreement(chosen: np.ndarray, one: np.ndarray = one[rows], other: np.ndarray = other[rows]) -> float:
            return float(rank_correlation(one[chosen], other[chosen]))

        lines.append(study.line("faithfulness/share_cascade", agreement, part.clips.take(rows), **fields))
    return lines


def _share(maps: Mapping[str, np.ndarray], modality: str) -> Float[np.ndarray, " N"]:
    """Of |map|, in [0, 1]; infinite where there is no map at all."""
    sizes = {m: np.abs(x).sum(axis=(1, 2)) for m, x in maps.items()}
    whole = sum(sizes.values())
    return np.divide(sizes[modality], whole, out=np.full(len(whole), np.inf), where=whole > 0)


def another_zero(study: Study, part: Part, original: Maps) -> list[Measured]:
    """Rank correlation with the map of a model whose inputs are counted from another zero (input invariance, Kindermans
    et al. 2019)."""
    moved = gradient_maps(study.probe, part.clips, part.clean.predicted, shift=SHIFT)
    words = {"estimator": f"{GRADIENT}, zero moved by {SHIFT:g} deviation", "target": "predicted"}
    return _alike(study, part, "faithfulness/input_invariance", original, moved, words)


def another_class(study: Study, part: Part, original: Maps, **fields: Any) -> list[Measured]:
    """Rank correlation with the map of a class drawn from the others (random logit test, Sixt et al. 2020)."""
    classes = len(study.probe.classes)
    words = {"estimator": GRADIENT, "target": "predicted", **fields}
    if classes < 2:
        return [skipped("faithfulness/random_logit", "there is one class", n=len(part.rows), **words)]
    step = np.random.default_rng(study.seed).integers(1, classes, len(part.rows))
    others = gradient_maps(study.probe, part.clips, (part.clean.predicted + step) % classes)
    return _alike(study, part, "faithfulness/random_logit", original, others, words)


def _alike(study: Study, part: Part, id: str, original: Maps, others: Maps, words: Mapping[str, Any]) -> list[Measured]:
    """Rank correlation of each modality's maps, of the clips whose maps are not constant."""
    lines = []
    for modality in study.modalities:
        one, other = (maps[modality].reshape(len(part.rows), -1) for maps in (original, others))
        rows = np.flatnonzero((np.ptp(one, axis=1) > 0) & (np.ptp(other, axis=1) > 0))
        if not len(rows):
            reason = f"none of {len(one)} clips has a map of {modality} that is not constant"
            lines.append(skipped(id, reason, n=len(one), group=modality, **words))
            continue
        values = rank_correlation(one[rows], other[rows])
        lines.append(
            study.mean(id, values, part.clips.take(rows), group=modality, **words)
        )  # fmt: skip
    return lines
