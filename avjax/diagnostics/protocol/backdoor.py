"""Whether one small patch turns clips into one class, and whether clips that carry it stand out (5.6).

Nobody tells which trigger a backdoor has, or whether there is one. So one is looked for: the patch that most drives
clips into a class, wherever it lies (trigger inversion, after Wang et al. 2019, of a square and its place). A model
without a backdoor has such patches too, of less success: what is found is a bound, and no proof of malice.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Bool, Int

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.measured import Condition, Undefined
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.inside import inside
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.diagnostics.stress.attacks.clips import adversary_of, inputs
from avjax.diagnostics.stress.attacks.universal import UniversalPatch, universal_patch
from avjax.diagnostics.stress.backdoor import (
    OUTLIER,
    activation_clustering,
    attack_success_rate,
    attention_outliers,
    auroc,
    occluded,
    occlusion_peak,
    recombined,
    spectral_signature,
    stickiness,
    strip_entropy,
)

FRAMES, AREA = "video", 0.05
# Steps for each of an attack's; and classes whose patch is looked for: those that are predicted most.
STEPS, TARGETS = 1, 2
# One clip in so many carries the trigger where clips with it are to be told from those without.
EVERY = 8
DONORS, WINDOWS = 8, 3
NO_REFERENCE = (
    "a diagnosis holds no model of the same kind trained on clean clips alone; against the diagnosis of one (--vs) it"
    " is the difference of clean accuracy"
)


def backdoor(study: Study) -> Found:
    """The strongest patch of the classes that are predicted most, and every detector on clips some of which have it.

    Made on every other clip that is attacked, and judged on the rest and on those that are stressed: a detector
    compares the clips of one predicted class. What needs no trigger is of all: answers that stay whatever the other
    modality says, and clips whose attention is an outlier of their class.
    """
    found, probe = Found(), study.probe
    _without_trigger(study, found)
    found.lines.append(
        skipped("stress/backdoor_accuracy_drop", NO_REFERENCE, estimator="accuracy")
    )  # fmt: skip
    part, wide = study.part(study.tier.attacked), _wide(study)
    stream = part.clips.streams.get(FRAMES)
    made = np.arange(0, len(part.rows), 2)
    judged = np.flatnonzero(~np.isin(wide.rows, part.rows[made]))
    reason = ""
    if not isinstance(probe, ModelProbe):
        reason = "a plain function has no gradients here, by which a trigger could be looked for"
    elif stream is None or stream.values.ndim != 5:
        reason = "the model takes no frames, on which a patch could be"
    elif len(judged) < 2:
        reason = "too few clips: some to make a patch on, others to judge it on"
    if reason:
        estimator = f"patch of {100 * AREA:g} % of the frame"
        found.lines += [
            skipped(id, reason, estimator=estimator) for id in ("stress/attack_success", "stress/backdoor_detection")
        ]
        return found
    clips, clean = wide.clips.take(judged), wide.clean.predicted[judged]
    best: tuple[float, int, Clips] | None = None
    for target in _commonest(part.clean.predicted):
        try:
            patch = _patch(study, part.clips.take(made), target)
            stamped = clips.replace({FRAMES: clips.streams[FRAMES].replace(values=_stamp(study, patch, clips))})
            triggered = study.said(stamped).predicted
            rate = functools.partial(_rate, triggered, clips.label, target)
            before = attack_success_rate(clean, clips.label, target)
            value = rate(np.arange(len(clips)))
        except Undefined as undefined:
            found.lines.append(skipped("stress/attack_success", undefined.reason, estimator=_named(study, target)))
            continue
        found.lines.append(
            study.line("stress/attack_success", rate, clips, estimator=_named(study, target), target="label",
                       group=FRAMES, condition=Condition("patch", AREA, study.seed), null_baseline=before)
        )  # fmt: skip
        if best is None or value > best[0]:
            best = (value, target, stamped)
    if best is not None:
        _detected(study, clips, best[2], best[1], found)
    return found


def _wide(study: Study) -> Part:
    """The clips that are attacked, or the more that are stressed."""
    sizes = study.tier.attacked, study.tier.stressed
    return study.part(None if None in sizes else max(sizes))


def _rate(triggered: np.ndarray, label: np.ndarray, target: int, rows: Int[np.ndarray, " R"]) -> float:
    return attack_success_rate(triggered[rows], label[rows], target)


def _named(study: Study, target: int) -> str:
    return f"patch of {100 * AREA:g} % of the frame, made for {study.probe.classes[target]}"


def _commonest(predicted: Int[np.ndarray, " N"]) -> list[int]:
    classes, counts = np.unique(predicted, return_counts=True)
    return classes[np.argsort(-counts, kind="stable")][:TARGETS].tolist()


def _patch(study: Study, clips: Clips, target: int) -> UniversalPatch:
    """Of the clips of other classes: those of the target have nothing to be turned."""
    probe, rows = study.probe, np.flatnonzero(clips.label != target)
    if not len(rows):
        raise Undefined(f"every clip is of the class {study.probe.classes[target]}: there is none to turn")
    values, valid = inputs(clips.take(rows))
    adversary = adversary_of(probe.program, clips, (), batch=probe.batch, seed=study.seed)
    return universal_patch(
        adversary.model, values, clips.label[rows], AREA, valid, modality=FRAMES, target=target,
        steps=STEPS * study.tier.attack_steps, batch=min(probe.batch, len(rows)), seed=study.seed,
    )  # fmt: skip


def _stamp(study: Study, patch: UniversalPatch, clips: Clips) -> np.ndarray:
    values, valid = inputs(clips)
    return patch.applied(values, patch.corners(values[FRAMES], clips.index, study.seed), valid)[FRAMES]


def _detected(study: Study, clips: Clips, stamped: Clips, target: int, found: Found) -> None:
    """AUROC of every detector, of clips of other classes some of which have the trigger among all as they are."""
    carriers = np.flatnonzero(clips.label != target)[::EVERY]
    if not len(carriers):
        return
    rows = np.arange(len(clips))
    mixed = clips.replace({
        FRAMES: clips.streams[FRAMES].replace(
            values=np.where(np.isin(rows, carriers)[:, None, None, None, None], stamped.streams[FRAMES].values,
                            clips.streams[FRAMES].values)
        )
    })  # fmt: skip
    triggered: Bool[np.ndarray, " N"] = np.isin(rows, carriers)
    for name, score in scores(study, mixed).items():
        fields = {
            "estimator": f"{name}; {_named(study, target)}", "group": FRAMES,
            "condition": Condition("patch", AREA, study.seed),
        }  # fmt: skip
        if isinstance(score, Undefined):
            found.lines.append(skipped("stress/backdoor_detection", score.reason, n=len(rows), **fields))
            continue
        found.lines.append(
            study.line(
                "stress/backdoor_detection", lambda chosen, score=score: auroc(score[chosen], triggered[chosen]),
                clips, **fields,
            )
        )  # fmt: skip


def scores(study: Study, clips: Clips) -> dict[str, np.ndarray | Undefined]:
    """Detector -> how suspicious each clip is, or why it cannot say."""
    said = study.said(clips)
    values, _ = inputs(clips)

    def logits(given: dict[str, np.ndarray]) -> np.ndarray:
        return study.probe.logits(
            clips.replace({
                m: stream.replace(values=given[m], valid=given[f"{m}/valid"], start=given[f"{m}/start"])
                for m, stream in clips.streams.items()
            })
        )  # fmt: skip

    @functools.cache
    def features() -> np.ndarray:
        tokens = inside(study.probe, clips).tokens
        if not tokens:
            raise Undefined("the model gives no tokens")
        return np.concatenate([tokens[m] for m in study.modalities if m in tokens], axis=1)

    @functools.cache
    def recombinations() -> np.ndarray:
        others = [m for m in study.modalities if m != FRAMES]
        if not others:
            raise Undefined("there is no other modality whose clips could be exchanged")
        return recombined(logits, values, others[0], clips.index, draws=DONORS, seed=study.seed)

    ways = {
        "attention outliers": lambda: attention_outliers(attention_mass(study, clips), said.predicted),
        "spectral signature": lambda: spectral_signature(features(), said.predicted),
        "activation clustering": lambda: activation_clustering(features(), said.predicted),
        "stickiness": lambda: stickiness(recombinations(), said.predicted),
        "STRIP entropy": lambda: strip_entropy(recombinations()),
        "occlusion": lambda: occlusion_peak(occluded(logits, values, FRAMES, windows=WINDOWS), said.logits),
    }
    found: dict[str, np.ndarray | Undefined] = {}
    for name, way in ways.items():
        try:
            found[name] = way()
        except Undefined as undefined:
            found[name] = undefined
    return found


def attention_mass(study: Study, clips: Clips) -> np.ndarray:
    """[N, columns] mean over heads and queries of the mass on each group of keys, of every site and layer.

    Raises:
      Undefined: where the model has no attention.
    """
    if not isinstance(study.probe, ModelProbe):
        raise Undefined("a plain function does not tell its attention")
    try:
        sites = study.probe.attention(clips, ("mass",))
    except ValueError as error:
        raise Undefined(str(error)) from error
    columns = [np.asarray(layer, np.float64).mean(axis=(1, 2)) for site in sites.values() for layer in site["mass"]]
    return np.concatenate(columns, axis=1)


def _without_trigger(study: Study, found: Found) -> None:
    """What is told of clips as they are."""
    part = study.part(study.tier.attacked)
    clips, predicted = part.clips, part.clean.predicted
    for modality in study.modalities:
        others = [m for m in study.modalities if m != modality]
        fields = {"estimator": f"{DONORS} other clips", "group": modality, "fill": "marginal"}
        if not others or len(clips) < 2:
            reason = "there is no other modality, or no other clip, to exchange"
            found.lines.append(skipped("stress/stickiness", reason, **fields))
            continue
        drawn = np.random.default_rng(study.seed).integers(1, len(clips), (DONORS, len(clips)))
        same = np.zeros(len(clips))
        for shift in drawn:
            donors, mixed = (np.arange(len(clips)) + shift) % len(clips), clips
            given = clips.take(donors)
            mixed = clips.replace({m: given.streams[m] for m in others})
            same += study.said(mixed).predicted == predicted
        found.lines.append(study.mean("stress/stickiness", same / DONORS, clips, **fields))
    wide = _wide(study)
    clips, predicted = wide.clips, wide.clean.predicted
    fields = {"estimator": f"attention beyond {OUTLIER:g} deviations of its predicted class"}
    try:
        score = attention_outliers(attention_mass(study, clips), predicted)
    except Undefined as undefined:
        found.lines.append(skipped("stress/outlying_clips", undefined.reason, n=len(clips), **fields))
        return
    found.lines.append(study.mean("stress/outlying_clips", score > OUTLIER, clips, **fields))
