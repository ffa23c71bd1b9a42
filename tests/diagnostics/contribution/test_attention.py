"""Shares of attention from a model's own records, against loops over dense weights in float64."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.diagnostics.contribution.attention import (
    GroupShares,
    asked,
    asking,
    efficiencies,
    entropies,
    keys_of,
    lifts,
    mass_shares,
    output_shares,
    tokens_in_sight,
    value_weighted_shares,
)
from avjax.diagnostics.measured import Undefined
from avjax.nn.attention import attend, cross_mask, towers_mask
from avjax.nn.statistics import KEY_VALID, VALUE_MASS, recording, site
from kernels.attention import Layout
from tests.models import tiny

# The towers of a bottleneck, three rows, two heads.
TOWERS = [Layout.of(video=4, bottleneck_video=2), Layout.of(audio=3, bottleneck_audio=2)]
NAMES = ("video", "bottleneck_video", "audio", "bottleneck_audio")
LENGTHS = (4, 2, 3, 2)
RANGES = ((0, 4), (4, 6), (6, 9), (9, 11))
SEES = {"video": NAMES[:2], "bottleneck_video": NAMES[:2], "audio": NAMES[2:], "bottleneck_audio": NAMES[2:]}
CLOSE = {"rtol": 1e-10, "atol": 1e-14}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def there():
    """Steps that are missing; the last row has no sound."""
    valid = {"video": np.ones((3, 4), bool), "audio": np.ones((3, 3), bool)}
    valid["video"][0, 3:] = valid["audio"][1, 1:] = valid["audio"][2] = False
    return valid


@tiny.jit
def attended(layers, projection, valid):
    """Records of so many layers [query, key, value]."""
    ones = jnp.ones((3, 2), bool)
    both = [jnp.concatenate([valid[m], ones], axis=1) for m in ("video", "audio")]

    def norms(value):
        return jnp.linalg.norm(jnp.einsum("bnhd,hdc->bnhc", value, projection), axis=-1)

    names = ("mass", "output_product", VALUE_MASS, "entropy", "group_entropy", KEY_VALID)
    with recording(names) as sites, site("fusion"):
        for layer in layers:
            attend(*layer, towers_mask(TOWERS, both), site="", value_norms=norms)
    return sites["fusion"]


def weights_of(query, key, valid):
    """P [B, H, N, N] with towers and missing tokens left out."""
    seen = np.zeros((3, 11, 11), bool)
    alive = np.concatenate([valid["video"], np.ones((3, 2), bool), valid["audio"], np.ones((3, 2), bool)], axis=1)
    seen[:, :6, :6] = seen[:, 6:, 6:] = True
    seen &= alive[:, None]
    scores = np.einsum("bihd,bjhd->bhij", query, key) / math.sqrt(query.shape[-1])
    weights = np.where(seen[:, None], np.exp(scores), 0)
    return weights / weights.sum(-1, keepdims=True), alive


def test_shares_are_loops_over_dense_weights(rng):
    """Mass, output and value-weighted shares of two layers, by sample, head, and group."""
    valid = there()
    layers = rng.normal(size=(2, 3, 3, 11, 2, 4))
    projection = rng.normal(size=(2, 4, 5))
    found = attended(jnp.asarray(layers), jnp.asarray(projection), jax.tree.map(jnp.asarray, valid))
    mass, weighted, output = mass_shares(found, valid), value_weighted_shares(found, valid), output_shares(found, valid)
    assert mass.queries == mass.keys == NAMES
    for layer, row, head in np.ndindex(2, 3, 2):
        query, key, value = layers[layer]
        weights, alive = weights_of(query, key, valid)
        p, v = weights[row, head], value[row, :, head]
        norms = [math.sqrt(sum(x**2 for x in v[j] @ projection[head])) for j in range(11)]
        for group, (begin, end) in enumerate(RANGES):
            asking = [i for i in range(begin, end) if alive[row, i]]
            # Where there is no sound, there is no bottleneck of sound either.
            exists = bool(asking) and not (row == 2 and group >= 2)
            for shares in (mass, output, weighted):
                assert shares.defined[layer, row, head, group] == exists
                if not exists:
                    assert not shares.values[layer, row, head, group].any()
            if not exists:
                continue
            square = sum(float((p[i] @ v) @ (p[i] @ v)) for i in asking)
            for g, (first, last) in enumerate(RANGES):
                of = (layer, row, head, group, g)
                expected = np.mean([p[i, first:last].sum() for i in asking])
                np.testing.assert_allclose(mass.values[of], expected, **CLOSE)
                parts = [float((p[i, first:last] @ v[first:last]) @ (p[i] @ v)) for i in asking]
                np.testing.assert_allclose(output.values[of], sum(parts) / square, **CLOSE)
                own = [sum(p[i, j] * norms[j] for j in range(first, last)) for i in asking]
                every = [sum(p[i, j] * norms[j] for j in range(11)) for i in asking]
                expected = np.mean([a / b for a, b in zip(own, every, strict=True)])
                np.testing.assert_allclose(weighted.values[of], expected, **CLOSE)
    # Means over the samples that have the group.
    audio = NAMES.index("audio")
    np.testing.assert_allclose(mass.by_head("audio"), mass.values[:, :2, :, audio].mean(1), **CLOSE)
    heads = mass.over_heads("audio")
    np.testing.assert_allclose(heads["mean"], mass.values[:, :2, :, audio].mean((1, 2)), **CLOSE)
    ends = np.sort(mass.values[:, :2, :, audio].mean(1), axis=1)
    np.testing.assert_allclose(heads["q05"], ends[:, 0] + 0.05 * (ends[:, 1] - ends[:, 0]), **CLOSE)
    with pytest.raises(Undefined, match="no sample has a valid query among 'audio'"):
        mass.by_head("audio", [2])
    with pytest.raises(ValueError, match="audio: 3 tokens of 3 samples, but validity"):
        mass_shares(found, {"audio": np.ones((3, 2), bool)})


def test_entropies_are_loops_over_dense_weights(rng):
    """Over the logarithm of the valid keys in sight; who asks and is asked is read off the masks."""
    valid = there()
    layers = rng.normal(size=(2, 3, 3, 11, 2, 4))
    found = attended(jnp.asarray(layers), jnp.ones((2, 4, 5)), jax.tree.map(jnp.asarray, valid))
    queries, keys = asking(found, keys_of([asked(found)])), asked(found)
    assert set(queries) == {"audio", "video"}
    for modality, of in valid.items():
        np.testing.assert_array_equal(queries[modality], of)
        np.testing.assert_array_equal(keys[modality], of)
    whole, within = entropies(found, queries, keys)
    for layer, row, head, group in np.ndindex(2, 3, 2, 4):
        weights, alive = weights_of(*layers[layer, :2], valid)
        weights, alive = weights[row, head], alive[row]
        asks = [i for i in range(*RANGES[group]) if alive[i] and not (row == 2 and group >= 2)]
        sight = [j for j in range(11) if alive[j] and (j < 6) == (group < 2)]

        def mean(over, asks=asks, weights=weights):
            """Of the queries' -sum p ln p over these keys, by what it would be of even weights."""
            if len(over) < 2 or not asks:
                return np.nan
            p = weights[np.ix_(asks, over)] / weights[np.ix_(asks, over)].sum(axis=1, keepdims=True)
            return np.mean(-(p * np.log(p)).sum(axis=1)) / math.log(len(over))

        np.testing.assert_allclose(whole[layer, row, head, group], mean(sight), rtol=1e-9)
        for g, (first, last) in enumerate(RANGES):
            own = [j for j in sight if first <= j < last]
            np.testing.assert_allclose(within[layer, row, head, group, g], mean(own), rtol=1e-9)


