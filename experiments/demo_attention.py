"""Merged MBT on the synthetic demo corpus, with a loss on what its attention reports.

avjax train demo_attention --objective.balance 1

Two modalities in one sequence, so that every token chooses between them. All terms are logged as
``validation/attention/...``; which of them training moves is up to their weights, 0 unless given:
``--objective.balance``, ``--objective.entropy``, ``--objective.decorrelation``, ``--objective.stability``. The second
view, which stability compares, hears the clip in noise. 150 s on one CPU core; accuracy about 0.98.
"""

from __future__ import annotations

import dataclasses

from demo_common import AUDIO, CLASSES, SIZE, VIDEO, demo

from avjax.data.augment import WaveformJitter
from avjax.data.frontend import Augment
from avjax.experiment import Experiment
from avjax.models import mbt
from avjax.objectives.attention import AttentionTerms
from avjax.objectives.classification import Classification


def experiment() -> Experiment:
    made = demo(mbt.Config(modalities=(AUDIO, VIDEO), classes=CLASSES, size=SIZE, fusion_layer=2, fusion="merged"))
    noise = WaveformJitter(gain=(0.0, 0.0), snr=(0.0, 0.0), noise_probability=1.0)
    return dataclasses.replace(
        made,
        objective=AttentionTerms(Classification(label_smoothing=0.1)),
        second_view=dataclasses.replace(made.frontend, augment=Augment(waveform=noise)),
    )
