"""CMRAN where only lips against sound tell a forgery: a synthetic corpus in AV-Deepfake1M's layout, without traces.

avjax train deepfake_cmran --data.records records/deepfake1m_lips
"""

from __future__ import annotations

from deepfake_common import AUDIO, CELLS, CLASSES, SEGMENTS, deepfake

from avjax.experiment import Experiment
from avjax.models import cmran
from avjax.nn.transformer import Size


def experiment() -> Experiment:
    # Without layers within a modality, and without dropout: what has to be found lies between the two alone, and either
    # keeps the loss at chance for long.
    size = Size(width=32, depth=0, heads=2, hidden=2)
    model = cmran.Config((AUDIO, CELLS), CLASSES, audio=32, visual=32, segments=SEGMENTS, size=size, dropout=0.0)
    return deepfake(model, steps=1600, learning_rate=3e-3)
