"""Which modality the answer comes from: Shapley values, attention, gradients, and how far they agree."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution import gradients, shapley, shares
from avjax.diagnostics.contribution.relevance import modality_share
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import AGAINST, ROWS, SHAPLEY, SHARE
from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.players import Baseline, Players
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.relevances import RELEVANCES, carried
from avjax.diagnostics.protocol.sites import STATISTICS, groups, lines_of, shares_of_modalities
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.streams import Stream

IG_STEPS = (32, 288)
TARGETS = ("predicted", "label")
TARGET = {"target": "predicted"}
THROUGH = "through all layers"


def shapley_values(study: Study) -> Found:
    """MM-SHAP (1.5): the tokens of 16 players of each modality dropped; and windows and cells at the mean."""
    part, found = study.part(study.tier.shapley), Found()
    ways: list[tuple[str, str, Players, Baseline | None]] = []
    if isinstance(study.probe, ModelProbe) and "drop" in study.tier.shapley_fills:
        ways.append(("mm_shap", "drop", study.token_players, None))
    if study.means is not None and ("mean" in study.tier.shapley_fills or not ways):
        ways.append(("mm_shap_mean" if ways else "mm_shap", "mean", study.raw_players, study.means))
    for name, fill, players, baseline in ways:
        both = sampled_values(study, part, players, baseline) if baseline is None else raw_values(study)
        sampled = both["predicted"]
        estimator = (
            f"{'tokens' if not players.raw else 'windows and cells'}, {len(players)} players,"
            f" {sampled.permutations} permutations{'' if sampled.converged else ', not converged'}"
        )
        _keep_values(found, name, sampled, part)
        for target, one in both.items():
            fields = {"estimator": estimator, "fill": fill, "target": target}
            try:
                found.lines += _shap_lines(study, part.clips, one, fields)
            except Undefined as undefined:
                found.lines.append(skipped("contribution/mm_shap", undefined.reason, n=len(part.rows), **fields))
            else:
                if one is sampled:
                    found.keep(f"{SHARE}{name}", one.share, part.rows)
    if not ways:
        reason = "no clip has one of the modalities, and tokens cannot be hidden"
        found.lines.append(skipped("contribution/mm_shap", reason, estimator="permutations"))
    return found


@functools.lru_cache(maxsize=1)
def raw_values(study: Study) -> dict[str, shapley.Sampled]:
    """Of raw players at the mean, on the tier's clips for Shapley values; computed once for all stages of a study."""
    return sampled_values(study, study.part(study.tier.shapley), study.raw_players, study.means)


def sampled_values(
    study: Study, part: Part, players: Players, baseline: Baseline | None
) -> dict[str, shapley.Sampled]:  # fmt: skip
    """Of the logit of the class that the model predicts for the whole clip, and of the label's, from the same runs.

    The prediction's say how many permutations are enough.
    """
    count = len(part.rows)
    target = np.tile(np.arange(count), 2), np.concatenate([target_classes(part, name) for name in TARGETS])

    def value(kept: np.ndarray) -> np.ndarray:
        return study.probe.coalitions(part.clips, kept, players, baseline)[:, *target]

    least, most = study.tier.permutations
    both = shapley.sampled(
        value, players.groups, study.modalities, seed=study.seed, permutations=least, most=most, deciding=count
    )
    halves = {"predicted": slice(None, count), "label": slice(count, None)}
    return {
        name: dataclasses.replace(both, first=both.first[rows], second=both.second[rows])
        for name, rows in halves.items()
    }


def target_classes(part: Part, target: str) -> Int[np.ndarray, " R"]:
    """The class of each clip that is explained: the one predicted for the whole clip, or the label."""
    return part.clean.predicted if target == "predicted" else part.clips.label


def _keep_values(found: Found, name: str, sampled: shapley.Sampled, part: Part) -> None:
    found.keep(f"{SHAPLEY}{name}/phi", sampled.values.astype(np.float32), part.rows)
    found.keep(f"{SHAPLEY}{name}/net", sampled.net.astype(np.float32), part.rows)
    found.arrays[f"{SHAPLEY}{name}/groups"] = np.array(sampled.groups)


def _corrected_lines(study: Study, clips: Clips, sampled: shapley.Sampled, fields: dict[str, str]) -> list[Measured]:
    """These fills draw nothing, and would give dummies exactly 0: the floor is of the sampling of permutations."""
    fields = {**fields, "estimator": f"{fields['estimator']}, floor by split halves"}
    rows = np.flatnonzero(sampled.corrected.sum(axis=1) > sampled.resolution)
    if not len(rows):
        reason = "no clip has a player above the noise of sampled permutations"
        return [skipped("contribution/mm_shap_corrected", reason, n=len(clips), **fields)]
    share = shares.share(sampled.corrected[rows])
    return [
        study.mean("contribution/mm_shap_corrected", share[:, place], clips.take(rows), group=modality,
                   null_baseline=1 / len(study.modalities), **fields)
        for place, modality in enumerate(study.modalities)
    ]  # fmt: skip


