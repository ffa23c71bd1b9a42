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
from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.contribution import gradients, shapley, shares
from avjax.diagnostics.contribution.attention import mass_shares, output_shares, value_weighted_shares
from avjax.diagnostics.contribution.relevance import Flow, Traced, chefer_joint, modality_share, rollout
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import AGAINST, ROWS, SHARE
from avjax.diagnostics.drift.divergence import rank_correlation
from avjax.diagnostics.measured import Measured, Undefined
from avjax.diagnostics.players import Baseline, Players
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.nn.statistics import VALUE_MASS, Site
from avjax.streams import Stream

IG_STEPS = (32, 256)
STATISTICS = ("mass", "group_output", VALUE_MASS, "entropy")
SHARES = {
    "attention_share": mass_shares,
    "value_weighted_share": value_weighted_shares,
    "output_share": output_shares,
}
TARGETS = ("predicted", "label")
TARGET = {"target": "predicted"}
RELEVANCES = {"chefer_share": chefer_joint, "rollout_share": rollout}
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
        fields = {"estimator": estimator, "fill": fill, **TARGET}
        try:
            found.keep(f"{SHARE}{name}", sampled.share, part.rows)
        except Undefined as undefined:
            found.lines.append(skipped("contribution/mm_shap", undefined.reason, n=len(part.rows), **fields))
        else:
            for target, one in both.items():
                found.lines += _shap_lines(study, part.clips, one, {**fields, "target": target})
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


def _shap_lines(study: Study, clips: Clips, sampled: shapley.Sampled, fields: dict[str, str]) -> list[Measured]:
    lines = []
    chance, error = 1 / len(study.modalities), sampled.share_error
    parts = {"contribution/mm_shap": sampled.share, "contribution/mm_shap_net": sampled.net}
    for place, modality in enumerate(study.modalities):
        for id, values in parts.items():
            own = {} if id.endswith("net") else {"null_baseline": chance}
            lines.append(study.mean(id, values[:, place], clips, group=modality, **fields, **own))
        # These fills draw nothing: a player that changes nothing has exactly 0 in any permutation, and no floor.
        reason = (
            "nothing is drawn in this fill: players without effect have exactly 0, and there is no floor to take off"
        )
        lines.append(skipped("contribution/mm_shap_corrected", reason, n=len(clips), group=modality, **fields))
        lines.append(
            number(
                "contribution/mm_shap_error", lambda place=place: error[place], n=len(clips), group=modality, **fields
            )
        )
    return lines


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
    by_estimator: dict[str, list[np.ndarray]] = {name: [] for name in SHARES}
    for name, site in sites.items():
        found.lines += _site_lines(study, part.clips, name, site, by_estimator)
    for estimator, layers in by_estimator.items():
        if layers:
            # Mean over layers and over the tokens that ask, of what asks at least two modalities.
            found.keep(f"{SHARE}{estimator}", np.mean(layers, axis=0), part.rows)
    if study.tier.relevance:
        _relevances(study, probe, part, found)
    else:
        reason = f"left out of the tier {study.tier.name}"
        found.lines += [skipped(f"contribution/{name}", reason, estimator=THROUGH) for name in RELEVANCES]
    return found


