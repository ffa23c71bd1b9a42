"""Late fusion, trained jointly, on spoken and handwritten digits.

avjax train digits_late
"""

from __future__ import annotations

from digits_common import AUDIO, CLASSES, SIZE, VIDEO, digits

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return digits(late_fusion.Config(modalities=(AUDIO, VIDEO), classes=CLASSES, size=SIZE))
