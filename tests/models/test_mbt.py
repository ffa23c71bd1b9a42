"""MBT against the paper's equations in float64 (reference.py), and what no equation says: missing, hidden, order."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import late_fusion, mbt
from avjax.nn.encoders import Patches
from avjax.nn.transformer import SIZES, Size
from avjax.training.step import split_model
from tests.levels import in_quick
from tests.models import reference, tiny

VARIANTS = {
    "middle": {},
    "early": {"fusion_layer": 0, "bottlenecks": 1},
    "late": {"fusion_layer": 2},
    "sequential": {"fusion_layer": 0, "update": "sequential"},
    "cross": {"fusion_layer": 0, "fusion": "cross"},
    "merged": {"fusion": "merged"},
    "mean of tokens": {"pool": "gap"},
    "merged, mean of tokens": {"fusion": "merged", "pool": "gap", "fusion_layer": 0},
    "shared encoder": {"shared_encoder": True},
    "one modality": {"modalities": (tiny.AUDIO,)},
    "three modalities": {"modalities": (tiny.TOUCH, tiny.VIDEO, tiny.AUDIO), "fusion_layer": 0},
    "three, in turn": {"modalities": (tiny.TOUCH, tiny.VIDEO, tiny.AUDIO), "update": "sequential"},
    "three, crosswise": {"modalities": (tiny.TOUCH, tiny.VIDEO, tiny.AUDIO), "fusion": "cross", "pool": "gap"},
}
# A first fusion layer, one in the middle, and a last one.
DEEP = {"size": Size(16, 4, 2), "fusion_layer": 1}
QUICK = ("middle", "sequential", "three, crosswise")
EACH = in_quick(VARIANTS, QUICK)
SLOW = [pytest.mark.slow]
ROWS = 6


@functools.cache
def compiled(variant: str):
    """Configuration, parameters' structure, and the jitted (encode, then fuse) of a variant."""
    config = tiny.config(**VARIANTS[variant])
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))

    @tiny.jit
    def forward(params, batch, keep_encode, keep_fuse):
        model = nnx.merge(graph, params, *rest)
        return model.fuse(model.encode(batch, keep_encode), keep_fuse).logits

    return config, params, forward


def case(variant, rng):
    """A batch in which rows miss time steps, one modality, or all, and random keep masks.

    Row 0 is whole, the last has nothing, row 1 only the first modality, row 2 all but the first.
    """
    config, params, forward = compiled(variant)
    batch = tiny.batch(rng, config.modalities, ROWS)
    keep = []
    for _ in range(2):
        masks = {p.modality: rng.random((ROWS, p.tokens)) < 0.8 for p in config.modalities}
        for mask in masks.values():
            mask[0] = True
        keep.append(masks)
    for number, patches in enumerate(config.modalities):
        valid = rng.random((ROWS, patches.shape[0])) < 0.7
        valid[0], valid[-1] = True, False
        valid[1], valid[2] = number == 0, number > 0
        stream = batch.streams[patches.modality]
        batch.streams[patches.modality] = stream.replace(valid=valid)
    return config, tiny.randomise(params, rng), forward, batch, *keep


def seen(patches: Patches, valid, keep):
    """[B, N] tokens that take part."""
    return np.asarray(patches.valid(jnp.asarray(valid))) & keep


