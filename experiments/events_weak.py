"""AVE's own system on events of which clips alone are labelled: a synthetic corpus in AVE's layout.

avjax train events_weak

About 40 s on 2 CPU cores; 0.69 of the segments (synthetic), of which 0.57 are background. A clip is what its strongest
segment says. With the mean in place of the maximum the LSTMs tell every segment what the clip is about, and it is no
longer found where.
"""

from __future__ import annotations

from events_common import AUDIO, EVENTS, VIDEO, VISUAL, events

from avjax.experiment import Experiment
from avjax.models import ave
from avjax.objectives.sequence import SegmentEvents


def experiment() -> Experiment:
    model = ave.Config((AUDIO, VIDEO), {"event": EVENTS + 1}, visual=VISUAL, hidden=16, pool="max", dropout=0.5)
    objective = SegmentEvents(eventness="", supervision="clip")
    return events(model, objective, targets=("event",), records="records/ave_weak", steps=400)
