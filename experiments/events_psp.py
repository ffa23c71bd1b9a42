"""PSP on events that are heard and seen, every second labelled: a synthetic corpus in AVE's layout.

avjax train events_psp

About 30 s on 2 CPU cores; 0.94 of the segments (synthetic), of which 0.57 are background.
"""

from __future__ import annotations

from events_common import AUDIO, EVENTS, VIDEO, VISUAL, events

from avjax.experiment import Experiment
from avjax.models import psp
from avjax.objectives.sequence import SegmentEvents
from avjax.objectives.terms import WithTerms


def experiment(modalities=(AUDIO, VIDEO)) -> Experiment:
    model = psp.Config(modalities, {"event": EVENTS}, visual=VISUAL, hidden=32, dropout=0.2)
    objective = WithTerms(SegmentEvents(), (("pair_similarity", 1.0),))
    return events(model, objective, targets=("eventness",))
