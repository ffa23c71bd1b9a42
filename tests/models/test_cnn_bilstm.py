"""The recurrent row of the table, which is short enough to write again."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.models import cnn_bilstm
from avjax.nn.encoders import Precomputed
from tests.models.reference import dense
from tests.models.rows import attention_pool, check_rows

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

MODALITIES = Precomputed("audio", (4, 3)), Precomputed("video", (6, 3))
CONFIG = cnn_bilstm.Config(MODALITIES, {"emotion": 4}, width=3, kind="rnn", hidden=2, attention=5)


def recurrent(x, valid, p):
    """h <- tanh(W x + b + U h) at the valid steps, [forward; backward]."""
    found = np.zeros((len(x), 4))
    for direction, order in enumerate([range(len(x)), range(len(x) - 1, -1, -1)]):
        cell, h = p["layers"][0][direction], np.zeros(2)
        for t in order:
            if valid[t]:
                h = np.tanh(dense(x[t], cell["dense_i"]) + h @ cell["dense_h"]["kernel"])
                found[t, 2 * direction : 2 * direction + 2] = h
    return found


def test_equations(rng):
    def expected(p, x, valid):
        vectors = [attention_pool(recurrent(x[m], valid[m], p["recurrent"][m]), valid[m], p["pool"][m]) for m in x]
        anything = any(there.any() for there in valid.values())
        z = dense(np.concatenate(vectors), p["fusion"]["project"]) * anything
        return {"emotion": dense(np.maximum(z, 0), p["classify"]["heads"]["emotion"])}

    check_rows(CONFIG, rng, expected)
