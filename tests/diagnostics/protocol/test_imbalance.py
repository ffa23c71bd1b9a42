"""The stage of balance: ratios of models whose every probability and gradient is written down."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol.imbalance import OwnGradients, fisher_traces, gradient_norms, imbalance
from avjax.diagnostics.protocol.study import Found, Part, Said
from avjax.nn.convolution import masked
from avjax.streams import Output
from avjax.training.checkpoint import CheckpointError
from tests.diagnostics.protocol.planted_probe import study_of as planted
from tests.diagnostics.protocol.raw_probe import FRAMES, SAMPLES, SIDE, clips_of, probe_of, study_of
from tests.models.planted import HEAD, MODALITIES

ROWS = 20


class Scale(nnx.Module):
    """One number."""

    def __init__(self, value: float):
        self.weight = nnx.Param(jnp.array(value))


class Linear(nnx.Module):
    """Logits -z, z by modality, z_m = w_m mean(x_m); each modality's own beside them."""

    modalities = MODALITIES

    def __init__(self, audio: float, video: float, common: float = 1.0):
        self.encoders = nnx.Dict(audio=Scale(audio), video=Scale(video))
        self.common = Scale(common)

    def __call__(self, batch, keep=None):
        own = {}
        for m in MODALITIES:
            values = masked(jnp.asarray(batch.streams[m].values), jnp.asarray(batch.streams[m].valid))
            own[m] = self.encoders[m].weight * values.reshape(len(values), -1).mean(axis=1)
        logits = {HEAD: self.common.weight * sum(own.values()), **{f"{HEAD}/{m}": z for m, z in own.items()}}
        return Output({name: jnp.stack([-z, z], axis=-1) for name, z in logits.items()}, dict(batch.streams))


def some(rng: np.random.Generator):
    """Means of sound and of frames, the label by the sign of the sound."""
    heard, seen = rng.uniform(-0.5, 0.5, ROWS), rng.uniform(0.1, 0.9, ROWS)
    sound = np.broadcast_to(heard[:, None], (ROWS, SAMPLES))
    frames = np.broadcast_to(seen[:, None, None, None, None], (ROWS, FRAMES, SIDE, SIDE, 1))
    return heard, seen, clips_of(sound, frames, (heard > 0).astype(int))


def ratios(found: Found, id: str, words: str) -> dict[str, float]:
    return {line.group: line.value for line in found.lines if line.id == id and words in line.estimator}


