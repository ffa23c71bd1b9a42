"""CMRAN where only lips against sound tell a forgery: a synthetic corpus in AV-Deepfake1M's layout, without traces.

Neither sound nor picture alone says what is forged, nor does a sum of scores: ``deepfake_klassify`` stays at
chance there. The two have to meet.

    python experiments/synthetic/deepfake1m.py data/lips --traces 0 --clips 2400
    avjax prepare deepfake1m --data data/lips --out records/deepfake1m_lips
    avjax train deepfake_cmran

Under 15 minutes on 2 CPU cores; AUC of clips 0.98, AP@0.5 0.17.
"""

from __future__ import annotations

import dataclasses

from deepfake_common import CLASSES, SEGMENTS, deepfake, encoders

from avjax.experiment import Experiment
from avjax.models import cmran
from avjax.nn.transformer import Size


def experiment() -> Experiment:
    # Without layers within a modality, and without dropout: what has to be found lies between the two alone, and both
    # keep the loss at chance for long.
    size = Size(width=32, depth=0, heads=2, hidden=2)
    widths = {"audio": 32, "visual": 32, "segments": SEGMENTS, "size": size}
    made = deepfake(
        cmran.Config(encoders(8, 16, 32, cells=True), CLASSES, **widths, dropout=0.0), steps=1600, learning_rate=2e-3
    )
    return dataclasses.replace(made, data=dataclasses.replace(made.data, records="records/deepfake1m_lips"))
