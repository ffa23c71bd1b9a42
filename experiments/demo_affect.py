"""How agitated a voice is and how the corners of a mouth are drawn, as values, on the synthetic demo corpus.

avjax train demo_affect

Regression by concordance correlation (CCC): arousal is only heard, the mouth only seen, so that neither modality alone
can do both. 80 s on one CPU core.
"""

from __future__ import annotations

import dataclasses

from demo_common import AUDIO, SIZE, VIDEO, demo

from avjax.experiment import Experiment
from avjax.models import mbt
from avjax.objectives.regression import Regression

VALUES = ("arousal", "mouth_corners")


def experiment() -> Experiment:
    made = demo(
        mbt.Config(modalities=(AUDIO, VIDEO), classes={"values": len(VALUES)}, size=SIZE, fusion_layer=2, pool="gap")
    )
    return dataclasses.replace(made, objective=Regression("ccc"), data=dataclasses.replace(made.data, values=VALUES))
