"""Late fusion, trained jointly, on the synthetic demo corpus in which the label depends on both modalities together.

Records: ``avjax prepare demo --data data/congruence --out records/congruence --corpus.interaction congruence``; then
``avjax train demo_congruence_late --data.records records/congruence``. Neither modality alone says anything about the
label, so a sum of what each says cannot either: chance, 0.5.

4 minutes on one CPU core.
"""

from __future__ import annotations

from demo_common import AUDIO, CONGRUENCE, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    # As many steps as MBT, which needs them.
    model = late_fusion.Config(modalities=(AUDIO, VIDEO), classes=CONGRUENCE, size=SIZE)
    return demo(model, steps=1000, learning_rate=1e-3)
