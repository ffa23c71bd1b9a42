"""PSP with pictures alone, beside ``events_psp``.

avjax train events_video
"""

from __future__ import annotations

from events_common import VIDEO
from events_psp import experiment as psp

from avjax.experiment import Experiment


def experiment() -> Experiment:
    return psp((VIDEO,))
