"""Contributions of modalities recomputed under a condition (section 1 within section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.contribution import performance
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


def gradient_shares(looking: Looking, states: States, condition: Condition | None) -> list[Measured]:
    """Gradient x input by modality, of the class that the model predicts for the clips as they are."""
    return [
        looking.study.mean("contribution/gradient_x_input", states.mass(modality), looking.clips, estimator=FRONT,
                           group=modality, target="predicted", condition=condition)
        for modality in looking.study.modalities
    ]  # fmt: skip


def of_answers(study: Study, stressed: Clips, said: Said, condition: Condition) -> list[Measured]:
    """Necessity and sufficiency of each modality of changed clips, as the table of ablations has them of clean ones.

    Args:
      said: of the changed clips with all their modalities.
    """
    left = {
        subset: study.said(remaining(study, stressed, subset, study.absence))
        for subset in {
            frozenset(names) for m in study.modalities for names in ([m], [n for n in study.modalities if n != m])
        }
    }
    lines = []
    for modality in study.modalities:
        without, alone = left[frozenset(study.modalities) - {modality}], left[frozenset([modality])]
        fields = {"group": modality, "fill": study.absence, "condition": condition}
        lines += gaps(study, stressed, said, without, alone, **fields)
    return lines


def gaps(study: Study, clips: Clips, said: Said, without: Said, alone: Said, **fields: Any) -> list[Measured]:
    """Necessity and sufficiency of one modality.

    Args:
      said, without, alone: with everything, without the modality, with it alone.
      fields: of the lines: group, fill, condition.
    """
    lost = said.right.astype(np.float64) - without.right
    over_guessing = alone.right.astype(np.float64) - performance.commonest_right(clips.label)
    return [
        study.mean("contribution/necessity", lost, clips, estimator=GAPS, **fields),
        study.mean("contribution/sufficiency", over_guessing, clips, estimator=GAPS, **fields),
    ]


def attention_shares(study: Study, stressed: Clips, condition: Condition) -> list[Measured]:
    """Attention mass, by value and by output, of the groups that see every modality; nothing where there are none."""
    probe = study.probe
    if not isinstance(probe, ModelProbe):
        return []
    try:
        sites = probe.attention(stressed, STATISTICS)
    except ValueError:
        # A model without attention: the stage of attention says so.
        return []
    lines = []
    for estimator, values in mean_shares(study, list(groups(probe, sites)), len(stressed)).items():
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        for place, modality in enumerate(study.modalities if len(rows) else ()):
            lines.append(
                study.mean(f"contribution/{estimator}", values[rows, place], stressed.take(rows), estimator=MEAN,
                           group=modality, condition=condition)
            )  # fmt: skip
    return lines
