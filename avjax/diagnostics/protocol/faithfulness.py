"""Whether explanations are true of the model (section 4): what it says as the parts that they name go, or come."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution.gradients import slopes
from avjax.diagnostics.contribution.shapley import Sampled
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import CURVE
from avjax.diagnostics.faithfulness import complexity, curves, infidelity
from avjax.diagnostics.faithfulness.sanity import share_drop_agreement
from avjax.diagnostics.fills import absent
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.players import Players
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.explanation import TARGETS, RawScore, raw_values, sampled_values
from avjax.diagnostics.protocol.randomised import gradient_maps
from avjax.diagnostics.protocol.removal import Removal
from avjax.diagnostics.protocol.study import Found, Part, Study

JOINT = "joint"
SHAPLEY, GRADIENT = "Shapley values", "gradient x input"
SENSITIVITY = ("max_sensitivity", "avg_sensitivity", "local_lipschitz")


@dataclasses.dataclass(frozen=True)
class Effort:
    """How closely one set of clips is looked at.

    Attributes:
      fractions: shares of the cells at which a curve is taken.
      orders: random orders of each curve.
      sets: random sets of each size, for sensitivity-n and infidelity.
      disturbances: of the input, for max-sensitivity.
    """

    fractions: tuple[float, ...] = curves.FRACTIONS
    orders: int = 5
    sets: int = 24
    disturbances: int = 8


IMPUTED = Effort(fractions=tuple(step / 5 for step in range(6)), orders=1)
"""Of what is removed and made up from its neighbours, which costs more than the model."""
SIZES = (1 / 8, 1 / 4)
"""Of random sets, as shares of all players: those of half of them hardly differ in sum."""
RADIUS = 0.05
"""Of disturbances, as a share of the standard deviation of a modality's values."""
LEAST = 0.01
"""Of the greatest attribution of a clip: what is above it counts, whatever the attribution's unit is."""


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Attributions of raw players.

    Attributes:
      ranked: what players are ranked by.
      signed: what the score is said to lose with each.
    """

    name: str
    ranked: Float[np.ndarray, "B n"]
    signed: Float[np.ndarray, "B n"]


@dataclasses.dataclass(frozen=True, eq=False)
class Erased:
    """One clip as its players go and come.

    Attributes:
      numbers: by the names of definitions.
      curves: of deletion and insertion, and of random orders.
    """

    numbers: dict[str, float]
    curves: dict[str, Float[np.ndarray, " Q"]]


def faithfulness(study: Study) -> Found:
    """Deletion, insertion, ERASER, infidelity, sensitivity-n and complexity of Shapley values and of gradient x input.

    What is removed is at the mean; in deletion it is also made up from its neighbours. Rankings are of all raw players,
    and of each modality's alone: the joint one may finish one modality first.
    """
    part, found = study.part(study.tier.faithful), Found()
    if study.means is None:
        reason = "no clip has one of the modalities: it has no mean to stand in for what is removed"
        found.lines.append(skipped("faithfulness/deletion", reason, estimator=SHAPLEY, fill="mean"))
        return found
    effort, removal = Effort(), Removal(study, part)
    sampled, explanations = _values(study, part), {}
    for target in TARGETS:
        values = sampled[target].values
        explanations[target] = [Explanation(SHAPLEY, values, values)]
        if isinstance(study.probe, ModelProbe):
            explanations[target].append(by_gradient(study, part, target))
    rankings = _rankings(study)
    for one, of_label in zip(*explanations.values(), strict=True):
        for ranking, among in rankings.items():
            clips = erased(study, removal, one, effort, among)
            found.lines += erasure(study, part, one, ranking, clips)
            # The page draws the curves of one explanation.
            for what in clips[0].curves if one.name == SHAPLEY else ():
                drawn = np.stack([own.curves[what] for own in clips])
                found.arrays[f"{CURVE}{ranking}/{what}"] = drawn.astype(np.float32)
        # Where the label is what is predicted, nothing new is asked.
        clips = erased(study, removal.towards(part.clips.label), of_label, effort, rankings[JOINT])
        found.lines += erasure(study, part, of_label, JOINT, clips, target="label")
        found.lines += prediction(study, removal, one, effort)
        found.lines += form(study, part, one)
        found.lines += without_outline(study, part, one)
    found.lines += steadiness(study, part, effort)
    try:
        found.lines += shares_and_drops(study, part, sampled["predicted"].share)
    except Undefined as undefined:
        fields = {"estimator": "mm_shap of raw players", "fill": "mean", "n": len(part.rows)}
        found.lines.append(skipped("faithfulness/share_drop_agreement", undefined.reason, **fields))
    return found


def _values(study: Study, part: Part) -> dict[str, Sampled]:
    """Shapley values, of the stage that has sampled them where its clips are among those."""
    wide = study.part(study.tier.shapley)
    if not np.isin(part.rows, wide.rows).all():
        return sampled_values(study, part, study.raw_players, study.means)
    places = np.searchsorted(wide.rows, part.rows)
    return {
        target: dataclasses.replace(sampled, first=sampled.first[places], second=sampled.second[places])
        for target, sampled in raw_values(study).items()
    }


def _rankings(study: Study) -> dict[str, Bool[np.ndarray, " n"]]:
    players = study.raw_players
    alone = {m: players.of(m) for m in study.modalities} if len(study.modalities) > 1 else {}
    return {JOINT: np.ones(len(players), bool), **alone}


def by_gradient(study: Study, part: Part, target: str = "predicted") -> Explanation:
    """sum of |x df_c/dx| over what each raw player holds, and what a step to the mean would change; of the class that
    is predicted, or of the label."""
    slope, score = [], RawScore.of(study.probe, part.clips)
    size = study.probe.backward_batch(len(part.rows))
    for rows in study.probe.parts(len(part.rows), size):
        values, arguments = score.inputs(part, np.resize(rows, size), target)
        found = slopes(score, values, arguments)
        slope.append({m: np.asarray(found[m], np.float64)[: len(rows)] for m in values})
    ranked, signed = 0.0, 0.0
    for modality, where in study.raw_players.where.items():
        own = np.concatenate([one[modality] for one in slope])
        values = np.asarray(part.clips.streams[modality].values, np.float64)
        number = len(study.raw_players)
        ranked = ranked + _pooled(np.abs(values * own), where, number)
        signed = signed + _pooled((values - study.means[modality]) * own, where, number)
    return Explanation(GRADIENT, ranked, signed)


def _pooled(amounts: np.ndarray, where: np.ndarray, players: int) -> Float[np.ndarray, "B n"]:
    """[B, T, ...] summed over what each player holds."""
    flat = amounts.reshape(len(amounts), where.size, -1).sum(axis=2)
    return np.stack([np.bincount(where.ravel(), row, minlength=players) for row in flat])


def estimator(one: Explanation, players: Players, *words: str) -> str:
    return ", ".join((one.name, *words, f"{len(players)} raw players"))


def erased(
    study: Study, removal: Removal, one: Explanation, effort: Effort, among: Bool[np.ndarray, " n"]
) -> list[Erased]:
    """What becomes of every clip as these players go in the order of the explanation."""

    def ask(row: int) -> Erased:
        order = curves.ranking(one.ranked[row], among)
        return _of_clip(removal.probability(row), order, len(among), effort, study.seed + row)

    return removal.answered(ask)


def erasure(
    study: Study, part: Part, one: Explanation, ranking: str, clips: Sequence[Erased], **fields: Any
) -> list[Measured]:
    """Areas of the curves by one ranking.

    Args:
      clips: ``erased``.
      fields: of the lines, such as a condition.
    """
    named = {"estimator": estimator(one, study.raw_players, f"{ranking} ranking"), "target": "predicted"}
    named |= {"fill": "mean", "group": None if ranking == JOINT else ranking, **fields}
    return [
        study.mean(f"faithfulness/{what}", np.array([own.numbers[what] for own in clips]), part.clips, **named)
        for what in clips[0].numbers
    ]


def without_outline(study: Study, part: Part, one: Explanation) -> list[Measured]:
    """Deletion where what is removed is made up from its neighbours (ROAD): no grey patch tells where it was."""

    def ask(row: int) -> curves.Area:
        order = curves.ranking(one.ranked[row], np.ones(len(study.raw_players), bool))
        common = {"fractions": IMPUTED.fractions, "draws": IMPUTED.orders, "seed": study.seed + row}
        return curves.deletion(removal.probability(row), order, len(study.raw_players), **common)

    removal = Removal(study, part, "imputed")
    areas = removal.answered(ask)
    words = estimator(one, study.raw_players, f"{JOINT} ranking", f"{len(IMPUTED.fractions)} shares")
    named = {"estimator": words, "target": "predicted", "fill": "imputed"}
    numbers = {
        "deletion": [area.area[0] for area in areas],
        "deletion_against_random": [area.against_random[0] for area in areas],
        "deletion_gap": [area.gap[0] for area in areas],
    }
    return [study.mean(f"faithfulness/{what}", np.array(of), part.clips, **named) for what, of in numbers.items()]


def _of_clip(value: curves.KeptValue, order: np.ndarray, cells: int, effort: Effort, seed: int) -> Erased:
    common = {"fractions": effort.fractions, "draws": effort.orders, "seed": seed}
    removed = curves.deletion(value, order, cells, **common)
    added = curves.insertion(value, order, cells, **common)
    numbers = {
        "deletion": float(removed.area[0]),
        "deletion_against_random": float(removed.against_random[0]),
        "deletion_gap": float(removed.gap[0]),
        "insertion": float(added.area[0]),
        "insertion_against_random": float(added.against_random[0]),
        "comprehensiveness": float(curves.aopc(curves.comprehensiveness(value, order, cells))[0]),
        "sufficiency": float(curves.aopc(curves.sufficiency(value, order, cells))[0]),
    }
    drawn = {}
    for name, found in (("deletion", removed), ("insertion", added)):
        drawn |= {name: found.curve[:, 0], f"{name}_random": found.random_curve[:, 0]}
    return Erased(numbers, drawn)


def prediction(
    study: Study, removal: Removal, one: Explanation, effort: Effort, **fields: Any
) -> list[Measured]:  # fmt: skip
    """Sensitivity-n of two sizes of random sets, and infidelity over all of them, of the class's logit."""
    players = study.raw_players
    sizes = sorted({max(round(share * len(players)), 1) for share in SIZES})
    every = np.ones(len(players), bool)
    sets = {size: infidelity.subsets(every, size, effort.sets, study.seed) for size in sizes}
    together = np.concatenate(list(sets.values()))

    def ask(row: int) -> tuple[float, dict[int, float | str]]:
        value, signed, correlations = removal.logit(row), one.signed[row], {}
        for size, removed in sets.items():
            try:
                correlations[size] = float(infidelity.sensitivity_n(signed, value, removed)[0])
            except Undefined as undefined:
                correlations[size] = undefined.reason
        change = (value(every[None]) - value(~together))[:, 0]
        # A set that is removed is a perturbation in units of each player's step to the mean.
        return infidelity.infidelity(signed, together.astype(np.float64), change), correlations

    answers = removal.answered(ask)
    common = {"target": "predicted", "fill": "mean", **fields}
    words = f"sets of {' and '.join(map(str, sizes))}"
    lines = [
        study.mean("faithfulness/infidelity", np.array([found for found, _ in answers]), removal.part.clips,
                   estimator=estimator(one, players, words), **common)
    ]  # fmt: skip
    for size in sizes:
        lines.append(
            mean_of_defined(study, "faithfulness/sensitivity_n", [found[size] for _, found in answers], removal.part,
                            estimator(one, players, f"sets of {size}"), **common)
        )  # fmt: skip
    return lines


