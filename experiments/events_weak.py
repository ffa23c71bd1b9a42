"""AVE's own system on events of which clips alone are labelled: a synthetic corpus in AVE's layout.

avjax train events_weak

The maximum over time makes the segments tell where the event is: a mean can be had from segments that know it from
others, through the LSTMs.
"""

from __future__ import annotations

from events_common import AUDIO, EVENTS, VIDEO, VISUAL, events

from avjax.experiment import Experiment
from avjax.models import ave
from avjax.objectives.sequence import SegmentEvents


def experiment() -> Experiment:
    model = ave.Config((AUDIO, VIDEO), {"event": EVENTS + 1}, visual=VISUAL, hidden=32, pool="max", dropout=0.2)
    objective = SegmentEvents(eventness="", supervision="clip")
    return events(model, objective, targets=("event",), records="records/ave_weak", steps=400)
