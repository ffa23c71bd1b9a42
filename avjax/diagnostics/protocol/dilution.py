"""A modality made to say less (5.7), of all clips or of one class: what is left of its part in the answer (1.10)."""

from __future__ import annotations

import numpy as np

from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.measured import Condition, Undefined
from avjax.diagnostics.protocol.ablation import remaining
from avjax.diagnostics.protocol.contributions import GAPS, gaps
from avjax.diagnostics.protocol.imbalance import ratio_line, true_probability
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.diagnostics.stress.corruption import corrupted
from avjax.diagnostics.stress.imbalance import diluted, in_classes

NOISE = {"audio": "audio/white_noise", "video": "video/gaussian_noise"}
"""What makes a modality bad for some classes."""
ALONE = "diagnosed clips, a forward pass of it alone"
PARTS = ("necessity", "sufficiency", "imbalance_ratio")


def dilution(study: Study, part: Part, found: Found) -> None:
    """Accuracy over the weight of another clip's signal; and of every weight what is lost without the modality, what
    it gives alone, and how far it is ahead of the others, of the clips that have everything."""
    clips, whole = part.clips, part.clips.complete
    for modality in study.modalities:
        rest = frozenset(study.modalities) - {modality}
        without = study.said(remaining(study, clips, rest, study.absence))
        others = {
            m: without if len(rest) == 1 else study.said(remaining(study, clips, frozenset([m]), study.absence))
            for m in rest
        }
        for weight in study.tier.rates:
            fields = {"group": modality, "condition": Condition("dilution", weight, study.seed)}
            given = diluted(clips, modality, weight, seed=study.seed)
            said = study.said(given)
            found.lines.append(study.mean("stress/dilution_accuracy", said.right, clips, estimator="argmax", **fields))
            alone = study.said(remaining(study, given, frozenset([modality]), study.absence))
            fields["fill"] = study.absence
            if not len(whole):
                reason = "no clip has every modality"
                found.lines += [skipped(f"contribution/{id}", reason, estimator=GAPS, **fields) for id in PARTS]
                continue
            some = clips.take(whole)
            found.lines += gaps(study, some, *(one.take(whole) for one in (said, without, alone)), **fields)
            true = {m: true_probability(one.take(whole)) for m, one in {modality: alone, **others}.items()}
            found.lines.append(ratio_line(study, some, true, modality, estimator=ALONE, **fields))


def in_one_class(study: Study, part: Part, found: Found) -> None:
    """Noise in one modality of the class that is told worst, and of all classes but that."""
    clips = part.clips
    classes = np.unique(clips.label)
    recall = [part.clean.right[clips.label == k].mean() for k in classes]
    worst = int(classes[np.argmin(recall)])
    name, rest = study.probe.classes[worst], [k for k in classes.tolist() if k != worst]
    severity = max(study.tier.severities)
    for modality in study.modalities:
        fields = {"group": modality, "condition": Condition(NOISE.get(modality, "noise"), severity, study.seed)}
        try:
            if modality not in NOISE:
                raise Undefined(f"there is no corruption of {modality}")
            if not rest:
                raise Undefined("all clips are of one class")
            streams = corrupted(clips.streams, NOISE[modality], severity, seed=study.seed, index=clips.index)
        except Undefined as undefined:
            found.lines.append(
                skipped("stress/class_noise_accuracy", undefined.reason, estimator="argmax", n=len(clips), **fields)
            )
            continue
        for words, chosen in ((f"in {name}, told worst", [worst]), (f"in all but {name}", rest)):
            said = study.said(in_classes(clips, clips.replace(streams), chosen))
            own = np.flatnonzero(np.isin(clips.label, chosen))
            for whom, rows in (("all clips", np.arange(len(clips))), ("the clips with noise", own)):
                found.lines.append(
                    study.mean(
                        "stress/class_noise_accuracy", said.right[rows], clips.take(rows),
                        estimator=f"noise {words}; {whom}", **fields,
                    )
                )  # fmt: skip