def mean_of_defined(
    study: Study, id: str, values: Sequence[float | str], part: Part, estimator: str, **fields: Any
) -> Measured:
    """Mean over the clips that have a value; the others have a reason in its place, and are counted."""
    there = np.array([not isinstance(value, str) for value in values])
    if not there.any():
        reason = f"none of {len(values)} clips has a value: {values[0]}"
        return skipped(id, reason, n=len(values), estimator=estimator, **fields)
    if not there.all():
        estimator = f"{estimator}; {there.sum()} of {len(values)} clips have a value"
    known = np.array([value for value in values if not isinstance(value, str)])
    return study.mean(id, known, part.clips.take(np.flatnonzero(there)), estimator=estimator, **fields)


def form(study: Study, part: Part, one: Explanation, **fields: Any) -> list[Measured]:
    """How concentrated the attribution is."""
    sizes = np.abs(one.signed)
    measures = {
        "complexity": complexity.entropy,
        "normalised_entropy": lambda row: complexity.normalised_entropy(row, np.ones(row.shape, bool)),
        "effective_tokens": complexity.effective_tokens,
        "inverse_participation": complexity.inverse_participation,
        "gini": complexity.gini,
        "effective_complexity": _counting,
    }
    lines = []
    for id, measure in measures.items():
        values = []
        for row in sizes:
            try:
                values.append(float(measure(row)))
            except Undefined:
                values.append("it has no attribution")
        above = (f"above {100 * LEAST:g} % of the greatest",) if id == "effective_complexity" else ()
        lines.append(
            mean_of_defined(study, f"faithfulness/{id}", values, part, estimator(one, study.raw_players, *above),
                            target="predicted", **fields)
        )  # fmt: skip
    return lines