def _site_lines(
    study: Study, clips: Clips, name: str, site: Site, by_estimator: dict[str, list[np.ndarray]]
) -> list[Measured]:
    """Means over heads and tokens that ask; by head the lift, which the page shows as a map."""
    lines = []
    sizes = np.array(site.keys.lengths)
    found = {estimator: of(site, {}) for estimator, of in SHARES.items()}
    for layer, (place, group) in itertools.product(range(len(site["mass"])), enumerate(site.queries.names)):
        there = np.all([one.defined[layer, :, :, place].all(axis=1) for one in found.values()], axis=0)
        shown = {estimator: one.values[layer, there][:, :, place] for estimator, one in found.items()}
        seen = np.flatnonzero((shown["attention_share"] > 0).any(axis=(0, 1)))
        if not there.any() or len(seen) < 2:
            continue
        some = clips.take(np.flatnonzero(there))
        where = {"layer": f"{name} {layer}: {group}"}
        for column in seen:
            key = site.keys.names[column]
            even = {"attention_share": float(sizes[column] / sizes[seen].sum())}
            for estimator, values in shown.items():
                own = {"null_baseline": even[estimator]} if estimator in even else {}
                lines.append(
                    study.mean(f"contribution/{estimator}", values[..., column].mean(axis=1), some, group=key,
                               estimator="mean of heads", **where, **own)
                )  # fmt: skip
            position = int(np.flatnonzero(seen == column)[0])
            mean = shown["attention_share"].mean(axis=0)[:, seen]
            for head, shares_of_head in enumerate(mean):
                lines.append(
                    number(
                        "contribution/attention_lift", functools.partial(_lift, shares_of_head, sizes[seen], position),
                        estimator="mean of clips", n=len(some), group=key, head=head, **where,
                    )
                )  # fmt: skip
        begin, end = site.queries.ranges[place]
        entropy = np.asarray(site["entropy"][layer][:, :, begin:end], np.float64)[there]
        lines.append(
            study.mean("contribution/attention_entropy", entropy.mean(axis=(1, 2)), some, group=group,
                       estimator="mean of heads and tokens", layer=f"{name} {layer}")
        )  # fmt: skip
        columns = [site.keys.names.index(m) for m in study.modalities if m in site.keys.names]
        if len(columns) == len(study.modalities) and there.all() and set(columns) <= set(seen):
            for estimator, values in shown.items():
                by_estimator[estimator].append(values.mean(axis=1)[:, columns])
    return lines


def _lift(mean: np.ndarray, sizes: np.ndarray, place: int) -> float:
    return float(shares.lift(mean, sizes)[place])


def _relevances(study: Study, probe: ModelProbe, part: Part, found: Found) -> None:
    """Rollout and Chefer's rule, where relevance can be carried through the model."""
    clips = part.clips
    target = jax.nn.one_hot(part.clean.predicted, len(probe.classes))
    tokens = {m: int(np.prod(grid)) for m, grid in probe.grids.items()}

    def score(streams: dict[str, Stream], wanted: jax.Array) -> jax.Array:
        return (probe.forward(streams) * wanted).sum(axis=1)

    def padded(some: np.ndarray) -> tuple[dict[str, Stream], jax.Array]:
        full = np.resize(some, probe.batch)
        return dict(clips.take(full).streams), target[full]

    try:
        complete = np.flatnonzero(
            [all(s.valid[row].any() for s in clips.streams.values()) for row in range(len(clips))]
        )
        if not len(complete):
            raise Undefined("no clip has every modality")
        streams, wanted = padded(complete[:1])
        flow = Flow.of(score, jax.tree.map(jnp.asarray, streams), wanted)

        @compiled
        def relevance(streams: dict[str, Stream], wanted: jax.Array) -> dict[str, dict[str, jax.Array]]:
            traced = Traced.of(flow, score, streams, wanted)
            return {name: of(traced) for name, of in RELEVANCES.items()}

        parts = []
        for some in probe.parts(len(clips)):
            got = relevance(*padded(some))
            parts.append(jax.tree.map(lambda x, count=len(some): np.asarray(x)[:count], got))
        joined = jax.tree.map(lambda *of: np.concatenate(of), *parts)
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
    # Every point of the path is a backward pass: rows that only fill a batch would cost as much as clips.
    size = min(probe.batch, len(clips))
    for rows in probe.parts(len(clips)):
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
    _of_labels(study, part, score, size, found)
    return found


def _of_labels(study: Study, part: Part, score: RawScore, size: int, found: Found) -> None:
    """Gradient x input of the label: one pass more, where integrated gradients would take as many again."""
    parts = []
    for rows in study.probe.parts(len(part.rows)):
        values, arguments = score.inputs(part, np.resize(rows, size), "label")
        parts.append(_sums(study, gradients.gradient_times_input(score, values, arguments), len(rows)))
    amounts, nets = (np.concatenate(of) for of in zip(*parts, strict=True))
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
