"""Whether explanations are true of the model (section 4): what it says as the parts that they name go, or come."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.contribution.gradients import gradient_times_input
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import CURVE
from avjax.diagnostics.faithfulness import curves
from avjax.diagnostics.faithfulness.sanity import share_drop_agreement
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.players import Players, raw_players
from avjax.diagnostics.probe import Baseline, ModelProbe
from avjax.diagnostics.protocol.explanation import RawScore, sampled_values
from avjax.diagnostics.protocol.study import Found, Part, Study

RANDOM_ORDERS = 5
JOINT = "joint"


def faithfulness(study: Study) -> Found:
    """Deletion, insertion, comprehensiveness, sufficiency by Shapley values and by gradient x input, of raw players.

    Rankings of all players, and of each modality's alone: the joint one may finish one modality first.
    """
    part, found = study.part(study.tier.faithful), Found()
    if set(study.moments) != set(study.modalities):
        reason = "no clip has one of the modalities: it has no mean to stand in for what is removed"
        found.lines.append(skipped("faithfulness/deletion", reason, estimator="Shapley values", fill="mean"))
        return found
    players = raw_players(part.clips.streams)
    baseline = {m: np.asarray(one.mean, np.float32) for m, one in study.moments.items()}
    sampled = sampled_values(study, part, players, baseline)
    explanations = {"Shapley values": sampled.values}
    if isinstance(study.probe, ModelProbe):
        explanations["gradient x input"] = pooled_gradients(study.probe, part, players)
    for name, saliency in explanations.items():
        # The page draws the curves of one explanation.
        curve = name == "Shapley values"
        _curves(study, part, players, baseline, name, saliency, found.arrays if curve else None, found.lines)
    try:
        found.lines += _shares_and_drops(study, part, sampled.share)
    except Undefined as undefined:
        fields = {"estimator": "mm_shap of raw players", "n": len(part.rows)}
        found.lines.append(skipped("faithfulness/share_drop_agreement", undefined.reason, **fields))
    return found


def pooled_gradients(probe: ModelProbe, part: Part, players: Players) -> np.ndarray:
    """[B, n] sum of |x df_c/dx| over what each raw player holds."""
    found, score = np.zeros((len(part.rows), len(players))), RawScore(probe, part)
    for rows in probe.parts(len(part.rows)):
        attribution = gradient_times_input(score, *score.inputs(np.resize(rows, probe.batch)))
        for modality, where in players.where.items():
            size = np.abs(np.asarray(attribution[modality], np.float64))[: len(rows)]
            size = size.reshape(len(rows), where.size, -1).sum(axis=2)
            for row, amounts in zip(rows, size, strict=True):
                found[row] += np.bincount(where.ravel(), amounts, minlength=len(players))
    return found


def _curves(
    study: Study, part: Part, players: Players, baseline: Baseline, name: str, saliency: np.ndarray,
    arrays: dict[str, np.ndarray] | None, lines: list[Measured],
) -> None:  # fmt: skip
    clips, target = part.clips, part.clean.predicted
    rankings = {JOINT: np.ones(len(players), bool)} | {m: players.of(m) for m in study.modalities}
    for ranking, among in rankings.items() if len(study.modalities) > 1 else [(JOINT, rankings[JOINT])]:
        measured: dict[str, list[float]] = {}
        drawn: dict[str, list[np.ndarray]] = {}
        for row in range(len(clips)):

            def value(kept: np.ndarray, row: int = row) -> np.ndarray:
                same = clips.take(np.full(len(kept), row))
                logits = study.probe.varied(same, kept, players, baseline)
                return probabilities(logits)[:, target[row], None]

            order = curves.ranking(saliency[row], among)
            numbers, shown = _of_clip(value, order, len(players), study.seed + row)
            for what, one in numbers.items():
                measured.setdefault(what, []).append(one)
            for what, curve in shown.items():
                drawn.setdefault(what, []).append(curve)
        fields = {"estimator": f"{name}, {ranking} ranking, {len(players)} raw players", "target": "predicted"}
        group = None if ranking == JOINT else ranking
        for what, values in measured.items():
            lines.append(
                study.mean(f"faithfulness/{what}", np.array(values), clips, fill="mean", group=group, **fields)
            )
        for what, values in drawn.items() if arrays is not None else ():
            arrays[f"{CURVE}{ranking}/{what}"] = np.stack(values).astype(np.float32)


def _of_clip(
    value: curves.KeptValue, order: np.ndarray, cells: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers of a clip, and its curves, which the page draws."""
    removed = curves.deletion(value, order, cells, draws=RANDOM_ORDERS, seed=seed)
    added = curves.insertion(value, order, cells, draws=RANDOM_ORDERS, seed=seed)
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
    return numbers, drawn


def _shares_and_drops(study: Study, part: Part, share: np.ndarray) -> list[Measured]:
    """Whether a modality's share says what its absence costs, over clips."""
    clips, said = part.clips, part.clean
    target = np.arange(len(clips)), said.predicted
    lines = []
    for place, modality in enumerate(study.modalities):
        drop = said.probability[target] - study.said(clips.without(modality)).probability[target]

        def correlation(rows: np.ndarray, place: int = place, drop: np.ndarray = drop) -> float:
            return share_drop_agreement(share[rows, place], drop[rows])

        lines.append(
            study.line("faithfulness/share_drop_agreement", correlation, clips, estimator="mm_shap of raw players",
                       fill="drop", group=modality, target="predicted")
        )  # fmt: skip
    return lines
