"""Layers that ask across modalities, against their equations with what is not valid taken out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.nn.fusion import CrossAttentionFusion, MergedFusion, UnimodalLayer
from avjax.nn.fusion.crossmodal import AsymmetricFusion, CoAttentionFusion, ParallelCrossAttention
from avjax.nn.fusion.directional import CrossModalTransformer
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, PostNormBlock, Size
from tests.models import reference
from tests.nn.fusion.streams import check, check_bfloat16, check_parameters, relu, rows, run, sites, stream

SIZE = Size(width=8, depth=2, heads=2, hidden=2)
NAMES = ("audio", "video", "touch")


def tokens(rng, names=NAMES):
    """A row of everything; one without sound; one with sound alone; one with nothing."""
    missing = {"audio": (1, 3), "video": (2, 3), "touch": (2, 3)}
    return {m: stream(rng, 4, n, 8, missing=missing[m]) for m, n in zip(NAMES, (5, 4, 3), strict=True) if m in names}


def blocks(names, kind=Block):
    rngs = nnx.Rngs(0)
    return {m: kind(SIZE, rngs=rngs) for m in names}


def others(x, m):
    return [x[k] for k in NAMES if k in x and k != m]


@pytest.mark.parametrize("residual", [False, True])
def test_co_attention(residual, rng):
    given = tokens(rng)
    p, (fused, _) = run(CoAttentionFusion(blocks(NAMES), NAMES, residual=residual), rng, given)
    for row in range(4):
        x = rows(given, row)
        for m in x:
            want = x[m]
            if others(x, m):
                want = reference.block(x[m], np.concatenate(others(x, m)), p["blocks"][m], 2) + residual * x[m]
            check(fused[m], row, want)


def test_asymmetric(rng):
    given = tokens(rng)
    p, (fused, _) = run(AsymmetricFusion("video", blocks(["audio", "video"]), NAMES), rng, given)
    for row in range(4):
        x = rows(given, row)
        for m in x:
            want = x[m]
            if m == "audio":
                want = reference.block(x[m], x[m], p["blocks"][m], 2)
            elif m == "video" and others(x, m):
                want = reference.block(x[m], np.concatenate(others(x, m)), p["blocks"][m], 2)
            check(fused[m], row, want)


@pytest.mark.parametrize(("keys", "post_norm"), [("others", False), ("others", True), ("own", True), ("union", False)])
def test_parallel_cross_attention(keys, post_norm, rng):
    given = tokens(rng)
    layer = ParallelCrossAttention(8, 2, NAMES, keys=keys, post_norm=post_norm, rngs=nnx.Rngs(0))
    p, (fused, _) = run(layer, rng, given)
    for row in range(4):
        x = rows(given, row)
        for m in x:
            asked = {"others": others(x, m), "own": [x[m]], "union": [x[k] for k in NAMES if k in x]}[keys]
            want = x[m]
            if asked:
                want = want + reference.attention(x[m], np.concatenate(asked), p["attention"][m], 2)
            check(fused[m], row, reference.layer_norm(want, p["norm"][m]) if post_norm else want)


def mult_block(z, y, p, causal, places):
    """MulT's layer, query by query: each sees what ``causal`` lets it, of keys that are there."""
    normed, other = reference.layer_norm(z, p["norm_attention"]), reference.layer_norm(y, p["norm_attention"])
    queries, keys, slack = places
    new = []
    for x, i in zip(normed, queries, strict=True):
        seen = other[[not causal or j - i <= slack for j in keys]]
        new.append(reference.attention(x[None], seen, p, 2)[0] if len(seen) else p["out"]["bias"])
    z = z + np.array(new)
    hidden = relu(reference.dense(reference.layer_norm(z, p["norm_feed_forward"]), p["feed_forward"]["up"]))
    return z + reference.dense(hidden, p["feed_forward"]["down"])


@pytest.mark.parametrize(("causal", "lengths"), [(True, (5, 4)), (True, (3, 6)), (False, (3, 6))])
def test_mult_asks_the_first_features_at_every_layer(causal, lengths, rng):
    target = stream(rng, 4, lengths[0], 8, missing=(3,))
    source = stream(rng, 4, lengths[1], 8, missing=(1, 3))
    module = CrossModalTransformer(SIZE, source="video", target="audio", causal=causal, rngs=nnx.Rngs(0))
    p, result = run(module, rng, target, source, scale=0.2)
    for row in range(3):
        x = rows({"target": target, "source": source}, row)
        z = x["target"]
        places = [np.flatnonzero(np.asarray(s.valid)[row]) for s in (target, source)]
        for layer in range(2 if "source" in x else 0):
            block = p["layers"][layer]["blocks"]["audio"]
            z = mult_block(z, x["source"], block, causal, (*places, abs(lengths[1] - lengths[0])))
        check(result, row, reference.layer_norm(z, p["norm"]))
    assert (np.asarray(result.values)[~np.asarray(target.valid)] == 0).all()


@pytest.mark.slow
def test_mult_scanned_is_the_same(rng):
    module = CrossModalTransformer(SIZE, source="video", target="audio", rngs=nnx.Rngs(0))
    target, source = stream(rng, 2, 5, 8), stream(rng, 2, 4, 8)
    one, other = module(target, source), nnx.view(module, scan=True, remat="full")(target, source)
    np.testing.assert_allclose(other.values, one.values, rtol=1e-5, atol=1e-5)


def test_the_family_of_hendricks_in_one_stack(rng):
    """Every member maps tokens to the same, with post-norm blocks too, and reports under names of its own."""
    pair = NAMES[:2]
    given = tokens(rng, pair)
    cleaned = {m: s.replace(values=jnp.where(s.valid[..., None], s.values, 0)) for m, s in given.items()}
    family = {
        "merged": CrossAttentionFusion(blocks(pair, PostNormBlock), pair),
        "single": UnimodalLayer(blocks(pair), pair),
        "stream": MergedFusion(Block(SIZE, rngs=nnx.Rngs(0)), pair),
        "asymmetric": AsymmetricFusion("audio", blocks(pair, PostNormBlock), pair),
        "co": CoAttentionFusion(blocks(pair, PostNormBlock), pair),
        "parallel": ParallelCrossAttention(8, 2, pair, rngs=nnx.Rngs(0)),
    }
    found = {name: sites(Stack(name, [layer]), cleaned) for name, layer in family.items()}
    assert (
        found["co"]
        == {"co.audio": ("video",), "co.video": ("audio",)}
        == {key.replace("parallel", "co"): names for key, names in found["parallel"].items()}
    )
    assert found["asymmetric"] == {"asymmetric.audio": ("video",), "asymmetric.video": ("video",)}
    assert found["merged"]["merged.audio"] == pair
    fused, bottleneck = jax.eval_shape(Stack("mixed", list(family.values())), cleaned)
    assert bottleneck is None
    assert jax.tree.structure(fused) == jax.tree.structure(cleaned)
    module = CrossModalTransformer(SIZE, source="video", target="audio", rngs=nnx.Rngs(0))
    assert sites(module, given["audio"], given["video"]) == {"video_to_audio.audio": ("video",)}


@pytest.mark.parametrize("layer", [CoAttentionFusion, ParallelCrossAttention])
def test_narrow_numbers_and_axes(layer, rng):
    made = layer(8, 2, NAMES, rngs=nnx.Rngs(0)) if layer is ParallelCrossAttention else layer(blocks(NAMES), NAMES)
    check_parameters(made)
    check_bfloat16(made, tokens(rng))
