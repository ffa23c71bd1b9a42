"""Transformers within and across modalities against NumPy, without the LSTM, whose own tests hold it."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.models import cnn_transformer
from avjax.nn.encoders import Conv1dEncoder
from avjax.nn.transformer import Size
from tests.models.reference import block, dense, layer_norm
from tests.models.rows import check_rows, mean_of_valid

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

MODALITIES = Conv1dEncoder("audio", (4, 3), size=1), Conv1dEncoder("video", (4, 5), size=1)
CONFIG = cnn_transformer.Config(
    MODALITIES, {"arousal": 2}, Size(8, 1, 2), segments=4, temporal="none", hidden=6, bounds=(-1.0, 3.0)
)


def test_equations(rng):
    def within(x, valid, p, encoder):
        e = (x @ encoder["trunk"]["conv"]["kernel"][0] + p["positions"])[valid]
        return layer_norm(block(e, e, p["stack"][0]["blocks"]["steps"], 2), p["norm"])

    def expected(p, x, valid):
        e = {m: within(x[m], valid[m], p["within"][m], p["encoders"][m]) for m in x if valid[m].any()}
        joint, anything = np.zeros((4, 16)), valid["audio"] | valid["video"]
        for number, (m, other) in enumerate([("audio", "video"), ("video", "audio")]):
            if m in e:
                c = block(e[m], e[other], p["across"][0]["blocks"][m], 2) if other in e else e[m]
                joint[valid[m], 8 * number : 8 * number + 8] = c
        y = 1 + 2 * np.tanh(dense(np.maximum(dense(joint, p["join"]), 0), p["head"]["heads"]["arousal"]))
        return {"arousal": mean_of_valid(y, anything)}

    check_rows(CONFIG, rng, expected)
