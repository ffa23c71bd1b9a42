"""KLASSify on a synthetic corpus in AV-Deepfake1M's layout: which clips are forged, and where.

avjax train deepfake_klassify
"""

from __future__ import annotations

from deepfake_common import AUDIO, CLASSES, SEGMENTS, VIDEO, deepfake

from avjax.experiment import Experiment
from avjax.models import klassify


def experiment() -> Experiment:
    model = klassify.Config((AUDIO, VIDEO), CLASSES, frames=SEGMENTS, width=32, dilations=(1, 2))
    return deepfake(model, steps=300, learning_rate=3e-3, per_modality=0.5)