def test_uniform_attention_has_the_tokens_shares(rng):
    """KA: Q = 0: AMS_g = N_g / N of the valid tokens in sight, LIFT 0 and EFF 1, with missing tokens and towers."""
    valid = there()
    layers = rng.normal(size=(2, 3, 3, 11, 2, 4))
    layers[:, 0] = 0
    found = attended(jnp.asarray(layers), jnp.ones((2, 4, 5)), jax.tree.map(jnp.asarray, valid))
    mass, tokens = mass_shares(found, valid), tokens_in_sight(found, valid)
    np.testing.assert_array_equal(tokens[0], [[3, 2, 0, 0]] * 2 + [[0, 0, 3, 2]] * 2)
    np.testing.assert_array_equal(tokens[2, 2], [0, 0, 0, 0])
    expected = tokens / tokens.sum(-1, keepdims=True).clip(1)
    np.testing.assert_allclose(mass.values, np.broadcast_to(expected[:, None], mass.values.shape), **CLOSE)
    for queries in NAMES:
        names, lifted = lifts(mass, tokens, queries)
        assert names == SEES[queries]
        np.testing.assert_allclose(lifted, 0, atol=1e-12)
        names, found = efficiencies(mass, tokens, queries)
        assert names == SEES[queries]
        np.testing.assert_allclose(found, 1, rtol=1e-12)


