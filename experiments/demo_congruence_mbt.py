"""MBT on the synthetic demo corpus in which the label depends on both modalities together.

Records: ``avjax prepare demo --data data/congruence --out records/congruence --corpus.interaction congruence``; then
``avjax train demo_congruence_mbt --data.records records/congruence``. Neither modality alone says anything about the
label, so what is above chance was found where the modalities meet.
"""

from __future__ import annotations

from demo_common import AUDIO, CONGRUENCE, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import mbt


def experiment() -> Experiment:
    return demo(mbt.Config(modalities=(AUDIO, VIDEO), classes=CONGRUENCE, size=SIZE, fusion_layer=2))
