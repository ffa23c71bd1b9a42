"""Speech recognition from sound alone: what lips add to is measured against this. As ``speech_dcm``, without pictures.

avjax train speech_audio

About 110 s on two CPU cores; word error rate 0.24 (synthetic).
"""

from __future__ import annotations

from speech_dcm import AUDIO, speech

from avjax.experiment import Experiment


def experiment() -> Experiment:
    return speech((AUDIO,))