def test_low_mass_above_chance():
    """KA: AMS = 0.2 with 64 of 576 tokens: LIFT = log 2; in a mean over samples with the mean of both."""
    mass = GroupShares(("all",), ("audio", "video"), np.full((1, 2, 1, 1, 2), (0.2, 0.8)), np.ones((1, 2, 1, 1), bool))
    tokens = np.array([[[64, 512]]] * 2)
    names, lifted = lifts(mass, tokens, "all")
    assert names == ("audio", "video")
    np.testing.assert_allclose(lifted, [[[math.log(2), -math.log(2)]]], rtol=1e-12)
    np.testing.assert_allclose(efficiencies(mass, tokens, "all")[1], [[[1.8, 0.9]]], rtol=1e-12)
    whole = GroupShares(("all",), ("audio",), np.ones((1, 2, 1, 1, 1)), np.ones((1, 2, 1, 1), bool))
    with pytest.raises(Undefined):
        lifts(whole, tokens[..., :1], "all")


@tiny.jit
def decision(value, key):
    mask = cross_mask(Layout.of(query=1), Layout.of(audio=5, video=5), jnp.ones((4, 10), bool))
    with recording(("mass", "output_product", VALUE_MASS)) as sites:
        attend(jnp.ones((4, 1, 1, 1)), key, value, mask, site="decision")
    return sites["decision"]


@pytest.mark.parametrize("pull", [0.0, 4.0])
def test_a_decoy(pull, rng):
    """KA: video has values of 0: AMS_v is 0.5 under uniform attention, or as high as wanted; the others say audio."""
    value = rng.normal(size=(4, 10, 1, 3))
    value[:, 5:] = 0
    key = np.broadcast_to((np.arange(10) >= 5)[None, :, None, None] * pull, (4, 10, 1, 1))
    found = decision(jnp.asarray(value), jnp.asarray(key))
    video = math.exp(pull) / (1 + math.exp(pull))
    np.testing.assert_allclose(mass_shares(found, {}).by_head("query"), [[[1 - video, video]]], rtol=1e-12)
    np.testing.assert_allclose(output_shares(found, {}).by_head("query"), [[[1, 0]]], atol=1e-14)
    np.testing.assert_allclose(value_weighted_shares(found, {}).by_head("query"), [[[1, 0]]], atol=1e-14)


def test_one_hot_attention_and_nothing_at_all(rng):
    """KA: all weight on a token of video: AMS_v = 1, and no finite lift. Values of 0: no output to share."""
    key = np.zeros((4, 10, 1, 1))
    key[:, 7] = 1000
    found = decision(jnp.asarray(np.zeros((4, 10, 1, 3))), jnp.asarray(key))
    mass = mass_shares(found, {})
    np.testing.assert_allclose(mass.by_head("query"), [[[0, 1]]], atol=1e-300)
    with pytest.raises(Undefined, match="odds are infinite"):
        lifts(mass, tokens_in_sight(found, {}), "query")
    with pytest.raises(Undefined, match="no sample has a valid query"):
        output_shares(found, {}).by_head("query")


def test_parts_that_cancel_leave_no_output_to_share(rng):
    """Sound and pictures say the opposite in one sample; a second, where they do not quite, still has its share."""
    value = np.zeros((4, 10, 1, 3))
    value[:, :5], value[:, 5:] = 1.0, -1.0
    value[1:, :5] = 3.0
    found = output_shares(decision(jnp.asarray(value), jnp.asarray(np.zeros((4, 10, 1, 1)))), {})
    assert found.defined[0, :, 0, 0].tolist() == [False, True, True, True]
    np.testing.assert_allclose(found.values[0, 1:, 0, 0], [[1.5, -0.5]] * 3, rtol=1e-12)


@pytest.mark.slow
def test_no_matrix_of_all_tokens_is_made():
    tokens = 4096
    arrays = [jnp.ones((1, tokens, 1, 16), jnp.float32)] * 3
    mask = cross_mask(Layout.of(tokens=tokens), Layout.of(audio=1024, video=3072), jnp.ones((1, tokens), bool))

    @tiny.jit
    def report(query, key, value):
        with recording((VALUE_MASS,)) as sites:
            attend(query, key, value, mask)
        return sites

    compiled = report.lower(*arrays).compile()
    shapes = re.findall(r"(?:f32|pred|s32|u32)\[([\d,]+)\]", compiled.as_text())
    sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
    assert len(sizes) > 10
    assert max(sizes) < tokens * tokens / 6
