"""What a report says of a condition is what the definitions say of its rows."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.diagnostics.clips import Clips
from avjax.diagnostics.consistency import agreement, calibration
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.ablation import changes
from avjax.diagnostics.protocol.study import Said, Study
from avjax.diagnostics.protocol.tiers import SMOKE


def test_changes(rng):
    label = rng.integers(0, 3, 50)
    one, other = (Said(rng.normal(size=(50, 3)) + np.eye(3)[label], label) for _ in range(2))
    clips = Clips({}, label, tuple(f"video {row // 2}" for row in range(50)), np.arange(50))
    study = Study(FunctionProbe((), "class", ("a", "b", "c"), 50, lambda clips: one.logits), clips, SMOKE, resamples=50)
    found = {line.id.removeprefix("consistency/"): line for line in changes(study, clips, one, other)}
    predicted, right = (one.predicted, other.predicted), (one.right, other.right)
    expected = {
        "agreement": agreement.agreement(*predicted),
        "kappa": agreement.kappa(*predicted),
        "soft_agreement": agreement.soft_agreement(one.probability, other.probability).mean(),
        "negative_flips": agreement.negative_flips(*right),
        "positive_flips": agreement.positive_flips(*right),
        "ece_change": calibration.expected_calibration_error(other.confidence, other.right)
        - calibration.expected_calibration_error(one.confidence, one.right),
        "overconfidence": calibration.overconfidence(other.confidence, other.right),
    }
    assert {name: line.value for name, line in found.items()} == pytest.approx(expected, abs=1e-12)
    assert all(line.ci_lo <= line.ci_hi for line in found.values())
