"""RJCMA, RJCMA of sound or pictures alone, and JCA, on affect_rjcma's SYNTHETIC valence and arousal over time.

avjax compare compare_affect --seeds 0
"""

from __future__ import annotations

from affect_rjcma import AUDIO, STEPS, VALUES, VIDEO, WIDTHS, affect, model

from avjax.experiment import Comparison
from avjax.models import jca


def comparison() -> Comparison:
    return Comparison(
        {
            "audio": affect(model("audio")),
            "video": affect(model("video")),
            "jca": affect(jca.Config((AUDIO, VIDEO), VALUES, WIDTHS, segments=STEPS, dropout=0.1)),
            "rjcma": affect(model("audio", "video")),
        }
    )
