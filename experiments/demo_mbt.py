"""MBT on the synthetic demo corpus.

avjax train demo_mbt

80 s on one CPU core; accuracy about 0.99.
"""

from __future__ import annotations

from demo_common import AUDIO, CLASSES, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import mbt


def experiment() -> Experiment:
    return demo(mbt.Config(modalities=(AUDIO, VIDEO), classes=CLASSES, size=SIZE, fusion_layer=2, bottlenecks=4))
