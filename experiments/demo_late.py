"""Late fusion, trained jointly, on the synthetic demo corpus.

avjax train demo_late

70 s on one CPU core; accuracy about 0.99.
"""

from __future__ import annotations

from demo_common import AUDIO, CLASSES, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return demo(late_fusion.Config(modalities=(AUDIO, VIDEO), classes=CLASSES, size=SIZE))
