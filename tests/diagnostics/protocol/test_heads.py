"""Heads whose weights, worth and likeness are known: padded tokens do not count, and random vectors come near."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.faithfulness.complexity import head_cosine, head_redundancy, linear_cka
from avjax.diagnostics.probe import FunctionProbe
from avjax.diagnostics.protocol import heads as stage
from avjax.diagnostics.protocol.heads import heads
from avjax.diagnostics.protocol.study import Study
from avjax.nn.attention import attend, cross_mask, self_mask
from kernels.attention import Layout
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_for, study_of
from tests.diagnostics.ranges import out_of_range
from tests.models.planted import CASES, HEAD, MODALITIES, STEPS, Planted

HEADS, WIDTH = 3, 2
LAYOUT = Layout(MODALITIES, (STEPS, STEPS))


def joined(tokens, of=jnp):
    return of.concatenate([tokens[m].values for m in MODALITIES], axis=1)


def gated(gates, mixing, tokens):
    """Scores and values are the tokens' two channels, turned by each head in its own way; a gate on each output."""
    values, valid = joined(tokens), jnp.concatenate([tokens[m].valid for m in MODALITIES], axis=1)
    query, key, value = (jnp.einsum("bnc,hcd->bnhd", values, one) for one in mixing)
    output = attend(query, key, value, self_mask(valid, LAYOUT), site="fusion") * jnp.asarray(gates)[:, None]
    # Padded tokens are not read, as in a model that pools what is there.
    return (output * valid[:, :, None, None] * jnp.arange(1.0, WIDTH + 1)).sum((1, 2, 3))


@pytest.fixture
def mixing(rng):
    return rng.normal(size=(3, HEADS, 2, WIDTH)).astype(np.float32)


@pytest.fixture
def clips(rng):
    """Padded, each modality elsewhere."""
    found = clips_of(CASES["T2 additive"].batch(rng, 24))
    streams = {}
    for m in MODALITIES:
        values = rng.normal(size=found.streams[m].values.shape).astype(np.float32)
        length = rng.integers(2, STEPS + 1, len(found))
        streams[m] = found.streams[m].replace(values=values, valid=np.arange(STEPS) < length[:, None])
    return found.replace(streams)


def probe_with(gates, mixing):
    return probe_for(Planted(functools.partial(gated, gates, mixing)))


@pytest.fixture
def study(clips, mixing):
    tier = dataclasses.replace(TIER, gradients=None)
    return Study(probe_with(np.ones(HEADS, np.float32), mixing), clips, tier, resamples=20)


def lines(found, id):
    return [line for line in found.lines if line.id == id]


