"""audio alone on spoken and handwritten digits.

avjax train digits_audio
"""

from __future__ import annotations

from digits_common import AUDIO, CLASSES, SIZE, digits

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return digits(late_fusion.Config(modalities=(AUDIO,), classes=CLASSES, size=SIZE))
