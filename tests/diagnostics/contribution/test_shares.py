"""Shares of attention and of attributions against loops, closed forms and a planted decoy."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from avjax.diagnostics.contribution.shares import (
    attention_share,
    efficiency,
    group_sums,
    lift,
    magnitude_share,
    members,
    output_parts,
    output_share,
    over_heads,
    share,
    value_norms,
    value_weighted_share,
)
from avjax.diagnostics.measured import Undefined

seeds = st.integers(0, 2**32 - 1)
NAMES = ("audio", "video", "special")


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_uniform_attention_has_the_tokens_shares():
    """KA: Q = 0: AMS_g = N_g / N, LIFT = 0."""
    groups = ("audio",) * 5 + ("video",) * 3 + ("special",)
    weights = softmax(np.zeros((4, 9)))
    shares = attention_share(group_sums(weights, groups, NAMES), np.ones(4, bool))
    tokens = np.array([5, 3, 1])
    np.testing.assert_allclose(shares, tokens / 9, atol=1e-15)
    np.testing.assert_allclose(lift(shares, tokens), 0, atol=1e-14)
    np.testing.assert_allclose(efficiency(shares, tokens), 1, atol=1e-14)


def test_low_mass_above_chance():
    """KA: AMS = 0.2 with 64 of 576 tokens: LIFT = log 2 = 0.693."""
    value = lift(np.array([0.2, 0.8]), np.array([64, 512]))
    np.testing.assert_allclose(value, [np.log(2), -np.log(2)], rtol=1e-14)
    assert value[0] == pytest.approx(0.693, abs=5e-4)
    np.testing.assert_allclose(efficiency(np.array([0.2, 0.8]), np.array([64, 512])), [1.8, 0.9], rtol=1e-14)


def test_one_hot_attention(rng):
    """KA: all weight on one token of video: AMS_v = 1, and no finite lift."""
    groups = ("audio",) * 3 + ("video",) * 4
    weights = np.zeros((6, 7))
    weights[np.arange(6), rng.integers(3, 7, 6)] = 1
    shares = attention_share(group_sums(weights, groups, NAMES[:2]), np.ones(6, bool))
    assert shares.tolist() == [0, 1]
    with pytest.raises(Undefined, match="odds"):
        lift(shares, np.array([3, 4]))


def test_an_attention_decoy(rng):
    """KA: V_j = 0 for video under uniform attention over 5 + 5 tokens: AMS_v = 0.5, output share and AMS^V_v 0."""
    groups, names = ("audio",) * 5 + ("video",) * 5, NAMES[:2]
    weights, values = np.full((3, 10), 0.1), rng.normal(size=(10, 4))
    values[5:] = 0
    shares = attention_share(group_sums(weights, groups, names), np.ones(3, bool))
    np.testing.assert_allclose(shares, [0.5, 0.5], atol=1e-15)
    np.testing.assert_allclose(output_share(output_parts(weights, values, groups, names)), [[1, 0]] * 3, atol=1e-15)
    norms = value_norms(values[None], rng.normal(size=(1, 4, 6)))[0]
    np.testing.assert_allclose(value_weighted_share(weights, norms, groups, names), [[1, 0]] * 3, atol=1e-15)


def test_a_single_group(rng):
    """KA: all shares 1; lift and a comparison with other tokens do not exist."""
    groups, names = ("audio",) * 6, ("audio",)
    weights, values = softmax(rng.normal(size=(2, 6))), rng.normal(size=(6, 3))
    shares = attention_share(group_sums(weights, groups, names), np.ones(2, bool))
    np.testing.assert_allclose(shares, [1], atol=1e-15)
    np.testing.assert_allclose(output_share(output_parts(weights, values, groups, names)), 1, atol=1e-15)
    norms = np.linalg.norm(values, axis=-1)
    np.testing.assert_allclose(value_weighted_share(weights, norms, groups, names), 1, atol=1e-15)
    np.testing.assert_allclose(efficiency(np.ones(1), np.array([6])), 1)
    with pytest.raises(Undefined):
        lift(np.ones(1), np.array([6]))
    with pytest.raises(Undefined, match="tokens"):
        lift(np.array([0.5, 0.5]), np.array([6, 0]))


@hypothesis.given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(3, 9), st.integers(1, 4))
def test_shares_are_the_definitions(seed, heads, queries, keys, width):
    rng = np.random.default_rng(seed)
    groups = (*NAMES, *rng.choice(NAMES, keys - 3))
    weights, values = softmax(rng.normal(size=(heads, queries, keys))), rng.normal(size=(heads, keys, width))
    kernel, asked = rng.normal(size=(heads, width, 5)), rng.random((heads, queries)) < 0.6
    asked[:, 0] = True
    mass = group_sums(weights, groups, NAMES)
    # What stands in a query that is not asked reaches nothing.
    mass_seen = np.where(asked[..., None], mass, np.nan)
    shares, norms = attention_share(mass_seen, asked), value_norms(values, kernel)
    weighted = value_weighted_share(weights, norms, groups, NAMES)
    parts = output_parts(weights, values, groups, NAMES)
    out = output_share(parts)
    for h in range(heads):
        looks = [i for i in range(queries) if asked[h, i]]
        for g, name in enumerate(NAMES):
            own = [j for j in range(keys) if groups[j] == name]
            expected = sum(weights[h, i, j] for i in looks for j in own) / len(looks)
            assert shares[h, g] == pytest.approx(expected, abs=1e-12)
            for i in range(queries):
                w = [weights[h, i, j] * np.sqrt(((values[h, j] @ kernel[h]) ** 2).sum()) for j in range(keys)]
                assert weighted[h, i, g] == pytest.approx(sum(w[j] for j in own) / sum(w), abs=1e-12)
                part = sum(weights[h, i, j] * values[h, j] for j in own)
                np.testing.assert_allclose(parts[h, i, g], part, atol=1e-12)
                whole = weights[h, i] @ values[h]
                square = whole @ whole
                # The rounding of <O_ig, O_i> is divided by ||O_i||^2, which may be small.
                assert out[h, i, g] == pytest.approx(part @ whole / square, rel=1e-9, abs=1e-12 / square)
    np.testing.assert_allclose(parts.sum(axis=2), weights @ values, atol=1e-12)
    for each in (shares, weighted):
        np.testing.assert_allclose(each.sum(axis=-1), 1, atol=1e-12)
        assert (each >= 0).all()
    np.testing.assert_allclose(out.sum(axis=-1), 1, rtol=1e-9)


@hypothesis.given(seeds, st.integers(2, 5))
def test_lift_is_zero_at_the_tokens_shares_and_rises(seed, count):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 500, (7, count))
    uniform = tokens / tokens.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(lift(uniform, tokens), 0, atol=1e-12)
    more = uniform.copy()
    more[:, 0] += 0.5 * (1 - uniform[:, 0])
    more[:, 1:] *= 0.5
    moved = lift(more, tokens)
    assert (moved[:, 0] > 0).all()
    assert (moved[:, 1:] < 0).all()


def test_an_opposing_group_has_a_negative_output_share():
    np.testing.assert_allclose(output_share(np.array([[3.0, 0.0], [-1.0, 0.0]])), [1.5, -0.5])
    with pytest.raises(Undefined, match="1 of 2 rows"):
        output_share(np.array([[[1.0], [-1.0]], [[1.0], [1.0]]]))


def test_magnitude_share_and_net():
    attribution, groups = np.array([[2.0, -2.0, 4.0], [1.0, 0.0, 0.0]]), ("audio", "audio", "video")
    np.testing.assert_allclose(magnitude_share(attribution, groups, NAMES), [[0.5, 0.5, 0], [1, 0, 0]])
    np.testing.assert_allclose(group_sums(attribution, groups, NAMES), [[0, 4, 0], [1, 0, 0]])
    # The caller's order of names.
    np.testing.assert_allclose(magnitude_share(attribution, groups, ("video", "audio"))[1], [0, 1])
    with pytest.raises(Undefined, match="1 of 2 rows"):
        magnitude_share(attribution * [[1], [0]], groups, NAMES)
    with pytest.raises(Undefined, match="2 of 2 rows"):
        share(np.full((2, 3), 1e-9), resolution=1e-6)


def test_heads_that_differ_are_seen():
    shares = np.repeat([[0.0, 1.0], [1.0, 0.0]], 50, axis=0)[None]
    found = over_heads(shares)
    np.testing.assert_allclose(found["mean"], [[0.5, 0.5]])
    np.testing.assert_allclose(found["q05"], [[0, 0]])
    np.testing.assert_allclose(found["q50"], [[0.5, 0.5]])
    np.testing.assert_allclose(found["q95"], [[1, 1]])


def test_names_are_checked():
    with pytest.raises(ValueError, match="not all among"):
        members(("audio", "text"), ("audio", "video"))
    with pytest.raises(ValueError, match="different"):
        members(("audio",), ("audio", "audio"))
    with pytest.raises(Undefined, match="no query"):
        attention_share(np.ones((2, 1)), np.zeros(2, bool))
