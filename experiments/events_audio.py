"""PSP with sound alone, beside ``events_psp``.

avjax train events_audio
"""

from __future__ import annotations

from events_common import AUDIO
from events_psp import experiment as psp

from avjax.experiment import Experiment


def experiment() -> Experiment:
    return psp((AUDIO,))