@pytest.mark.parametrize("variant", EACH)
def test_equals_the_equations(variant, rng):
    config, params, forward, batch, keep_encode, keep_fuse = case(variant, rng)
    logits = forward(params, batch, keep_encode, keep_fuse)
    weights = tiny.plain(params)
    for row in range(ROWS):
        expected = reference.mbt(
            weights,
            config,
            {m: s.values[row].astype(np.float64) for m, s in batch.streams.items()},
            {m: s.valid[row] for m, s in batch.streams.items()},
            {m: k[row] for m, k in keep_encode.items()},
            {m: k[row] for m, k in keep_fuse.items()},
        )
        assert expected.keys() <= logits.keys()
        for name, numbers in expected.items():
            np.testing.assert_allclose(logits[name][row], numbers, rtol=1e-4, atol=2e-5, err_msg=f"{name}, row {row}")
    assert all(np.isfinite(numbers).all() for numbers in logits.values())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(DEEP, id="deep"),
        pytest.param(DEEP | {"modalities": (tiny.TOUCH, tiny.VIDEO, tiny.AUDIO)}, id="deep, three modalities",
                     marks=pytest.mark.slow),
        *(
            pytest.param(changes, id=name, marks=SLOW if name in QUICK else [*SLOW, pytest.mark.long])
            for name, changes in VARIANTS.items()
        ),
    ],
)  # fmt: skip
def test_each_modality_alone_and_then_all(changes, rng):
    """What comes of ``alone`` and ``logits`` are the logits of ``fuse``, and nothing of another modality goes in."""
    config = tiny.config(**changes)
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    given = tiny.batch(rng, config.modalities, ROWS)
    for number, patches in enumerate(config.modalities):
        stream = given.streams[patches.modality]
        valid = rng.random(stream.valid.shape) < 0.7
        # The last row has nothing, the one before lacks the first modality alone.
        valid[-1], valid[-2] = False, number > 0
        given.streams[patches.modality] = stream.replace(valid=valid)

    @tiny.jit
    def both(params, given):
        model = nnx.merge(graph, params, *rest)
        tokens = model.encode(given)
        parts = {m: model.alone(m, tokens[m]) for m in model.modalities}
        return model.fuse(tokens).logits, model.logits(parts)

    whole, by_parts = both(tiny.randomise(params, rng, 0.2), given)
    for head in tiny.CLASSES:
        np.testing.assert_allclose(by_parts[head], whole[head], rtol=1e-4, atol=2e-5)
        assert np.abs(whole[head]).max() > 0.1


@pytest.mark.parametrize("variant", EACH)
def test_what_is_missing_or_hidden_does_not_matter(variant, rng):
    config, params, forward, batch, keep_encode, keep_fuse = case(variant, rng)
    streams = {}
    for patches in config.modalities:
        stream = batch.streams[patches.modality]
        # Patches that take no part, in the layout of the values.
        hidden = ~seen(patches, stream.valid, keep_encode[patches.modality])
        grid = hidden.reshape(ROWS, *patches.grid)
        for axis, step in enumerate(patches.patch, start=1):
            grid = grid.repeat(step, axis=axis)
        grid = grid.reshape(grid.shape + (1,) * (stream.values.ndim - grid.ndim))
        assert grid.any()
        noise = 100 * rng.normal(size=stream.values.shape).astype(np.float32)
        streams[patches.modality] = stream.replace(values=np.where(grid, noise, stream.values))
    before = forward(params, batch, keep_encode, keep_fuse)
    after = forward(params, batch.replace(streams=streams), keep_encode, keep_fuse)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.mark.parametrize("variant", ["middle", pytest.param("three, in turn", marks=pytest.mark.slow)])
def test_gradients_to_what_is_missing_are_zero(variant, rng):
    config, params, forward, batch, keep_encode, keep_fuse = case(variant, rng)
    values = {m: s.values for m, s in batch.streams.items()}
    weight = {head: rng.normal(size=(ROWS, k)).astype(np.float32) for head, k in tiny.CLASSES.items()}

    @tiny.jit
    def gradients(values, params, batch, keep_encode, keep_fuse):
        def loss(values, params):
            streams = {m: batch.streams[m].replace(values=values[m]) for m in values}
            logits = forward.__wrapped__(params, batch.replace(streams=streams), keep_encode, keep_fuse)
            return sum((logits[head] * weight[head]).sum() for head in weight)

        return jax.grad(loss, argnums=(0, 1))(values, params)

    to_values, to_params = gradients(values, params, batch, keep_encode, keep_fuse)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(to_params))
    for patches in config.modalities:
        m = patches.modality
        gradient = np.abs(np.asarray(patches.cut(to_values[m]))).max(axis=2)
        there = seen(patches, batch.streams[m].valid, keep_encode[m])
        assert (gradient[~there] == 0).all()
        # Hidden in the fusion layers only: still seen by its own modality's encoder, if any of that is left.
        fused = there & keep_fuse[m]
        assert (gradient[fused] > 0).all()


