"""Attention as the stage tells it of clips that are padded or lack a modality: valid tokens alone count."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.protocol import explanation
from avjax.diagnostics.protocol.study import Found, Study
from avjax.nn.attention import attend, cross_mask, self_mask
from kernels.attention import Layout
from tests.diagnostics.protocol.planted_probe import TIER, clips_of, probe_for
from tests.diagnostics.ranges import out_of_range
from tests.models.planted import CASES, MODALITIES, STEPS, Planted

HEADS = 3
LAYOUT = Layout(MODALITIES, (STEPS, STEPS))


def joined(tokens):
    """Values [B, N, H, 2] of both modalities, other ones in every head, and which are valid."""
    values = jnp.concatenate([tokens[m].values for m in MODALITIES], axis=1)
    valid = jnp.concatenate([tokens[m].valid for m in MODALITIES], axis=1)
    return values[:, :, None] * jnp.arange(1.0, HEADS + 1)[:, None] + 1, valid


def even(tokens):
    """Every token asks, and all that are valid get the same."""
    values, valid = joined(tokens)
    return attend(0 * values, values, values, self_mask(valid, LAYOUT), site="fusion").sum((1, 2, 3))


def by_own(tokens):
    """A padded token would ask for the pictures alone; others ask for both, each head in its own measure."""
    values, valid = joined(tokens)
    pull = jnp.where(jnp.arange(2 * STEPS) < STEPS, -1.0, 1.0)[None, :, None, None] * jnp.ones_like(values[..., :1])
    query = jnp.where(valid[:, :, None, None], jnp.arange(HEADS, dtype=values.dtype)[:, None] / 4, 50.0)
    return attend(query * jnp.ones_like(pull), pull, values, self_mask(valid, LAYOUT), site="fusion").sum((1, 2, 3))


def pictures_ask(tokens, known):
    """In a call whose keys are not the pictures; ``known``: they are keys of another."""
    values, valid = joined(tokens)
    query, found = 0 * values[:, STEPS:], 0
    if known:
        found = even(tokens)
    mask = cross_mask(Layout.of(video=STEPS), Layout.of(audio=STEPS, others=STEPS), valid.at[:, STEPS:].set(True))
    return found + attend(query, values, values, mask, site="across").sum((1, 2, 3))


def with_class_tokens(tokens):
    """As ``even``, with a token more behind each modality."""
    streams = {}
    for m in MODALITIES:
        valid = jnp.pad(tokens[m].valid, ((0, 0), (0, 1))).at[:, -1].set(tokens[m].valid.any(axis=1))
        streams[m] = tokens[m].replace(values=jnp.pad(tokens[m].values, ((0, 0), (0, 1), (0, 0))), valid=valid)
    values, valid = joined(streams)
    layout = Layout(MODALITIES, (STEPS + 1, STEPS + 1))
    return attend(0 * values, values, values, self_mask(valid, layout), site="fusion").sum((1, 2, 3))


def padded(rng, rows=24, gone=True):
    """Clips that end early, each modality elsewhere; some have no pictures."""
    clips = clips_of(CASES["T2 additive"].batch(rng, rows))
    streams = {}
    for m in MODALITIES:
        length = rng.integers(1, STEPS + 1, rows)
        length[:3] = STEPS
        if gone and m == "video":
            length[-3:] = 0
        valid = np.arange(STEPS) < length[:, None]
        streams[m] = clips.streams[m].replace(valid=valid)
    return clips.replace(streams)


def found_of(decide, clips) -> Found:
    tier = dataclasses.replace(TIER, relevance=False)
    return explanation.attention(Study(probe_for(Planted(decide)), clips, tier, resamples=20))


def lines(found: Found, id: str, **fields) -> list:
    own = [line for line in found.lines if line.id == f"contribution/{id}"]
    return [line for line in own if all(getattr(line, name) == value for name, value in fields.items())]


def test_uniform_attention_has_no_lift_however_clips_are_padded(rng):
    """KA 1.1 and 7.3: Q = 0 gives N_g / N, lift 0, efficiency 1 and entropies of 1."""
    clips = padded(rng)
    found = found_of(even, clips)
    count = {m: clips.streams[m].valid.sum(axis=1) for m in MODALITIES}
    for group, key in ((g, k) for g in MODALITIES for k in MODALITIES):
        where = {"group": key, "layer": f"fusion 0: {group}"}
        there = count[group] > 0
        expected = np.mean((count[key] / (count["audio"] + count["video"]))[there])
        (mean,) = lines(found, "attention_share", estimator="mean of heads", **where)
        assert mean.n == there.sum()
        assert (mean.value, mean.null_baseline) == pytest.approx((expected, expected), rel=1e-5)
        lifts = lines(found, "attention_lift", **where)
        assert [line.head for line in lifts] == [0, 1, 2]
        assert [line.value for line in lifts] == pytest.approx([0] * HEADS, abs=1e-5)
        (ratio,) = lines(found, "attention_efficiency", **where)
        assert ratio.value == pytest.approx(1, rel=1e-5)
        (entropy,) = lines(found, "attention_entropy", **where)
        assert entropy.value == pytest.approx(1, rel=1e-5)
        assert entropy.n == (there & (count[key] > 1)).sum()
    for group in MODALITIES:
        (entropy,) = lines(found, "attention_entropy", group=group, layer="fusion 0")
        assert entropy.value == pytest.approx(1, rel=1e-5)
    assert out_of_range(found.lines) == []
    # Of each clip the same share by either modality's tokens, and of sound alone where there are no pictures.
    shares = found.arrays["share/attention_share"]
    np.testing.assert_allclose(shares[:, 0], count["audio"] / (count["audio"] + count["video"]), rtol=1e-5)
    assert len(shares) == len(clips)


def test_padded_tokens_do_not_ask(rng):
    """Mass and entropy are of the queries that there are; heads and their quantiles are told one by one."""
    clips = padded(rng, gone=False)
    found = found_of(by_own, clips)
    a, v = (clips.streams[m].valid.sum(axis=1) for m in MODALITIES)
    ratio = np.exp(2 * np.arange(HEADS) / 4)[:, None]
    mass = v * ratio / (v * ratio + a)
    lift = np.log(mass.mean(axis=1) / (1 - mass.mean(axis=1))) - np.log(np.mean(v / (a + v)) / np.mean(a / (a + v)))
    for group in MODALITIES:
        where = {"group": "video", "layer": f"fusion 0: {group}"}
        own = {line.estimator: line.value for line in lines(found, "attention_share", **where)}
        assert own["mean of heads"] == pytest.approx(mass.mean(), rel=1e-5)
        for share in (5, 50, 95):
            expected = np.quantile(mass.mean(axis=1), share / 100)
            assert own[f"{share} % of heads, means of clips"] == pytest.approx(expected, rel=1e-5)
        assert [line.value for line in lines(found, "attention_lift", **where)] == pytest.approx(lift, abs=1e-4)
        # What is kept of each clip gives the lines.
        kept = found.arrays[f"attention/attention_share/fusion 0: {group}"]
        np.testing.assert_allclose(kept[..., 1], mass.T, rtol=1e-4)
        outputs = found.arrays[f"attention/output_share/fusion 0: {group}"]
        by_head = [line for line in lines(found, "output_share", **where) if line.head is not None]
        assert [line.value for line in by_head] == pytest.approx(outputs[..., 1].mean(axis=0), rel=1e-5)
        np.testing.assert_allclose(outputs.sum(axis=-1), 1, rtol=1e-4)
        p = np.stack([1 / (v * ratio + a), ratio / (v * ratio + a)])
        entropy = -(a * p[0] * np.log(p[0]) + v * p[1] * np.log(p[1])) / np.log(a + v)
        (line,) = lines(found, "attention_entropy", group=group, layer="fusion 0")
        assert line.value == pytest.approx(entropy.mean(), rel=1e-5)


def test_a_class_token_is_a_group_of_its_own(rng):
    clips = padded(rng)
    found = found_of(with_class_tokens, clips)
    count = {m: clips.streams[m].valid.sum(axis=1) for m in MODALITIES}
    count |= {f"class_{m}": (count[m] > 0).astype(int) for m in MODALITIES}
    total = sum(count.values())
    shares = {(line.layer, line.group): line for line in lines(found, "attention_share", estimator="mean of heads")}
    assert {layer for layer, _ in shares} == {f"fusion 0: {group}" for group in count}
    for group in count:
        there = count[group] > 0
        for key in count:
            line = shares[f"fusion 0: {group}", key]
            expected = (count[key] / total)[there].mean()
            assert (line.value, line.null_baseline) == pytest.approx((expected, expected), rel=1e-5)
            assert line.n == there.sum()
    # A modality's share is of its own tokens, by whoever asks.
    np.testing.assert_allclose(
        found.arrays["share/attention_share"], np.stack([count[m] / total for m in MODALITIES], axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("known", [True, False])
def test_who_asks_is_looked_up_elsewhere_or_said_not_to_be_known(known, rng):
    clips = padded(rng)
    found = found_of(functools.partial(pictures_ask, known=known), clips)
    (line,) = lines(found, "attention_entropy", layer="across 0", group="video")
    there = clips.streams["video"].valid.any(axis=1).sum()
    assert there == len(clips) - 3
    assert line.n == (there if known else len(clips))
    said = "" if known else ", queries of video counted as laid out, missing ones too"
    assert line.estimator == f"mean of heads and tokens{said}"
