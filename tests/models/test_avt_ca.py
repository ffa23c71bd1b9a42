"""AVT-CA against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from tests.models import tiny
from tests.models.reference import attention, block, dense
from tests.models.systems import batch, forward, small, without

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def convolutions(x, blocks, pool):
    """relu(BN(conv3(x))) with fresh moving averages, then the maximum of ``pool`` steps, block by block."""
    for p in blocks:
        kernel, norm = p["conv"]["conv"]["kernel"], p["conv"]["norm"]
        padded = np.pad(x, ((1, 1), (0, 0)))
        y = np.stack([sum(padded[t + k] @ kernel[k] for k in range(3)) for t in range(len(x))])
        y = np.maximum(y / np.sqrt(1 + 1e-5) * norm["scale"] + norm["bias"], 0)
        x = np.stack([y[t : t + pool].max(0) for t in range(len(y))])
    return x


def reference(params, values, heads):
    """Logits of one example, of the modalities in ``values`` alone."""
    encoders, x = params["encoders"], {}
    if "audio" in values:
        x["audio"] = convolutions(values["audio"], listed(encoders["audio"]["trunk"]["parts"]), 2)
    if "video" in values:
        tokens = dense(values["video"], encoders["video"]["readout"]["project"])
        x["video"] = convolutions(tokens, listed(params["first"]["video"]["blocks"]), 1)
    if len(x) == 2:
        blocks = listed(params["between"])[0]["blocks"]
        audio, video = x["audio"], x["video"]
        x["audio"] = audio + block(audio, video, blocks["audio"], heads)
        x["video"] = video + block(video, audio, blocks["video"], heads)
    h = []
    for m, pool in (("audio", 2), ("video", 1)):
        if m in x:
            y = convolutions(x[m], listed(params["second"][m]["blocks"]), pool)
            h.append(attention(y, y, params["attention"], heads).mean(0))
        else:
            h.append(np.zeros(params["attention"]["out"]["bias"].shape))
    return dense(np.concatenate(h), params["classify"]["heads"]["emotion"])


def listed(parts):
    """Numbered parts in their order."""
    return [parts[number] for number in sorted(parts)] if isinstance(parts, dict) else list(parts)


@pytest.mark.parametrize("missing", [None, "audio", "video"])
def test_logits_are_the_equations(missing, rng):
    config, model = small("avt_ca")
    made = batch(config, rng, 2)
    if missing:
        made = without(made, slice(None), missing)
    logits = forward("avt_ca")(made).logits["emotion"]
    params = tiny.plain(nnx.state(model, nnx.Param))
    for row in range(2):
        values = {m: s.values[row].astype(np.float64) for m, s in made.streams.items() if m != missing}
        np.testing.assert_allclose(logits[row], reference(params, values, config.heads), rtol=1e-4, atol=1e-5)