def test_hidden_from_every_layer_is_not_hidden_from_the_fusion_layers(rng):
    _, params, forward, batch, keep, _ = case("middle", rng)
    everything = {m: np.ones_like(k) for m, k in keep.items()}
    keep["audio"][0, 0] = False
    early, late = forward(params, batch, keep, everything), forward(params, batch, everything, keep)
    assert np.abs(early["emotion"][0] - late["emotion"][0]).max() > 1e-6


@pytest.mark.parametrize(
    "variant",
    ["middle", *(pytest.param(name, marks=pytest.mark.slow) for name in ("three modalities", "one modality"))],
)
def test_fused_logits_are_the_mean_of_the_modalities(variant, rng):
    config, params, forward, batch, keep, _ = case(variant, rng)
    everything = {m: np.ones_like(k) for m, k in keep.items()}
    logits = forward(params, batch, everything, everything)
    for head in tiny.CLASSES:
        own = [logits[f"{head}/{p.modality}"][0] for p in config.modalities]
        np.testing.assert_allclose(logits[head][0], np.mean(own, axis=0), rtol=1e-5, atol=1e-6)
    # A row without anything says nothing of any class.
    assert (np.asarray(logits["emotion"][-1]) == 0).all()


def test_order_is_the_configuration_s(rng):
    """In turn, the order shows: it must be the configuration's, however the dict was filled."""
    _, params, forward, batch, keep, _ = case("three, in turn", rng)
    everything = {m: np.ones_like(k) for m, k in keep.items()}
    reordered = batch.replace(streams=dict(reversed(batch.streams.items())))
    first, second = (forward(params, b, everything, everything) for b in (batch, reordered))
    np.testing.assert_array_equal(first["emotion"], second["emotion"])

    other = tiny.config(modalities=(tiny.AUDIO, tiny.VIDEO, tiny.TOUCH), update="sequential")
    graph, _, *rest = split_model(other.build(nnx.Rngs(0)))
    swapped = tiny.jit(lambda p, b: nnx.merge(graph, p, *rest)(b).logits)(params, batch)
    assert np.abs(swapped["emotion"][0] - first["emotion"][0]).max() > 1e-6


def test_fusion_after_the_last_layer_is_late_fusion(rng):
    _, params, forward, batch, keep, _ = case("late", rng)
    everything = {m: np.ones_like(k) for m, k in keep.items()}
    config = late_fusion.Config((tiny.VIDEO, tiny.AUDIO), tiny.CLASSES, tiny.SIZE)
    graph, own, *rest = split_model(config.build(nnx.Rngs(1)))
    weights = nnx.to_pure_dict(params)
    weights["layers"] = weights.pop("unimodal")
    for shared in ("norm", "classify"):
        weights[shared] = dict.fromkeys(("video", "audio"), weights[shared])
    nnx.replace_by_pure_dict(own, weights)

    @tiny.jit
    def late(params, batch):
        return nnx.merge(graph, params, *rest)(batch).logits

    expected, logits = forward(params, batch, everything, everything), late(own, batch)
    assert expected.keys() == logits.keys()
    for name in expected:
        np.testing.assert_allclose(logits[name], expected[name], rtol=1e-5, atol=1e-6)


