"""Audio alone on the synthetic demo corpus.

avjax train demo_audio

20 s on one CPU core; accuracy about 0.49 where 0.50 is the most that sound can tell.
"""

from __future__ import annotations

from demo_common import AUDIO, CLASSES, SIZE, demo

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return demo(late_fusion.Config(modalities=(AUDIO,), classes=CLASSES, size=SIZE))
