"""audio alone on the synthetic demo corpus.

avjax train demo_audio
"""

from __future__ import annotations

from demo_common import AUDIO, CLASSES, SIZE, demo

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return demo(late_fusion.Config(modalities=(AUDIO,), classes=CLASSES, size=SIZE))
