"""KLASSify on a synthetic corpus in AV-Deepfake1M's layout: which clips are forged, and where.

Forgeries leave a trace in the sound or in the picture that was forged, so that either modality finds its own, and a sum
of scores finds all; an ideal observer of one alone reaches an AUC of 0.833.

    python experiments/synthetic/deepfake1m.py data/deepfake1m
    avjax prepare deepfake1m --data data/deepfake1m --out records/deepfake1m
    avjax train deepfake_klassify

About a minute and a half on 2 CPU cores; AUC of clips and AP@0.75 about 1.00.
"""

from __future__ import annotations

from deepfake_common import CLASSES, SEGMENTS, deepfake, encoders

from avjax.experiment import Experiment
from avjax.models import klassify


def experiment() -> Experiment:
    model = klassify.Config(encoders(4, 8, 16, cells=False), CLASSES, frames=SEGMENTS, width=32, dilations=(1, 2))
    return deepfake(model, steps=240, learning_rate=3e-3, per_modality=0.5)
