"""HALNet's prediction from its two."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.models.halnet import Config
from tests.models.systems import batch, forward, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def test_the_prediction_is_the_mean_of_both(rng):
    output = forward("halnet")(without(batch(Config.tiny(), rng, 4), [1], "video"))
    parts = [np.asarray(part["emotion"], np.float64) for part in output.aux["predictions"].values()]
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    np.testing.assert_allclose(softmax(np.asarray(output.logits["emotion"])), sum(map(softmax, parts)) / 2, rtol=1e-5)