def _shap_lines(study: Study, clips: Clips, sampled: shapley.Sampled, fields: dict[str, str]) -> list[Measured]:
    lines = []
    chance, error = 1 / len(study.modalities), sampled.share_error
    parts = {"contribution/mm_shap": sampled.share, "contribution/mm_shap_net": sampled.net}
    for place, modality in enumerate(study.modalities):
        for id, values in parts.items():
            own = {} if id.endswith("net") else {"null_baseline": chance}
            lines.append(study.mean(id, values[:, place], clips, group=modality, **fields, **own))
        lines.append(
            number(
                "contribution/mm_shap_error", lambda place=place: error[place], n=len(clips), group=modality, **fields
            )
        )
    return lines + _corrected_lines(study, clips, sampled, fields)


def attention(study: Study) -> Found:
    """1.1 from the kernel's statistics, by site, layer, head and tokens that ask; 1.2 and 1.3 matrix-free."""
    part, probe, found = study.part(study.tier.attention), study.probe, Found()
    if not isinstance(probe, ModelProbe):
        reason = "a plain function does not tell its attention"
        found.lines.append(skipped("contribution/attention_share", reason, estimator="kernel statistics"))
        return found
    try:
        sites = probe.attention(part.clips, STATISTICS)
    except ValueError as error:
        found.lines.append(skipped("contribution/attention_share", str(error), estimator="kernel statistics"))
        return found
    asking = list(groups(probe, sites))
    for one in asking:
        lines_of(study, part, one, found)
    shares_of_modalities(study, part, asking, found)
    if study.tier.relevance:
        _relevances(study, probe, part, found)
    else:
        reason = f"left out of the tier {study.tier.name}"
        found.lines += [skipped(f"contribution/{name}", reason, estimator=THROUGH) for name in RELEVANCES]
    return found


def _relevances(study: Study, probe: ModelProbe, part: Part, found: Found) -> None:
    """Rollout and Chefer's rule, where relevance can be carried through the model."""
    clips = part.clips
    tokens = {m: int(np.prod(grid)) for m, grid in probe.grids.items()}
    try:
        joined = carried(study)(clips, part.clean.predicted)
        for name, whole in joined.items():
            share = modality_share(whole, {m: tokens[m] for m in study.modalities})
            found.keep(f"{SHARE}{name}", share, part.rows)
            for place, modality in enumerate(study.modalities):
                found.lines.append(
                    study.mean(f"contribution/{name}", share[:, place], clips, estimator=THROUGH,
                               group=modality, **(TARGET if name == "chefer_share" else {}))
                )  # fmt: skip
    except Undefined as undefined:
        for name in RELEVANCES:
            found.lines.append(skipped(f"contribution/{name}", undefined.reason, estimator=THROUGH))


@dataclasses.dataclass(frozen=True)
class RawScore:
    """Logit of one class of each row, as a function of raw values.

    Of one model and the same rates all are equal, and compiled once.

    Attributes:
      rates: Hz of each modality.
    """

    probe: ModelProbe
    rates: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, probe: ModelProbe, clips: Clips) -> RawScore:
        """For clips that are sampled like these."""
        return cls(probe, tuple((m, float(stream.rate)) for m, stream in clips.streams.items()))

    def __call__(
        self, values: Mapping[str, jax.Array], rest: Mapping[str, tuple[jax.Array, jax.Array]], wanted: jax.Array
    ) -> Float[Array, " B"]:
        streams = {m: Stream(values[m], *rest[m], rate) for m, rate in self.rates}
        return (self.probe.forward(streams) * wanted).sum(axis=1)

    def inputs(
        self, part: Part, rows: Int[np.ndarray, " R"], target: str = "predicted"
    ) -> tuple[dict[str, np.ndarray], tuple[Any, ...]]:
        """Values of some clips, and the other arguments; the class is the one that the model predicts for them, or
        their label."""
        streams = part.clips.take(rows).streams
        rest = {m: (jnp.asarray(stream.valid), jnp.asarray(stream.start)) for m, stream in streams.items()}
        wanted = jax.nn.one_hot(target_classes(part, target)[rows], len(self.probe.classes))
        return {m: stream.values for m, stream in streams.items()}, (rest, wanted)