def test_bfloat16_is_close(rng):
    _, params, forward, batch, keep, _ = case("middle", rng)
    everything = {m: np.ones_like(k) for m, k in keep.items()}
    params = jax.tree.map(lambda x: 0.5 * x, params)
    half = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)  # noqa: E731
    streams = {m: s.replace(values=half(s.values)) for m, s in batch.streams.items()}
    exact = forward(params, batch, everything, everything)
    rough = forward(half(params), batch.replace(streams=streams), everything, everything)
    for name in exact:
        assert rough[name].dtype == jnp.float32
        scale = np.abs(exact[name]).max()
        np.testing.assert_allclose(rough[name], exact[name], atol=0.05 * scale, err_msg=name)
    # And not equal: bfloat16 was really used.
    assert np.abs(exact["emotion"] - rough["emotion"]).max() > 1e-5


def test_every_class_is_equally_likely_at_first(rng):
    _, _, forward, batch, keep, _ = case("middle", rng)
    _, params, *_ = split_model(tiny.config().build(nnx.Rngs(3)))
    logits = forward(params, batch, keep, keep)
    assert all((np.asarray(numbers) == 0).all() for numbers in logits.values())


# Published counts with 1000 classes, without the classifier. Ours counts the class token's position into the token.
PUBLISHED = {
    "Ti": 5_717_416 - 193_000,
    "S": 22_050_664 - 385_000,
    "B": 86_567_656 - 769_000,
    "L": 304_326_632 - 1_025_000,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_vit_s(name):
    image = Patches("video", shape=(1, 224, 224, 3), patch=(1, 16, 16))
    config = late_fusion.Config((image,), {"class": 1000}, SIZES[name])
    model = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    params = nnx.state(model, nnx.Param)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params))
    count = sum(x.size for x in jax.tree.leaves(params)) - 1000 * (config.size.width + 1)
    assert count == PUBLISHED[name] - config.size.width


def test_mbt_s_size():
    """Two ViT-B, of which the last norm is one, and the bottleneck (paper: 4 tokens)."""
    spectrogram = Patches("audio", shape=(800, 128), patch=(16, 16))
    frames = Patches("video", shape=(32, 224, 224, 3), patch=(2, 16, 16), central_frame=True)
    assert (spectrogram.tokens, frames.tokens) == (400, 16 * 196)
    config = mbt.Config((frames, spectrogram), {"class": 527})
    params = nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))), nnx.Param)
    count = sum(x.size for x in jax.tree.leaves(params))
    encoder = PUBLISHED["B"] - 768 * 197 - (768 * 768 + 768) - 768
    expected = 2 * (encoder - 2 * 768) + 2 * 768 + 4 * 768 + 769 * 527 + 2 * 768
    expected += (256 * 768 + 768) + (2 * 768 * 768 + 768) + (400 + 3136) * 768
    assert count == expected


def test_misfit_configurations_are_refused():
    with pytest.raises(ValueError, match="fusion_layer 3 is not between 0 and the depth, 2"):
        tiny.config(fusion_layer=3)
    with pytest.raises(ValueError, match="bottlenecks >= 1"):
        tiny.config(bottlenecks=0)
    assert dataclasses.replace(tiny.config(), fusion="merged", bottlenecks=0).fusion == "merged"


@pytest.mark.slow
def test_the_release_has_175_million_parameters():
    """Its balanced AudioSet model: 32 frames in tubelets of two, spectrograms of three channels, mean of tokens."""
    audio, video = Patches("audio", (800, 128, 3), (16, 16)), Patches("video", (32, 224, 224, 3), (2, 16, 16))
    config = mbt.Config((audio, video), {"event": 527}, pool="gap")
    model = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    found = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    width = 768
    block = 4 * (width + 1) * width + (width + 1) * 3072 + 3073 * width + 4 * width
    embeddings = (2 * 16 * 16 * 3 + 1) * width + (16 * 16 * 3 + 1) * width + (16 * 14 * 14 + 50 * 8) * width
    assert found == 24 * block + embeddings + 4 * width + 2 * width + (width + 1) * 527
    # As its checkpoints have.
    assert found == pytest.approx(175.0e6, abs=0.05e6)
