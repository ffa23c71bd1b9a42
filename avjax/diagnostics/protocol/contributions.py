"""Contributions of modalities recomputed under a condition (section 1 within section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution import performance
from avjax.diagnostics.definitions import skipped
from avjax.diagnostics.measured import Condition, Measured
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.ablation import remaining
from avjax.diagnostics.protocol.looking import Looking
from avjax.diagnostics.protocol.saliency import States
from avjax.diagnostics.protocol.sites import STATISTICS, groups, mean_shares
from avjax.diagnostics.protocol.study import Said, Study

FRONT = "behind the front end"
GAPS = "accuracy; without any, the commonest class"
MEAN = "mean of heads and layers"
SHARE = "attention_share"


def gradient_shares(looking: Looking, states: States, condition: Condition | None, under: str = "") -> list[Measured]:
    """Gradient x input by modality, of the class that the model predicts for the clips as they are.

    Args:
      under: what the estimator's name says of how the condition was made.
    """
    return [
        looking.study.mean("contribution/gradient_x_input", states.mass(modality), looking.clips,
                           estimator=f"{FRONT}{under}", group=modality, target="predicted", condition=condition)
        for modality in looking.study.modalities
    ]  # fmt: skip


def of_answers(study: Study, clips: Clips, said: Said, condition: Condition | None, under: str = "") -> list[Measured]:
    """Necessity and sufficiency of each modality of these clips, as the table of ablations has them of all.

    Args:
      said: of the clips with all their modalities.
      under: what the estimator's name says of the clips.
    """
    left = {
        subset: study.said(remaining(study, clips, subset, study.absence))
        for subset in {
            frozenset(names) for m in study.modalities for names in ([m], [n for n in study.modalities if n != m])
        }
    }
    lines = []
    for modality in study.modalities:
        without, alone = left[frozenset(study.modalities) - {modality}], left[frozenset([modality])]
        fields = {"group": modality, "fill": study.absence, "condition": condition}
        lines += gaps(study, clips, said, without, alone, estimator=f"{GAPS}{under}", **fields)
    return lines


def gaps(
    study: Study, clips: Clips, said: Said, without: Said, alone: Said, *, estimator: str = GAPS, **fields: Any
) -> list[Measured]:
    """Necessity and sufficiency of one modality.

    Args:
      said, without, alone: with everything, without the modality, with it alone.
      fields: of the lines: group, fill, condition.
    """
    lost = said.right.astype(np.float64) - without.right
    over_guessing = alone.right.astype(np.float64) - performance.commonest_right(clips.label)
    return [
        study.mean("contribution/necessity", lost, clips, estimator=estimator, **fields),
        study.mean("contribution/sufficiency", over_guessing, clips, estimator=estimator, **fields),
    ]


def attention_shares(study: Study, clips: Clips, condition: Condition | None, under: str = "") -> list[Measured]:
    """Attention mass, by value and by output, of the groups that see every modality; a reason where there are none.

    Args:
      under: what the estimator's name says of the clips.
    """
    probe, words = study.probe, {"estimator": f"{MEAN}{under}", "condition": condition}
    if not isinstance(probe, ModelProbe):
        return [skipped(f"contribution/{SHARE}", "a plain function does not tell its attention", **words)]
    try:
        sites = probe.attention(clips, STATISTICS)
    except ValueError as error:
        return [skipped(f"contribution/{SHARE}", str(error), n=len(clips), **words)]
    lines = []
    for estimator, values in mean_shares(study, list(groups(probe, sites)), len(clips)).items():
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        for place, modality in enumerate(study.modalities if len(rows) else ()):
            lines.append(
                study.mean(f"contribution/{estimator}", values[rows, place], clips.take(rows), group=modality, **words)
            )
    if not lines:
        reason = "no group of tokens sees every modality"
        lines.append(skipped(f"contribution/{SHARE}", reason, n=len(clips), **words))
    return lines