def test_ratios_are_those_of_the_probabilities_and_of_the_slopes(rng):
    """p_m = sigma(2 s w_m x_m), s = -1, 1 of the label; dL/dw_m = mean of -2 s c x_m sigma(-2 s c z)."""
    heard, seen, clips = some(rng)
    audio, video, common = 3.0, 0.7, 1.5
    found = imbalance(study_of(Linear(audio, video, common), clips))
    side = np.where(heard > 0, 1, -1)

    def sigma(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    own = {"audio": sigma(2 * side * audio * heard).mean(), "video": sigma(2 * side * video * seen).mean()}
    said = ratios(found, "contribution/imbalance_ratio", "its own logits")
    alone = {
        m: sigma(2 * side * common * w * x).mean() for m, w, x in (("audio", audio, heard), ("video", video, seen))
    }
    given = ratios(found, "contribution/imbalance_ratio", "a forward pass of it alone")
    for told, expected in ((said, own), (given, alone)):
        rho = math.log10(expected["audio"] / expected["video"])
        assert told == {"audio": pytest.approx(rho, abs=1e-5), "video": pytest.approx(-rho, abs=1e-5)}

    z = common * (audio * heard + video * seen)
    slope = {m: abs((-2 * side * common * x * sigma(-2 * side * z)).mean()) for m, x in
             (("audio", heard), ("video", seen))}  # fmt: skip
    rho = math.log10(slope["audio"] / slope["video"])
    norms = ratios(found, "contribution/gradient_norm_ratio", "parameters")
    assert norms == {"audio": pytest.approx(rho, abs=1e-4), "video": pytest.approx(-rho, abs=1e-4)}


def test_gradients_while_it_trained_are_those_of_its_checkpoints(rng):
    _, _, clips = some(rng)
    before = probe_of(Linear(1.0, 2.0, 0.5), ROWS)

    def damaged():
        raise CheckpointError("cut short")

    study = study_of(Linear(3.0, 0.7, 1.5), clips)
    kept = {1: lambda: before.state, 2: lambda: study.probe.state, 3: damaged}
    found = imbalance(dataclasses.replace(study, checkpoints=kept))
    id = "contribution/gradient_norm_ratio"
    norms = gradient_norms(OwnGradients.of(before), study.part(study.tier.stressed))
    rho = math.log10(norms["audio"] / norms["video"])
    first, last = (ratios(found, id, f"step {step}") for step in (1, 2))
    assert first == {"audio": pytest.approx(rho, abs=1e-5), "video": pytest.approx(-rho, abs=1e-5)}
    assert last == pytest.approx(ratios(imbalance(study), id, "parameters"), abs=1e-6)
    assert not ratios(found, id, "step 3")


def test_identical_branches_are_in_balance(rng):
    """KA: rho = 1 of copies."""
    found = imbalance(planted("T4 redundant copies", rng, 40))
    assert ratios(found, "contribution/imbalance_ratio", "alone") == {"audio": 0, "video": 0}
    (line,) = [line for line in found.lines if line.id == "contribution/gradient_norm_ratio"]
    assert (line.status, line.reason) == ("skipped", "no parameter of the model belongs to audio alone")


def test_norms_are_over_all_clips_whatever_the_batch(rng):
    _, _, clips = some(rng)
    model = Linear(0.3, 0.2)
    said = Said(np.zeros((ROWS, 2), np.float32), clips.label)
    found = [
        gradient_norms(OwnGradients.of(probe_of(model, batch)), Part(np.arange(ROWS), clips, said)) for batch in (7, 20)
    ]
    for modality in MODALITIES:
        assert found[0][modality] == pytest.approx(found[1][modality], rel=1e-5)
    plain = FunctionProbe(MODALITIES, HEAD, ("no", "yes"), 4, lambda clips: np.zeros((len(clips), 2)))
    with pytest.raises(Undefined, match="plain function"):
        OwnGradients.of(plain)


def test_fisher_s_traces_are_those_of_the_probabilities(rng):
    """tr F_m = mean of 4 p (1 - p) (c x_m)^2, p = sigma(2 z); the batch does not divide the clips."""
    heard, seen, clips = some(rng)
    audio, video, common = 2.0, 0.5, 1.5
    study = study_of(Linear(audio, video, common), clips)
    p = 1 / (1 + np.exp(-2 * common * (audio * heard + video * seen)))
    expected = {m: (4 * p * (1 - p) * (common * x) ** 2).mean() for m, x in (("audio", heard), ("video", seen))}
    own = OwnGradients.of(probe_of(Linear(audio, video, common), 7))
    found = fisher_traces(own, study.part(None), draws=1000, seed=int(rng.integers(2**31)))
    # Of a batch the estimate's spread is at most 1.5 of its mean.
    assert found == {m: pytest.approx(trace, rel=0.25) for m, trace in expected.items()}
    told = ratios(imbalance(study), "contribution/fisher_trace_ratio", "8 draws")
    assert told["audio"] == pytest.approx(-told["video"], abs=1e-6)


def test_what_the_run_has_written_down(rng):
    """KA: rho = 2 at every step is log10 2 throughout, and no alarm; rho = 4 alarms throughout."""
    study = planted("T4 redundant copies", rng, 20)
    keys = [f"train/rule/confidence/{m}" for m in MODALITIES]
    steady = [{"step": step, keys[0]: 0.6, keys[1]: 0.3} for step in range(10, 210, 10)]
    found = imbalance(dataclasses.replace(study, history=steady))
    assert ratios(found, "contribution/imbalance_ratio", "training")["audio"] == pytest.approx(math.log10(2), abs=1e-6)
    assert ratios(found, "contribution/imbalance_alarm", "training") == {"audio": 0, "video": 0}
    ahead = [{"step": step, keys[0]: 0.8, keys[1]: 0.2} for step in range(10, 210, 10)]
    found = imbalance(dataclasses.replace(study, history=ahead))
    assert ratios(found, "contribution/imbalance_alarm", "training") == {"audio": 1, "video": 1}
    (line,) = [line for line in imbalance(study).lines if line.id == "contribution/imbalance_alarm"]
    assert "alone while it trains" in line.reason


def test_a_tier_without_gradients_says_so(rng):
    study = planted("T4 redundant copies", rng, 20)
    study = dataclasses.replace(study, tier=dataclasses.replace(study.tier, gradients=0))
    lines = [line for line in imbalance(study).lines if "gradient" in line.id or "fisher" in line.id]
    assert [line.reason for line in lines] == ["left out of the tier smoke"] * 2