def dense(clips, mixing):
    """P [B, H, N, N] and outputs [B, N, H, D] in float64, and which tokens there are."""
    values = np.where(valid := np.concatenate([clips.streams[m].valid for m in MODALITIES], axis=1)[..., None],
                      joined(clips.streams, np), 0).astype(np.float64)  # fmt: skip
    query, key, value = (np.einsum("bnc,hcd->bhnd", values, one.astype(np.float64)) for one in mixing)
    scores = np.where(valid[:, None, None, :, 0], query @ key.swapaxes(2, 3) / np.sqrt(WIDTH), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights, (weights @ value).swapaxes(1, 2), valid[..., 0]


def test_a_head_is_worth_what_its_gate_does_to_the_loss(study, mixing):
    """The logits are linear in the gates, so that one gate at a time tells each derivative."""
    alone = np.stack([probe_with(gates, mixing).logits(study.clips) for gates in np.eye(HEADS, dtype=np.float32)])
    wrong = study.clean.probability - np.eye(2)[study.clips.label]
    expected = np.abs((wrong * alone).sum(axis=2)).mean(axis=1)
    found = lines(heads(study), "faithfulness/head_importance")
    assert [line.head for line in found] == list(range(HEADS))
    assert {(line.layer, line.target, line.n) for line in found} == {("fusion 0", "label", len(study.clips))}
    assert [line.value for line in found] == pytest.approx(list(expected), rel=1e-4)


def test_what_goes_through_either_modality_adds_up_to_the_logit(study):
    """All of the logit comes out of the one call of attention."""
    found = {line.group: line.value for line in lines(heads(study), "contribution/gradient_attention")}
    assert sorted(found) == sorted(MODALITIES)
    logit = study.clean.logits[np.arange(len(study.clips)), study.clean.predicted]
    assert sum(found.values()) == pytest.approx(logit.mean(), rel=1e-4)


def class_token(tokens):
    """Sound and a class token behind it, which gets as much as every other token."""
    values, valid = tokens["audio"].values, tokens["audio"].valid
    values = jnp.pad(values, ((0, 0), (0, 1), (0, 0)), constant_values=2.0)[:, :, None]
    mask = self_mask(jnp.pad(valid, ((0, 0), (0, 1)), constant_values=True), Layout.of(audio=STEPS + 1))
    return attend(0 * values, values, values, mask, site="unimodal")[:, -1].sum((1, 2))


def test_what_goes_through_a_class_token_is_its_own(clips):
    study = Study(probe_for(Planted(class_token)), clips, dataclasses.replace(TIER, gradients=None), resamples=20)
    found = {line.group: line.value for line in lines(heads(study), "contribution/gradient_attention")}
    heard = np.asarray(clips.streams["audio"].valid)
    number, keys = (clips.streams["audio"].values.sum(axis=2) * heard).sum(axis=1), heard.sum(axis=1) + 1
    # Half of the number is the class's logit, and minus half of it the other's.
    side = np.sign(number + 4) / 2
    assert found["audio"] == pytest.approx((side * number / keys).mean(), rel=1e-4)
    assert found["class_audio"] == pytest.approx((side * 4 / keys).mean(), rel=1e-4)


def test_likeness_is_that_of_weights_and_outputs_in_full(study, clips, mixing):
    weights, outputs, there = dense(clips, mixing)
    found = heads(study)
    (redundancy,) = lines(found, "faithfulness/head_redundancy")
    expected = [head_redundancy(*one) for one in zip(weights, there, strict=True)]
    assert redundancy.value == pytest.approx(np.mean(expected), abs=1e-5)
    (cosine,) = lines(found, "faithfulness/head_cosine")
    together = np.concatenate([one[:, asks] for one, asks in zip(weights, there, strict=True)], axis=1)
    assert cosine.value == pytest.approx(head_cosine(together, np.ones(together.shape[1], bool)), abs=1e-5)
    (cka,) = lines(found, "faithfulness/head_cka")
    rows = outputs[there]
    pairs = itertools.combinations(range(HEADS), 2)
    assert cka.value == pytest.approx(np.mean([linear_cka(rows[:, h], rows[:, g]) for h, g in pairs]), abs=1e-5)
    assert cka.n == there.sum()
    assert out_of_range(found.lines) == []


def across(mixing, tokens):
    """Sound asks the pictures in a call of its own, and is a key in another."""
    values, valid = joined(tokens), jnp.concatenate([tokens[m].valid for m in MODALITIES], axis=1)
    query, key, value = (jnp.einsum("bnc,hcd->bnhd", values, one) for one in mixing)
    heard = [array[:, :STEPS] for array in (query, key, value)]
    own = attend(*heard, self_mask(valid[:, :STEPS], Layout.of(audio=STEPS)), site="own")
    mask = cross_mask(Layout.of(audio=STEPS), Layout.of(video=STEPS), valid[:, STEPS:])
    found = attend(query[:, :STEPS], key[:, STEPS:], value[:, STEPS:], mask, site="across")
    return ((own + found) * valid[:, :STEPS, None, None]).sum((1, 2, 3))


def test_padded_tokens_that_ask_another_modality_do_not_count(study, clips, mixing):
    """They are known by the call in which they are keys."""
    probe = probe_for(Planted(functools.partial(across, mixing)))
    found = heads(dataclasses.replace(study, probe=probe))
    there = clips.streams["audio"].valid
    tokens = {m: np.where(s.valid[..., None], s.values, 0).astype(np.float64) for m, s in clips.streams.items()}
    query = np.einsum("bnc,hcd->bhnd", tokens["audio"], mixing[0].astype(np.float64))
    key = np.einsum("bnc,hcd->bhnd", tokens["video"], mixing[1].astype(np.float64))
    scores = query @ key.swapaxes(2, 3) / np.sqrt(WIDTH)
    weights = np.exp(np.where(clips.streams["video"].valid[:, None, None], scores, -np.inf))
    weights /= weights.sum(axis=-1, keepdims=True)
    (line,) = [line for line in lines(found, "faithfulness/head_redundancy") if line.layer == "across 0"]
    expected = [head_redundancy(*one) for one in zip(weights, there, strict=True)]
    assert line.value == pytest.approx(np.mean(expected), abs=1e-5)
    (line,) = [line for line in lines(found, "faithfulness/head_cka") if line.layer == "across 0"]
    assert line.n == there.sum()
    assert "laid out" not in line.estimator


def test_a_call_over_parts_of_clips_is_left_out_by_name(study, mixing):
    """Two windows a clip are twice as many rows: the other layers keep their numbers."""

    def windowed(tokens):
        values = tokens["audio"].values
        rows = values.reshape(-1, STEPS // 2, 2)[:, :, None]
        mask = self_mask(jnp.ones(rows.shape[:2], bool), Layout.of(audio=STEPS // 2))
        parts = attend(rows, rows, rows, mask, site="windows").reshape(len(values), -1)
        return parts.sum(axis=1) + gated(np.ones(HEADS, np.float32), mixing, tokens)

    found = heads(dataclasses.replace(study, probe=probe_for(Planted(windowed))))
    (line, *_) = [line for line in lines(found, "faithfulness/head_importance") if line.layer == "windows 0"]
    assert line.status == "skipped"
    assert "parts of a clip" in line.reason
    assert len([line for line in lines(found, "faithfulness/head_importance") if line.layer == "fusion 0"]) == HEADS
    assert sorted(line.group for line in lines(found, "contribution/gradient_attention")) == sorted(MODALITIES)


def test_random_vectors_stand_for_many_keys(study, monkeypatch):
    (exact,) = lines(heads(study), "faithfulness/head_cosine")
    monkeypatch.setattr(stage, "MOST_KEYS", 2 * STEPS - 1)
    found = heads(study)
    (near,) = lines(found, "faithfulness/head_cosine")
    # Products of one clip are off by about sqrt(2 / 64) of their size, those of 24 clips by a fifth of that.
    assert near.value == pytest.approx(exact.value, abs=0.1)
    assert near.value != exact.value
    assert near.estimator.endswith("64 random vectors")
    (redundancy,) = lines(found, "faithfulness/head_redundancy")
    assert redundancy.status == "skipped"
    assert "keys" in redundancy.reason


def test_one_head_is_like_no_other(study, mixing):
    one = dataclasses.replace(study, probe=probe_with(np.ones(1, np.float32), mixing[:, :1]))
    found = heads(one)
    for name in ("redundancy", "cosine", "cka"):
        (line,) = lines(found, f"faithfulness/head_{name}")
        assert line.status == "skipped"
        assert "one head" in line.reason
    assert len(lines(found, "faithfulness/head_importance")) == 1


def test_models_without_heads_are_told(rng):
    (line,) = heads(study_of("T1 audio only", rng, 8)).lines
    assert (line.status, line.reason) == ("skipped", "the model has no call of attention")
    plain = FunctionProbe(MODALITIES, HEAD, ("no", "yes"), 8, lambda clips: np.zeros((len(clips), 2)))
    study = dataclasses.replace(study_of("T1 audio only", rng, 8), probe=plain)
    (line,) = heads(study).lines
    assert line.status == "skipped"
    assert "plain function" in line.reason