def _counting(row: Float[np.ndarray, " n"]) -> float:
    """Effective complexity of sizes over the greatest of them."""
    if not row.any():
        raise Undefined("it has no attribution")
    return float(complexity.effective_complexity(row / row.max(), LEAST))


def steadiness(study: Study, part: Part, effort: Effort, **fields: Any) -> list[Measured]:
    """How much the maps of gradient x input behind the front end move when raw clips do, within 5 % of their spread
    (Yeh et al. 2019)."""
    named = {"estimator": f"{GRADIENT}, {effort.disturbances} draws within {100 * RADIUS:g} % of each modality's"
             " deviation", "target": "predicted", **fields}  # fmt: skip
    if not isinstance(study.probe, ModelProbe):
        reason = "a plain function has no gradients here"
        return [skipped(f"faithfulness/{id}", reason, n=len(part.rows), **named) for id in SENSITIVITY]
    random = np.random.default_rng(study.seed)
    before, changed, distance = _map(study, part, part.clips), [], []
    for _ in range(effort.disturbances):
        clips, moved = part.clips, 0.0
        for modality, stream in clips.streams.items():
            radius = RADIUS * float(np.mean(study.moments[modality].deviation))
            noise = random.uniform(-radius, radius, stream.values.shape).astype(np.float32)
            clips = clips.replace({modality: stream.replace(values=stream.values + noise)})
            moved = moved + (np.asarray(noise, np.float64) ** 2).reshape(len(noise), -1).sum(axis=1)
        changed.append(_map(study, part, clips))
        distance.append(np.sqrt(moved))
    values: dict[str, list[float | str]] = {id: [] for id in SENSITIVITY}
    for row in range(len(part.rows)):
        others, far = np.stack(changed)[:, row], np.stack(distance)[:, row]
        try:
            ratio = infidelity.relative_changes(before[row], others)
            # Of a disturbance its length is all that counts.
            lipschitz = infidelity.local_lipschitz(before[row], others, np.zeros(1), far[:, None])
        except Undefined as undefined:
            found = (undefined.reason,) * len(SENSITIVITY)
        else:
            found = float(ratio.max()), float(ratio.mean()), lipschitz
        for id, one in zip(SENSITIVITY, found, strict=True):
            values[id].append(one)
    return [mean_of_defined(study, f"faithfulness/{id}", values[id], part, **named) for id in SENSITIVITY]


def _map(study: Study, part: Part, clips: Clips) -> Float[np.ndarray, "B J"]:
    """All modalities' maps of the class that is predicted for the part's own clips."""
    maps = gradient_maps(study.probe, clips, part.clean.predicted)
    return np.concatenate([maps[m].reshape(len(clips), -1) for m in study.modalities], axis=1)


def shares_and_drops(study: Study, part: Part, share: np.ndarray) -> list[Measured]:
    """Whether a modality's share says what its absence costs, over clips; absent is at the mean, as players were."""
    clips, said = part.clips, part.clean
    target = np.arange(len(clips)), said.predicted
    lines = []
    for place, modality in enumerate(study.modalities):
        gone = absent(clips, modality, "mean", of=study.moments[modality])
        drop = said.probability[target] - study.said(gone).probability[target]

        def correlation(rows: np.ndarray, place: int = place, drop: np.ndarray = drop) -> float:
            return share_drop_agreement(share[rows, place], drop[rows])

        lines.append(
            study.line("faithfulness/share_drop_agreement", correlation, clips, estimator="mm_shap of raw players",
                       fill="mean", group=modality, target="predicted")
        )  # fmt: skip
    return lines
