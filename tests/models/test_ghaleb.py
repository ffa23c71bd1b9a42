"""A transformer a modality, attention over windows, and the vote against NumPy."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models import ghaleb
from avjax.nn.encoders import Precomputed
from avjax.nn.transformer import Size
from tests.models.reference import block, dense, layer_norm
from tests.models.rows import attention_pool, check_rows

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

MODALITIES = Precomputed("audio", (3, 4)), Precomputed("video", (3, 4))
CONFIG = ghaleb.Config(MODALITIES, {"emotion": 3}, Size(4, 1, 2), windows=3)


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


@pytest.mark.parametrize("decisions", [False, True])
def test_equations(decisions, rng):
    def within(x, valid, p):
        found = np.zeros_like(x)
        if valid.any():
            h = (x + p["positions"])[valid]
            found[valid] = layer_norm(block(h, h, p["stack"][0]["blocks"]["steps"], 2), p["norm"])
        return found

    def expected(p, x, valid):
        h = {m: within(x[m], valid[m], p["temporal"][m]) for m in x}
        anything = valid["audio"] | valid["video"]
        z = attention_pool(np.concatenate([h["audio"], h["video"]], axis=1), anything, p["pool"])
        fused, own = dense(z, p["classify"]["heads"]["emotion"]), {}
        for m in x:
            if valid[m].any():
                pooled = attention_pool(h[m], valid[m], p["pool_own"][m])
                own[f"emotion/{m}"] = dense(pooled, p["classify_own"]["classify"][m]["heads"]["emotion"])
        if decisions:
            voters = [log_softmax(logits) for logits in (fused, *own.values())]
            fused = np.log(np.mean(np.exp(voters), axis=0)) if anything.any() else np.zeros(3)
        return own | {"emotion": fused}

    check_rows(dataclasses.replace(CONFIG, decisions=decisions), rng, expected)


def test_entropy():
    """ln K of a uniform prediction, 0 of a certain one."""
    found = ghaleb.entropy(jnp.array([[0.0, 0.0, 0.0], [1e4, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [np.log(3), 0], atol=1e-6)