def by_gradients(study: Study) -> Found:
    """Gradient x input and integrated gradients of raw clips (1.4), from silence and the mean frame."""
    part, probe, found = study.part(study.tier.gradients), study.probe, Found()
    if not isinstance(probe, ModelProbe):
        reason = "a plain function has no gradients here"
        found.lines.append(skipped("contribution/gradient_x_input", reason, estimator="raw clips"))
        return found
    clips, score = part.clips, RawScore.of(probe, part.clips)
    amounts: dict[str, list[np.ndarray]] = {"gradient_x_input": [], "integrated_gradients": []}
    nets: dict[str, list[np.ndarray]] = {"gradient_x_input": [], "integrated_gradients": []}
    errors = []
    size = probe.backward_batch(len(clips))
    for rows in probe.parts(len(clips), size):
        values, arguments = score.inputs(part, np.resize(rows, size))
        baseline = {m: np.broadcast_to(_baseline(study, m), values[m].shape).astype(np.float32) for m in values}
        integrated = gradients.integrated_gradients(
            score, values, baseline, arguments, steps=IG_STEPS[0], most_steps=IG_STEPS[1]
        )
        errors.append(integrated.error[: len(rows)])
        for name, attribution in (
            ("gradient_x_input", gradients.gradient_times_input(score, values, arguments)),
            ("integrated_gradients", integrated.attribution),
        ):
            amount, net = _sums(study, attribution, len(rows))
            amounts[name].append(amount)
            nets[name].append(net)
    for name in amounts:
        try:
            share = shares.share(np.concatenate(amounts[name]))
        except Undefined as undefined:
            found.lines.append(skipped(f"contribution/{name}", undefined.reason, estimator="raw clips"))
            continue
        found.keep(f"{SHARE}{name}", share, part.rows)
        net, fill = np.concatenate(nets[name]), {"fill": "mean"} if name == "integrated_gradients" else {}
        for place, modality in enumerate(study.modalities):
            fields = {"estimator": "raw clips", "group": modality, **fill, **TARGET}
            found.lines.append(study.mean(f"contribution/{name}", share[:, place], clips, **fields))
            found.lines.append(study.mean(f"contribution/{name}_net", net[:, place], clips, **fields))
    found.lines.append(
        study.mean("faithfulness/completeness_error", np.concatenate(errors), clips,
                   estimator=f"integrated gradients, {IG_STEPS[0]} to {IG_STEPS[1]} steps", fill="mean", **TARGET)
    )  # fmt: skip
    own = tuple(np.concatenate(of["gradient_x_input"]) for of in (amounts, nets))
    _of_labels(study, part, score, size, own, found)
    return found


def _of_labels(
    study: Study, part: Part, score: RawScore, size: int, sums: tuple[Float[np.ndarray, "R M"], ...], found: Found
) -> None:
    """Gradient x input of the label; of integrated gradients it would take as many passes again.

    Args:
      sums: ``_sums`` of the prediction, which is the label where the model is right.
    """
    amounts, nets = sums
    wrong = np.flatnonzero(~part.clean.right)
    for places in study.probe.parts(len(wrong), size):
        rows = wrong[places]
        values, arguments = score.inputs(part, np.resize(rows, size), "label")
        attribution = gradients.gradient_times_input(score, values, arguments)
        amounts[rows], nets[rows] = _sums(study, attribution, len(rows))
    fields = {"estimator": "raw clips", "target": "label"}
    try:
        share = shares.share(amounts)
    except Undefined as undefined:
        found.lines.append(skipped("contribution/gradient_x_input", undefined.reason, **fields))
        return
    for place, modality in enumerate(study.modalities):
        for id, of in (("gradient_x_input", share), ("gradient_x_input_net", nets)):
            found.lines.append(study.mean(f"contribution/{id}", of[:, place], part.clips, group=modality, **fields))


def _sums(
    study: Study, attribution: Mapping[str, Any], count: int
) -> tuple[Float[np.ndarray, "B M"], Float[np.ndarray, "B M"]]:
    """Sums of |attribution| and of attribution over each modality, of the first clips."""
    own = [np.asarray(attribution[m], np.float64)[:count].reshape(count, -1) for m in study.modalities]
    return tuple(np.stack([one.sum(axis=1) for one in of], axis=1) for of in (map(np.abs, own), own))


def _baseline(study: Study, modality: str) -> np.ndarray | float:
    """Silence; the mean frame; the mean of features."""
    moments = study.moments.get(modality)
    return 0.0 if moments is None or study.clips.streams[modality].values.ndim == 2 else moments.mean


def agreement(study: Study, arrays: dict[str, np.ndarray]) -> Found:
    """Whether the estimators rank clips alike (1.14), by their shares of the first modality, where they met."""
    found = Found()
    names = [name.removeprefix(SHARE) for name in arrays if name.startswith(SHARE)]
    for one, other in itertools.combinations(names, 2):
        _, first, second = np.intersect1d(
            arrays[f"{ROWS}{SHARE}{one}"], arrays[f"{ROWS}{SHARE}{other}"], return_indices=True
        )
        left = arrays[SHARE + one][first, 0].astype(np.float64)
        right = arrays[SHARE + other][second, 0].astype(np.float64)
        rows = arrays[f"{ROWS}{SHARE}{one}"][first]
        fields = {"estimator": f"{one}{AGAINST}{other}", "group": study.modalities[0]}
        if len(rows) < 3:
            reason = f"{len(rows)} clips have both"
            found.lines.append(skipped("contribution/estimator_agreement", reason, n=len(rows), **fields))
            continue
        found.lines.append(
            study.line(
                "contribution/estimator_agreement",
                lambda chosen, left=left, right=right: float(rank_correlation(left[chosen], right[chosen])),
                study.clips.take(rows), **fields,
            )
        )  # fmt: skip
    return found
