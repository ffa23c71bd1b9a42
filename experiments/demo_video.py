"""Video alone on the synthetic demo corpus.

avjax train demo_video

50 s on one CPU core; accuracy about 0.49 where 0.50 is the most that pictures can tell.
"""

from __future__ import annotations

from demo_common import CLASSES, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import late_fusion


def experiment() -> Experiment:
    return demo(late_fusion.Config(modalities=(VIDEO,), classes=CLASSES, size=SIZE))
