"""Attention within, across and of relations against NumPy, without the TCN, whose own tests hold it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from avjax.models import hmatn
from avjax.nn.encoders import Precomputed
from tests.models.reference import attention, dense, layer_norm
from tests.models.rows import check_rows, mean_of_valid

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

MODALITIES = Precomputed("audio", (3, 4)), Precomputed("video", (3, 4))
CONFIG = hmatn.Config(MODALITIES, {"arousal": 2}, width=4, heads=2, segments=3, dilations=(), correlation=3, hidden=6)


def single(x, valid, p):
    """S_m = LN(X_m + MHA(X_m, X_m)) of what is valid, 0 elsewhere."""
    found = np.zeros_like(x)
    if valid.any():
        found[valid] = layer_norm(x[valid] + attention(x[valid], x[valid], p["attention"], 2), p["norm"])
    return found


def parallel(x, valid, m, other, p):
    """P_m = LN(X_m + MHA(X_m, X_other)); without the other, LN(X_m)."""
    found = np.zeros_like(x[m])
    if valid[m].any():
        own, theirs = x[m][valid[m]], x[other][valid[other]]
        asked = attention(own, theirs, p["attention"][m], 2) if len(theirs) else 0
        found[valid[m]] = layer_norm(own + asked, p["norm"][m])
    return found


def joint(x, valid, m, p):
    """P_m = Wh ReLU(W X_m + Wc C_m^T) + X_m, C_m = tanh(X_m^T Wj J / sqrt(d))."""
    j = np.concatenate([x["audio"], x["video"]], axis=1)
    c = np.tanh(x[m].T @ p["joint"][m] @ j / np.sqrt(j.shape[1]))
    h = np.maximum(p["own"][m] @ x[m] + p["correlation"][m] @ c.T, 0)
    return (p["out"][m] @ h + x[m]) * valid[m][:, None]


@pytest.mark.parametrize("across", ["parallel", "joint"])
def test_equations(across, rng):
    config = dataclasses.replace(CONFIG, across=across, relation=across == "parallel")

    def expected(p, x, valid):
        parts, s, answers = [], {}, {}
        for m in x:
            within = p["single"][0]
            s[m] = single(x[m], valid[m], {"attention": within["attention"][m], "norm": within["norm"][m]})
        for m, other in (("audio", "video"), ("video", "audio")):
            p_m = (
                parallel(x, valid, m, other, p["across"][0])
                if across == "parallel"
                else joint(x, valid, m, p["across"][0])
            )
            parts += [s[m], p_m]
            if config.relation:
                r, union = np.zeros_like(s[m]), np.concatenate([s[k][valid[k]] for k in x])
                if valid[m].any():
                    r[valid[m]] = attention(s[m][valid[m]], union, p["relation"][m], 2)
                parts.append(r)
            own = np.tanh(dense(s[m], p["regress_own"][m]["heads"]["arousal"]))
            answers[f"arousal/{m}"] = mean_of_valid(own, valid[m])
        hidden = np.maximum(dense(np.concatenate(parts, axis=1), p["regress"]["hidden"]), 0)
        y = np.tanh(dense(hidden, p["regress"]["heads"]["arousal"]))
        return answers | {"arousal": mean_of_valid(y, valid["audio"] | valid["video"])}

    check_rows(config, rng, expected)
