"""MBT on the synthetic demo corpus in which the label depends on both modalities together.

Records: ``avjax prepare demo --data data/congruence --out records/congruence --corpus.interaction congruence``; then
``avjax train demo_congruence_mbt --data.records records/congruence``. Neither modality alone says anything about the
label, so what is above chance was found where the modalities meet.

4 minutes on one CPU core; accuracy about 0.98.
"""

from __future__ import annotations

from demo_common import AUDIO, CONGRUENCE, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import mbt


def experiment() -> Experiment:
    # With no label to learn from one modality alone, the loss stays at chance for some hundred steps; an early fusion
    # layer and small steps get away from it.
    model = mbt.Config(modalities=(AUDIO, VIDEO), classes=CONGRUENCE, size=SIZE, fusion_layer=1)
    return demo(model, steps=1000, learning_rate=1e-3)
