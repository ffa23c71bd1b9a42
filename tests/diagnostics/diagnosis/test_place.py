"""What sets a line apart, in words: without what, and never without nothing."""

from __future__ import annotations

import pytest

from avjax.diagnostics.definitions import number
from avjax.diagnostics.diagnosis.panels.panel import place
from avjax.diagnostics.measured import Condition


@pytest.mark.parametrize(
    ("id", "fields", "words"),
    [
        ("consistency/agreement", {"group": "audio", "fill": "drop"}, "without audio, drop"),
        ("consistency/ece_change", {"group": "video", "fill": "mean"}, "without video, mean"),
        ("consistency/any_confusion", {"fill": "drop"}, "drop"),
        # Right by the sound alone, and both modalities against each other.
        ("consistency/modality_confusion", {"group": "audio", "fill": "drop"}, "audio, drop"),
        ("consistency/cross_modal", {"group": "audio+video", "fill": "drop"}, "audio+video, drop"),
        ("consistency/agreement", {"condition": Condition("rain", 3)}, "rain, 3"),
        ("contribution/shape", {"group": "audio", "fill": "drop"}, "audio, drop"),
        ("contribution/attention_lift", {"layer": "fusion 0", "head": 2, "group": "audio"},
         "audio, layer fusion 0, head 2"),
        (
            "consistency/kappa", {"group": "audio", "fill": "drop", "condition": Condition("missing", 0.5)},
            "without audio, drop, missing, 0.5",
        ),
    ],
)  # fmt: skip
def test_words(id, fields, words):
    assert place(number(id, lambda: 0.25, estimator="x", n=3, **fields)) == words
