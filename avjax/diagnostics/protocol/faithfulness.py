"""Whether explanations are true of the model (section 4): what it says as the parts that they name go, or come."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency.calibration import probabilities
from avjax.diagnostics.contribution.gradients import gradient_times_input
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import CURVE
from avjax.diagnostics.faithfulness import curves
from avjax.diagnostics.faithfulness.sanity import share_drop_agreement
from avjax.diagnostics.measured import Measured
from avjax.diagnostics.players import Players, raw_players
from avjax.diagnostics.probe import Baseline, ModelProbe
from avjax.diagnostics.protocol.explanation import sampled_values
from avjax.diagnostics.protocol.study import Found, Study
from avjax.streams import Stream

RANDOM_ORDERS = 5
JOINT = "joint"


def faithfulness(study: Study) -> Found:
    """Deletion, insertion, comprehensiveness, sufficiency by Shapley values and by gradient x input, of raw players.

    Rankings of all players, and of each modality's alone: the joint one may finish one modality first.
    """
    rows, found = study.rows(study.tier.faithful), Found()
    clips = study.clips.take(rows)
    if set(study.moments) != set(study.modalities):
        reason = "no clip has one of the modalities: it has no mean to stand in for what is removed"
        found.lines.append(skipped("faithfulness/deletion", reason, estimator="Shapley values", fill="mean"))
        return found
    players = raw_players(clips.streams)
    baseline = {m: np.asarray(one.mean, np.float32) for m, one in study.moments.items()}
    sampled = sampled_values(study, clips, players, baseline)
    explanations = {"Shapley values": sampled.values}
    if isinstance(study.probe, ModelProbe):
        explanations["gradient x input"] = pooled_gradients(study, study.probe, clips, players)
    for name, saliency in explanations.items():
        # The page draws the curves of one explanation.
        curve = name == "Shapley values"
        _curves(study, clips, players, baseline, name, saliency, found.arrays if curve else None, found.lines)
    found.lines += _shares_and_drops(study, clips, sampled.share)
    return found


def pooled_gradients(study: Study, probe: ModelProbe, clips: Clips, players: Players) -> np.ndarray:
    """[B, n] sum of |x df_c/dx| over what each raw player holds."""
    target, rates = study.said(clips).predicted, {m: s.rate for m, s in clips.streams.items()}

    def score(values: dict[str, jax.Array], rest: dict[str, tuple[jax.Array, jax.Array]], wanted: jax.Array):
        return (probe.forward({m: Stream(values[m], *rest[m], rates[m]) for m in rates}) * wanted).sum(axis=1)

    found = np.zeros((len(clips), len(players)))
    for part in probe.parts(len(clips)):
        full = np.resize(part, probe.batch)
        some = clips.take(full)
        rest = {m: (jnp.asarray(s.valid), jnp.asarray(s.start)) for m, s in some.streams.items()}
        wanted = jax.nn.one_hot(target[full], len(probe.classes))
        attribution = gradient_times_input(score, {m: s.values for m, s in some.streams.items()}, (rest, wanted))
        for modality, where in players.where.items():
            size = np.abs(np.asarray(attribution[modality], np.float64))[: len(part)]
            size = size.reshape(len(part), where.size, -1).sum(axis=2)
            for row, amounts in zip(part, size, strict=True):
                found[row] += np.bincount(where.ravel(), amounts, minlength=len(players))
    return found


def _curves(
    study: Study, clips: Clips, players: Players, baseline: Baseline, name: str, saliency: np.ndarray,
    arrays: dict[str, np.ndarray] | None, lines: list[Measured],
) -> None:  # fmt: skip
    target = study.said(clips).predicted
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
            for what, one in _of_clip(value, order, len(players), study.seed + row).items():
                measured.setdefault(what, []).append(one)
            if arrays is not None:
                for what, curve in _drawn(value, order, len(players), study.seed + row).items():
                    drawn.setdefault(what, []).append(curve)
        fields = {"estimator": f"{name}, {ranking} ranking, {len(players)} raw players", "target": "predicted"}
        group = None if ranking == JOINT else ranking
        for what, values in measured.items():
            lines.append(
                study.mean(f"faithfulness/{what}", np.array(values), clips, fill="mean", group=group, **fields)
            )
        for what, values in drawn.items():
            arrays[f"{CURVE}{ranking}/{what}"] = np.stack(values).astype(np.float32)


def _of_clip(value: curves.KeptValue, order: np.ndarray, cells: int, seed: int) -> dict[str, float]:
    removed = curves.deletion(value, order, cells, draws=RANDOM_ORDERS, seed=seed)
    added = curves.insertion(value, order, cells, draws=RANDOM_ORDERS, seed=seed)
    return {
        "deletion": float(removed.area[0]),
        "deletion_against_random": float(removed.against_random[0]),
        "deletion_gap": float(removed.gap[0]),
        "insertion": float(added.area[0]),
        "insertion_against_random": float(added.against_random[0]),
        "comprehensiveness": float(curves.aopc(curves.comprehensiveness(value, order, cells))[0]),
        "sufficiency": float(curves.aopc(curves.sufficiency(value, order, cells))[0]),
    }


def _drawn(value: curves.KeptValue, order: np.ndarray, cells: int, seed: int) -> dict[str, np.ndarray]:
    """What the page draws: p_c over the share of cells, in the order and in random ones."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(order) for _ in range(RANDOM_ORDERS)]
    made = {}
    for name, curve in (("deletion", curves.deletion_curve), ("insertion", curves.insertion_curve)):
        made[name] = curve(value, order, cells)[:, 0]
        made[f"{name}_random"] = np.mean([curve(value, turned, cells)[:, 0] for turned in orders], axis=0)
    return made


def _shares_and_drops(study: Study, clips: Clips, share: np.ndarray) -> list[Measured]:
    """Whether a modality's share says what its absence costs, over clips."""
    said = study.said(clips)
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
