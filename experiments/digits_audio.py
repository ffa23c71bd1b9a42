"""Audio alone on spoken and handwritten digits.

avjax train digits_audio

4 to 5 minutes on one CPU core; accuracy 0.52 to 0.64, by the speaker held out.
"""

from __future__ import annotations

from digits_common import AUDIO, CLASSES, SIZE, digits

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return digits(late_fusion.Config(modalities=(AUDIO,), classes=CLASSES, size=SIZE))
