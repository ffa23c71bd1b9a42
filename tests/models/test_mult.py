"""MulT of three modalities against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.models import mult
from avjax.nn.encoders import Precomputed
from tests.models.reference import dense, layer_norm
from tests.models.rows import check_rows
from tests.nn.fusion.test_crossmodal import mult_block

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow

WIDTH, STEPS = 8, {"text": 4, "audio": 6, "video": 5}
FEATURES = {"text": 3, "audio": 2, "video": 5}


def positions(count: int) -> np.ndarray:
    """[sin | cos] of 1, 2, ... times 10000^(-i / (C/2 - 1))."""
    half = WIDTH // 2
    angles = np.arange(1, count + 1)[:, None] * 10000.0 ** (-np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def reference(params: dict, x: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits of one example; steps that are not there are taken out."""
    places = {m: np.flatnonzero(valid[m]) for m in x}
    start = {}
    for m, features in x.items():
        projected = dense(features[places[m]], params["encoders"][m]["readout"]["project"])
        start[m] = np.sqrt(WIDTH) * projected + positions(len(projected))
    h = []
    for target in STEPS:
        z = start[target]
        if not len(z):
            h.append(np.zeros(2 * WIDTH))
            continue
        enriched = []
        for source in STEPS:
            if source == target:
                continue
            p, asked = params["across"][f"{source}_to_{target}"], z
            slack = abs(STEPS[source] - STEPS[target])
            for layer in range(2 if len(start[source]) else 0):
                block = p["layers"][layer]["blocks"][target]
                asked = mult_block(asked, start[source], block, True, (places[target], places[source], slack))
            enriched.append(layer_norm(asked, p["norm"]))
        memory = np.concatenate(enriched, axis=1)
        memory = mult_block(memory, memory, params["within"][target][0]["block"], True, (places[target],) * 2 + (0,))
        h.append(layer_norm(memory, params["norm"][target])[-1])
    h = np.concatenate(h)
    h = h + dense(np.maximum(dense(h, params["up"]), 0), params["down"])
    return {"sentiment": dense(h, params["classify"]["heads"]["sentiment"])}


def test_three_modalities_are_the_equations(rng: np.random.Generator) -> None:
    """Six transformers between them, three within; rows without a modality, without anything, and with gaps."""
    encoders = tuple(Precomputed(m, (STEPS[m], FEATURES[m])) for m in STEPS)
    config = mult.Config(encoders, {"sentiment": 1}, width=WIDTH, heads=2, depth=2, memory_depth=1)
    check_rows(config, rng, reference)
