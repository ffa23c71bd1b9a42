"""Modalities taken away, under every fill: what each gives, what they give together, and what answers survive."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import agreement, calibration, robustness
from avjax.diagnostics.contribution import interaction, performance
from avjax.diagnostics.contribution.performance import Subset, subsets
from avjax.diagnostics.contribution.probing import FOLDS, probe_hits
from avjax.diagnostics.contribution.shapley import coalitions
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.diagnosis.arrays import CLEAN, CONFIDENCE, LABEL, LOGITS, RIGHT
from avjax.diagnostics.fills import Fill, absent, others, with_others
from avjax.diagnostics.measured import Measured, OfSums, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.answers import ESTIMATORS, aurc, changes, ece
from avjax.diagnostics.protocol.inside import inside
from avjax.diagnostics.protocol.study import Found, Said, Study, joined

PERMUTATIONS = 5
MARGINAL_DRAWS = 3


def ablation(study: Study) -> Found:
    """1.6, 1.7, 1.9, 1.10, 1.13 and section 3 of every subset of modalities under every fill of the tier."""
    found, clips = Found(), study.clips
    clean = study.clean
    found.arrays |= {LABEL: np.asarray(clips.label), **kept(CLEAN, clean)}
    found.lines += clean_lines(study, clean, clips)
    for fill in study.fills:
        unknown = [m for m in study.modalities if m not in study.moments]
        if unknown and fill in ("mean", "noise"):
            reason = f"no clip has {joined(unknown)}: it has no mean"
            found.lines.append(skipped("contribution/ablation_accuracy", reason, estimator="argmax", fill=fill))
            continue
        said = {subset: study.said(remaining(study, clips, subset, fill)) for subset in subsets(study.modalities)}
        said[frozenset(study.modalities)] = clean
        found.lines += _matrix(study, said, fill)
        found.lines += _contributions(study, said, fill)
        for modality in study.modalities:
            rest = said[frozenset(study.modalities) - {modality}]
            found.lines += changes(study, clips, clean, rest, fill=fill, group=modality)
            name = f"without {modality} ({fill})"
            # Of one fill everything, from which the rest can be computed anew; of the others what is paired.
            found.arrays |= kept(name, rest) if fill == study.fills[0] else {f"{RIGHT}{name}": rest.right}
        if len(study.modalities) > 1:
            found.lines += _over_subsets(study, said, fill)
            found.lines += _between(study, said, fill)
            found.lines += _gaps(study, said, fill)
    if len(study.modalities) > 1:
        found.lines += _probe_gaps(study)
        found.lines += _interactions(study)
        found.lines += _perception(study)
    return found


def kept(name: str, said: Said) -> dict[str, np.ndarray]:
    """Arrays of the answers under a condition."""
    logits = np.asarray(said.logits, np.float32)
    return {f"{RIGHT}{name}": said.right, f"{CONFIDENCE}{name}": said.confidence, f"{LOGITS}{name}": logits}


def remaining(study: Study, clips: Clips, subset: Subset, fill: Fill, seed: int | None = None) -> Clips:
    """The clips with these modalities alone."""
    seed = study.seed if seed is None else seed
    for modality in study.modalities:
        if modality not in subset:
            clips = absent(clips, modality, fill, seed=seed, of=study.moments.get(modality))
    return clips


def clean_lines(study: Study, said: Said, clips: Clips) -> list[Measured]:
    """Of the clips as they are."""
    return [
        study.mean("stress/accuracy", said.right, clips, estimator="argmax"),
        study.mean("contribution/majority_accuracy", performance.commonest_right(clips.label), clips,
                   estimator="commonest class of these clips"),
        study.line("consistency/ece", ece(said), clips, estimator=ESTIMATORS["ece"]),
        study.mean(
            "consistency/brier", calibration.brier(said.probability, said.label), clips, estimator=ESTIMATORS["brier"]
        ),
        study.mean(
            "consistency/nll", calibration.negative_log_likelihood(said.logits, said.label), clips, estimator="logits"
        ),
        study.line("consistency/aurc", aurc(said), clips, estimator=ESTIMATORS["aurc"]),
    ]  # fmt: skip


def _matrix(study: Study, said: Mapping[Subset, Said], fill: Fill) -> list[Measured]:
    lines = []
    for subset, one in said.items():
        fields = {"fill": fill, "group": joined([m for m in study.modalities if m in subset])}
        nll = calibration.negative_log_likelihood(one.logits, one.label)
        lines += [
            study.mean("contribution/ablation_accuracy", one.right, study.clips, estimator="argmax", **fields),
            study.mean("contribution/ablation_nll", nll, study.clips, estimator="logits", **fields),
            study.line(
                "contribution/ablation_ece", ece(one), study.clips, estimator=ESTIMATORS["ece"], **fields
            ),
        ]  # fmt: skip
    return lines


def _over_subsets(study: Study, said: Mapping[Subset, Said], fill: Fill) -> list[Measured]:
    """Mean and worst accuracy over the sets of modalities of which some are missing, but not all."""
    right = {
        tuple(m for m in study.modalities if m in subset): one.right for subset, one in said.items() if subset
    }  # fmt: skip

    def over(rows: Int[np.ndarray, " R"]) -> robustness.OverSubsets:
        accuracy = {tested: float(yes[rows].mean()) for tested, yes in right.items()}
        return robustness.over_subsets(accuracy, study.modalities)["missing"]

    fields = {"estimator": "accuracy", "group": "missing", "fill": fill}
    return [
        study.line("stress/subset_average", lambda rows: over(rows).average, study.clips, **fields),
        study.line("stress/subset_worst", lambda rows: over(rows).worst, study.clips, **fields),
    ]


def _contributions(study: Study, said: Mapping[Subset, Said], fill: Fill) -> list[Measured]:
    """SHAPE, necessity, sufficiency and the fine-grained valuation."""
    right = {subset: one.right for subset, one in said.items()}
    columns = np.stack([*right.values(), performance.commonest_right(study.clips.label)], axis=1)

    def of(measure: Callable[[dict[Subset, float]], float]) -> OfSums:
        """A measure of the table of accuracies of any rows."""

        def of_sums(sums: Float[np.ndarray, " k"], rows: int) -> float:
            # Without any modality it is the commonest class, as SHAPE has it, not what the model says of nothing.
            *accuracies, guess = (sums / rows).tolist()
            return measure(dict(zip(right, accuracies, strict=True)) | {frozenset(): guess})

        return OfSums(columns, of_sums)

    @functools.cache
    def shares(*accuracies: float) -> dict[str, float]:
        return performance.shape(dict(zip(every, accuracies, strict=True)), study.modalities)

    def shape(table: dict[Subset, float], modalities: Sequence[str]) -> dict[str, float]:
        # All modalities' values come at once, and a bootstrap asks for one after the other of the same draws.
        return shares(*(table[subset] for subset in every))

    lines, every = [], subsets(study.modalities)
    fields = {"estimator": "accuracy; without any, the commonest class", "fill": fill}
    measures = {
        "contribution/shape": shape,
        "contribution/necessity": performance.necessity,
        "contribution/sufficiency": performance.sufficiency,
    }
    valued = performance.valuation(np.stack(list(right.values())))
    for place, modality in enumerate(study.modalities):
        for id, measure in measures.items():
            lines.append(
                study.line(
                    id, of(lambda table, f=measure, m=modality: f(table, study.modalities)[m]), study.clips,
                    group=modality, **fields,
                )
            )  # fmt: skip

        def normalised(table: dict[Subset, float], modality: str = modality) -> float:
            over = performance.denominator(table, study.modalities, "range")
            return shape(table, study.modalities)[modality] / over

        lines += [
            study.line(
                "contribution/shape_normalised", of(normalised), study.clips, group=modality,
                **fields | {"estimator": "range"},
            ),
            study.mean(
                "contribution/valuation", valued[:, place], study.clips, estimator="right", fill=fill, group=modality
            ),
        ]  # fmt: skip
    lines.append(
        study.line(
            "contribution/cooperation", of(lambda table: performance.cooperation(table, study.modalities)),
            study.clips, **fields,
        )
    )  # fmt: skip
    return lines


def _between(study: Study, said: Mapping[Subset, Said], fill: Fill) -> list[Measured]:
    """What each modality says alone, beside the others and beside all together."""
    alone = {modality: said[frozenset([modality])] for modality in study.modalities}
    wrong = ~said[frozenset(study.modalities)].right
    either = np.any([one.right for one in alone.values()], axis=0)
    fields = {"fill": fill, "estimator": "argmax"}
    lines = [
        study.mean("consistency/modality_confusion", 100.0 * (one.right & wrong), study.clips, group=m, **fields)
        for m, one in alone.items()
    ]
    lines.append(study.mean("consistency/any_confusion", 100.0 * (either & wrong), study.clips, **fields))
    first, *rest = study.modalities
    # All classes overlap whatever the model says.
    most = max(min(5, len(study.probe.classes) - 1), 1)
    for second in rest:
        pair = alone[first].probability, alone[second].probability
        soft, top = agreement.soft_agreement(*pair), agreement.top_overlap(*pair, k=most)
        group = {"group": joined([first, second]), "fill": fill}
        lines += [
            study.mean("consistency/cross_modal", soft, study.clips, estimator="probabilities", **group),
            study.mean("consistency/top_overlap", top, study.clips, estimator=f"top {most}", **group),
        ]
    return lines


def _gaps(study: Study, said: Mapping[Subset, Said], fill: Fill) -> list[Measured]:
    """What a model of each modality alone knows that this one does not make of it."""
    lines = []
    for modality in study.modalities:
        fields = {"estimator": "accuracy", "group": modality, "fill": fill}
        if modality not in study.alone:
            reason = f"it wants a model of {modality} alone: --alone {modality}=RUN"
            lines.append(skipped("contribution/utilisation_gap", reason, **fields))
            continue
        # ``performance.utilisation_gap`` of any rows.
        gap = study.alone[modality].right.astype(np.float64) - said[frozenset([modality])].right
        lines.append(study.mean("contribution/utilisation_gap", gap, study.clips, **fields))
    return lines


def _probe_gaps(study: Study) -> list[Measured]:
    """The same of encoders: what a line through the tokens of each modality tells, of both models."""
    lines = []
    for modality in study.modalities:
        fields = {"estimator": f"linear probe of pooled tokens, {FOLDS} folds", "group": modality}
        try:
            if modality not in study.alone:
                raise Undefined(f"it wants a model of {modality} alone: --alone {modality}=RUN")
            clips = remaining(study, study.clips, frozenset([modality]), study.absence)
            joint = inside(study.probe, clips).tokens if isinstance(study.probe, ModelProbe) else {}
            both = study.alone[modality].tokens, joint.get(modality)
            if any(tokens is None for tokens in both):
                raise Undefined(f"a model has no tokens of {modality} to probe")
            hits = [
                probe_hits(tokens, clips.label, clips.source, seed=study.seed).astype(np.float64) for tokens in both
            ]
        except Undefined as undefined:
            lines.append(skipped("contribution/probe_gap", undefined.reason, **fields))
            continue
        lines.append(study.mean("contribution/probe_gap", hits[0] - hits[1], clips, **fields))
    return lines


def _interactions(study: Study) -> list[Measured]:
    """InterSHAP of whole modalities, the others' values for what is absent.

    Of the probability, as published; and of the logit, since a sum of what each modality says is no sum of
    probabilities any more.
    """
    target = np.arange(len(study.clips)), study.clean.predicted
    order = coalitions(len(study.modalities))
    values = {of: np.zeros((len(order), len(study.clips))) for of in ("logit", "probability")}
    for row, kept in enumerate(order):
        subset = frozenset(m for m, there in zip(study.modalities, kept, strict=True) if there)
        draws = 1 if kept.all() else MARGINAL_DRAWS
        for draw in range(draws):
            said = study.said(remaining(study, study.clips, subset, "marginal", study.seed + draw))
            values["logit"][row] += said.logits[target] / draws
            values["probability"][row] += said.probability[target] / draws
    lines = []
    for of, worth in values.items():
        fields = {"target": "predicted", "fill": "marginal", "estimator": f"{of}, {MARGINAL_DRAWS} draws"}
        lines += _interaction_lines(study, worth, fields)
    return lines


def _interaction_lines(study: Study, values: Float[np.ndarray, "S N"], fields: Mapping[str, str]) -> list[Measured]:
    """Of a value of every coalition of whole modalities."""
    pairs = interaction.interactions(values)
    lines = [
        study.line(id, intershap(values, local=local), study.clips, **fields)
        for id, local in (("contribution/intershap", False), ("contribution/intershap_local", True))
    ]
    for one, other in itertools.combinations(range(len(study.modalities)), 2):
        names = joined([study.modalities[one], study.modalities[other]])
        # Each pair's interaction is divided between its two entries.
        lines.append(
            study.mean("contribution/interaction", 2 * pairs[:, one, other], study.clips, group=names, **fields)
        )
    return lines


def intershap(values: Float[np.ndarray, "S N"], *, local: bool) -> OfSums:
    """``interaction.intershap`` of any rows; what counts as rounding is that of all of them."""
    pairs, resolution = interaction.interactions(values), interaction.rounding(values)
    columns = (np.abs(pairs) if local else pairs).reshape(len(pairs), -1)

    def of(sums: Float[np.ndarray, " k"], rows: int) -> float:
        return interaction.share_between(np.abs(sums / rows).reshape(pairs.shape[1:]), resolution)

    return OfSums(columns, of)


def _perception(study: Study) -> list[Measured]:
    """Perceptual score: each modality permuted over clips."""
    clips, right = study.clips, study.clean.right
    guess, lines = performance.commonest_right(clips.label), []
    for modality in study.modalities:
        permuted = np.stack([
            study.said(with_others(clips, modality, others(clips, modality, seed=study.seed + 1 + number))).right
            for number in range(PERMUTATIONS)
        ])  # fmt: skip
        for name in ("model", "task"):

            def score(rows: Int[np.ndarray, " R"], name: str = name, permuted: np.ndarray = permuted) -> float:
                z = float(right[rows].mean()) if name == "model" else 1 - float(guess[rows].mean())
                return performance.perceptual_score(right[rows], permuted[:, rows], z=z)

            lines.append(
                study.line(
                    "contribution/perceptual_score", score, clips, group=modality, fill="marginal",
                    estimator=f"{name}-normalised, {PERMUTATIONS} permutations",
                )
            )  # fmt: skip
    return lines


def additive(study: Study) -> Found:
    """EMAP (1.8): every clip's sound with every clip's pictures."""
    clips = study.part(study.tier.additive).clips
    count = len(clips)
    first, *rest = study.modalities
    logits = np.empty((count, count, len(study.probe.classes)), np.float32)
    for row in range(count):
        here = np.full(count, row)
        mixed = clips
        for modality in rest:
            mixed = with_others(mixed, modality, np.arange(count))
        logits[row] = study.probe.logits(with_others(mixed, first, here))

    def accuracy(values: np.ndarray, chosen: Int[np.ndarray, " R"]) -> float:
        return float((values.argmax(axis=1) == clips.label[chosen]).mean())

    def gap(chosen: Int[np.ndarray, " R"]) -> float:
        own = logits[np.ix_(chosen, chosen)]
        return interaction.emap_gap(own, lambda values: accuracy(values, chosen))

    line = study.line(
        "contribution/emap_gap", gap, clips, estimator=f"accuracy, {count} clips, {first} against the rest",
        fill="marginal",
    )  # fmt: skip
    return Found([line])
