"""MBT on spoken and handwritten digits.

avjax train digits_mbt

5 to 7 minutes on one CPU core; accuracy 0.77 to 0.88, by the speaker held out.
"""

from __future__ import annotations

from digits_common import AUDIO, CLASSES, SIZE, VIDEO, digits

from avjax.experiment import Experiment
from avjax.models import mbt


def experiment() -> Experiment:
    return digits(mbt.Config(modalities=(AUDIO, VIDEO), classes=CLASSES, size=SIZE, fusion_layer=2, bottlenecks=4))
