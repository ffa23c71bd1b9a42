"""Statistics of a model's attention, asked for from outside: sites, layers, the same under scan, remat and meshes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import late_fusion
from avjax.nn.attention import attend
from avjax.nn.placement import Placement, placed_on
from avjax.nn.statistics import (
    KEY_VALID,
    VALUE_MASS,
    call_and_capture,
    capture_statistics,
    dividing,
    key_valid,
    recording,
    site,
    tapped,
    tapping,
    wanted,
)
from avjax.nn.transformer import Size
from avjax.training.sharding import MeshShape, Rules
from avjax.training.step import split_model
from kernels.attention import STATISTICS, Layout, Mask, attention
from tests.levels import in_part, in_short
from tests.models import tiny

SIZE = Size(8, 4, 2)
ROWS = 8
NAMES = (*(name for name in STATISTICS if name != "group_output"), VALUE_MASS, KEY_VALID)
SITES = {
    "bottleneck": (
        tiny.config(size=SIZE, fusion_layer=1),
        {"unimodal.audio": 1, "unimodal.video": 1, "fusion": 3},
    ),
    "in turn": (
        tiny.config(size=SIZE, fusion_layer=3, update="sequential"),
        {
            "unimodal.audio": 3, "unimodal.video": 3,
            "fusion.audio+bottleneck_audio": 1, "fusion.video+bottleneck_video": 1,
        },
    ),
    "cross, shared": (
        tiny.config(size=SIZE, fusion_layer=2, fusion="cross", shared_encoder=True),
        {"unimodal.audio": 2, "unimodal.video": 2, "fusion.audio": 2, "fusion.video": 2},
    ),
    "merged": (tiny.config(size=SIZE, fusion_layer=0, fusion="merged"), {"fusion.video+audio": 4}),
    "late": (
        late_fusion.Config((tiny.AUDIO, tiny.VIDEO), {"emotion": 4}, SIZE),
        {"unimodal.audio": 4, "unimodal.video": 4},
    ),
}  # fmt: skip


def batch(rng):
    """Some steps invalid, a row without sound, one without anything."""
    made = tiny.batch(rng, rows=ROWS)
    valid = {
        name: np.array(stream.valid) & (rng.random(stream.valid.shape) < 0.8) for name, stream in made.streams.items()
    }
    valid["audio"][1] = False
    for flags in valid.values():
        flags[2] = False
    return made.replace(streams={name: s.replace(valid=valid[name]) for name, s in made.streams.items()})


def captured(config, batch, names=NAMES, placement=None, **views):
    """As a training step does it: under jit, from split parameters."""
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = tiny.randomise(params, np.random.default_rng(0))

    def call(params, batch):
        model = nnx.merge(graph, params, *rest, copy=True)
        model = nnx.view(model, deterministic=True, raise_if_not_found=False)
        model = nnx.view(model, **views) if views else model
        with placed_on(placement):
            return call_and_capture(model, batch, names)

    return tiny.jit(call)(params, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", in_part(tuple(SITES), one_of=2))
def test_every_site_has_every_layer(name, rng):
    config, layers = SITES[name]
    given = batch(rng)
    output, sites = captured(config, given)
    assert {site: len(found["mass"]) for site, found in sites.items()} == layers
    for found in sites.values():
        shape = (len(found["mass"]), ROWS, SIZE.heads, found.queries.length)
        assert found["entropy"].shape == shape
        assert found["mass"].shape == (*shape, len(found.keys.names))
        assert found["received"].shape == (*shape[:3], found.keys.length, 1)
        alive = np.asarray(found["nonempty"])
        np.testing.assert_allclose(found["mass"].sum(-1), alive, atol=1e-5)
        np.testing.assert_allclose(found["received"].sum((-2, -1)), alive.sum(-1), rtol=1e-5)
    # Asking changes nothing.
    plain, nothing = captured(config, given, names=())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), output.logits, plain.logits)
    assert nothing == {}


def test_masses_tell_modality_from_bottleneck(rng):
    config, _ = SITES["bottleneck"]
    given = batch(rng)
    _, sites = captured(config, given, names=("mass", KEY_VALID))
    found = sites["fusion"]
    assert found.keys.names == ("video", "bottleneck_video", "audio", "bottleneck_audio")
    asking = slice(*found.queries.ranges[2])
    # Sound looks at sound and its bottleneck, never at pictures; in a row without sound at the bottleneck alone.
    assert not np.asarray(found.share("video"))[..., asking].any()
    there = np.array(given.streams["audio"].valid).any(axis=1)
    audio = np.asarray(found.share("audio"))[..., asking]
    assert audio[:, there].all()
    assert not audio[:, ~there].any()
    assert 2 <= (~there).sum() < ROWS
    # The keys that there are: bottlenecks always; behind the patches a class token, where there is any of them.
    for name, (begin, end) in zip(found.keys.names, found.keys.ranges, strict=True):
        keys = np.asarray(found[KEY_VALID])[:, :, begin:end]
        stream = given.streams.get(name)
        own = np.ones((ROWS, 1), bool) if stream is None else np.array(stream.valid).any(axis=1, keepdims=True)
        np.testing.assert_array_equal(keys[..., -1:], np.broadcast_to(own, (3, ROWS, 1)))
        assert keys.shape[2] > 1
        assert not keys[:, ~own[:, 0]].any()


@pytest.mark.parametrize("views", [{}, {"scan": True}], ids=["one by one", "scanned"])
def test_class_tokens_apart_add_up_to_their_modality(views, rng):
    """The same attention, counted in more groups."""
    config, _ = SITES["bottleneck"]
    given = batch(rng)
    output, sites = captured(config, given, **views)
    lengths = {name: length for site in sites.values() for name, length in
               zip(site.keys.names, site.keys.lengths, strict=True) if name in given.streams}  # fmt: skip
    with dividing({m: Layout((m, f"class_{m}"), (n - 1, 1)) for m, n in lengths.items()}):
        same, apart = captured(config, given, **views)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), same.logits, output.logits)
    assert sites.keys() == apart.keys()
    for name, whole in sites.items():
        found = apart[name]
        assert {f"class_{m}" for m in lengths if m in whole.keys.names} == set(found.keys.names) - set(whole.keys.names)
        assert found.queries == found.keys
        for statistic in ("mass", VALUE_MASS):
            columns = found.keys.names.index
            for group in whole.keys.names:
                own = np.asarray(found[statistic])[..., columns(group)]
                if group in lengths:
                    own = own + np.asarray(found[statistic])[..., columns(f"class_{group}")]
                expected = np.asarray(whole[statistic])[..., whole.keys.names.index(group)]
                np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found[KEY_VALID], whole[KEY_VALID])
        np.testing.assert_allclose(found["entropy"], whole["entropy"], rtol=1e-4, atol=1e-5)


def test_which_keys_there_are(rng):
    """Where a key is valid and its group present; without either, everywhere."""
    layout, presence = Layout.of(a=2, b=3), rng.random((4, 2)) < 0.5
    valid = rng.random((4, 5)) < 0.5
    mask = Mask(layout, layout, key_valid=jnp.asarray(valid), presence=jnp.asarray(presence))
    np.testing.assert_array_equal(key_valid(mask, 4), valid & presence[:, [0, 0, 1, 1, 1]])
    assert key_valid(Mask(layout, layout), 4).all()


@pytest.mark.parametrize("names", [(VALUE_MASS,), (VALUE_MASS, "group_output")], ids=["alone", "with outputs"])
def test_value_mass_is_of_what_every_block_makes_of_values(names, rng):
    """Against dense weights and norms in float64: in one call, the queries of each modality have a Wo of their own."""
    given = batch(rng)
    graph, params, *rest = split_model(SITES["bottleneck"][0].build(nnx.Rngs(0)))
    params = tiny.randomise(params, rng)

    @tiny.jit
    def run(params, batch):
        model = nnx.view(nnx.merge(graph, params, *rest, copy=True), deterministic=True, raise_if_not_found=False)
        with recording(names) as sites, tapping() as calls:
            model(batch)
        return sites["fusion"], [call for call in calls if call.site == "fusion"]

    found, calls = run(params, given)
    layers = tiny.plain(params)["fusion"]
    assert len(calls) == len(layers) == 3
    towers = [name.removeprefix("bottleneck_") for name in found.queries.names]
    for number, call in enumerate(calls):
        query, key, value = (np.asarray(array, np.float64) for array in (call.query, call.key, call.value))
        scores = np.einsum("bihd,bjhd->bhij", query, key) / np.sqrt(query.shape[-1])
        for tower, (begin, end) in zip(towers, found.queries.ranges, strict=True):
            kernel = layers[number]["blocks"][tower]["out"]["kernel"].reshape(SIZE.heads, -1, SIZE.width)
            norms = np.linalg.norm(np.einsum("bnhd,hdc->bnhc", value, kernel), axis=-1)
            own = np.repeat([other == tower for other in towers], found.keys.lengths)
            there = own & np.asarray(call.mask.key_valid)
            weights = np.where(there[:, None, None], np.exp(scores[:, :, begin:end]), 0)
            weights /= weights.sum(-1, keepdims=True)
            for group, (first, last) in enumerate(found.keys.ranges):
                expected = np.einsum("bhij,bjh->bhi", weights[..., first:last], norms[:, first:last])
                mass = np.asarray(found[VALUE_MASS])[number, :, :, begin:end, group]
                seeing = there.any(axis=1)
                np.testing.assert_allclose(mass[seeing], expected[seeing], rtol=1e-4, atol=1e-5)
                if "group_output" in names:
                    output = np.asarray(found["group_output"])[number, :, :, begin:end, group]
                    expected = np.einsum("bhij,bjhd->bhid", weights[..., first:last], value[:, first:last])
                    np.testing.assert_allclose(output[seeing], expected[seeing], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "views"),
    in_part(tuple(SITES), ({"scan": True}, {"remat": "full"}, {"scan": True, "remat": "dots"}), one_of=6),
)
def test_scan_and_remat_report_the_same(name, views, rng):
    config, _ = SITES[name]
    given = batch(rng)
    _, plain = captured(config, given)
    _, other = captured(config, given, **views)
    assert plain.keys() == other.keys()
    for site_name, found in plain.items():
        assert (found.queries, found.keys) == (other[site_name].queries, other[site_name].keys)
        for statistic, values in found.statistics.items():
            np.testing.assert_allclose(values, other[site_name][statistic], rtol=1e-4, atol=1e-5, err_msg=statistic)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", in_short((MeshShape(2, 1, 2, 2), MeshShape(1, 2, 1, 4)), (MeshShape(2, 1, 2, 2),), str)
)
def test_a_mesh_reports_the_same(shape, rng):
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices: XLA_FLAGS=--xla_force_host_platform_device_count=8")
    config, _ = SITES["bottleneck"]
    given = batch(rng)
    _, alone = captured(config, given)
    _, sharded = captured(config, given, placement=Placement(shape.build(jax.devices()[:8]), Rules()))
    for name, found in alone.items():
        for statistic, values in found.statistics.items():
            np.testing.assert_allclose(values, sharded[name][statistic], rtol=1e-4, atol=1e-5, err_msg=statistic)


@pytest.mark.parametrize(
    "views", in_short(({}, {"scan": True, "remat": "full"}), ({"scan": True, "remat": "full"},), str)
)
@pytest.mark.slow
def test_statistics_have_gradients(views, rng):
    """Of a loss on the masses, in all parameters that they depend on."""
    config, _ = SITES["bottleneck"]
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = tiny.randomise(params, np.random.default_rng(0))

    def loss(params, batch):
        model = nnx.view(nnx.merge(graph, params, *rest, copy=True), deterministic=True, raise_if_not_found=False)
        model = nnx.view(model, **views) if views else model
        found = capture_statistics(model, batch, ("mass", "entropy"))
        return jnp.mean(found["fusion"].share("audio") ** 2) + jnp.mean(found["unimodal.audio"]["entropy"])

    given = batch(rng)
    gradient = tiny.jit(jax.grad(loss))(params, given)
    sizes = {"/".join(map(str, path)): float(jnp.abs(x).max()) for path, x in nnx.to_flat_state(nnx.as_pure(gradient))}
    assert sizes["fusion/2/blocks/audio/query/kernel"] > 1e-4
    assert sizes["unimodal/0/blocks/audio/key/kernel"] > 1e-4
    assert sizes["classify/heads/emotion/kernel"] == 0
    # In float64, where a small step leaves neither curvature nor rounding.
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), params)
        given = jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, given)
        direction = jax.tree.map(lambda p: jnp.asarray(np.random.default_rng(1).normal(size=p.shape)), wide)
        step = 1e-5
        ahead, behind = (
            float(tiny.jit(loss)(jax.tree.map(lambda p, d, s=s: p + s * step * d, wide, direction), given))
            for s in (1, -1)
        )
    slope = sum(
        float(np.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    size = sum(
        float(np.abs(np.asarray(g) * np.asarray(d)).sum())
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert slope == pytest.approx((ahead - behind) / (2 * step), abs=1e-5 * size)


def test_calls_of_one_name_are_layers_and_must_be_alike(rng):
    query = jnp.asarray(rng.normal(size=(1, 4, 2, 8)), jnp.float32)
    with recording(("entropy",)) as sites:
        attend(query, query, query)
        with site("head"):
            attend(query[:, :2], query, query, site="pool")
        attend(query, 2 * query, query)
    assert set(sites) == {"tokens", "head.pool"}
    expected = [attention(query, k * query, query, statistics=("entropy",)).statistics["entropy"] for k in (1, 2)]
    np.testing.assert_allclose(sites["tokens"]["entropy"], jnp.stack(expected), rtol=1e-6)

    def unlike():
        with recording(("entropy",)):
            attend(query, query, query)
            attend(query[:, :2], query, query)

    with pytest.raises(ValueError, match="calls of attention at 'tokens' differ"):
        unlike()
    with pytest.raises(ValueError, match="no attention was traced"), recording(("entropy",)):
        pass
    with pytest.raises(ValueError, match="no 'masss'"), recording(("masss",)):
        pass
    # Nothing is left behind by what failed.
    assert wanted() == ()


def scores(config, **views):
    """(parameters, batch) -> a logit a row, of a randomised model as it is evaluated."""
    graph, params, *rest = split_model(config.build(nnx.Rngs(0)))
    params = nnx.as_pure(tiny.randomise(params, np.random.default_rng(0)))

    def score(params, batch):
        model = nnx.merge(graph, params, *rest, copy=True)
        model = nnx.view(model, deterministic=True, raise_if_not_found=False, **views)
        return model(batch).logits["emotion"][:, 1]

    return score, params


@pytest.mark.slow
def test_calls_are_kept_in_order_with_gradients(rng):
    """<dO, d> summed over all calls is the derivative of the scores along d at the calls' outputs."""
    config, _ = SITES["bottleneck"]
    score, params = scores(config)
    given = jax.tree.map(jnp.asarray, batch(rng))
    value, calls = tiny.jit(lambda *arguments: tapped(score, *arguments))(params, given)
    np.testing.assert_allclose(value, tiny.jit(score)(params, given), rtol=1e-6)
    assert [call.site for call in calls] == ["unimodal.video", "unimodal.audio", *["fusion"] * 3]
    for call in calls:
        again = attention(call.query, call.key, call.value, mask=call.mask, bias=call.bias)
        np.testing.assert_allclose(call.output, again.output, rtol=1e-5, atol=1e-6)
    assert calls[-1].mask.keys.names == ("video", "bottleneck_video", "audio", "bottleneck_audio")
    direction = [jnp.asarray(rng.normal(size=call.output.shape), jnp.float32) for call in calls]

    @tiny.jit
    def moved(step):
        with tapping(lambda number, output: output + step * direction[number]):
            return score(params, given)

    step = 2e-3
    slope = (np.asarray(moved(step), float) - np.asarray(moved(-step), float)) / (2 * step)
    pairs = zip(calls, direction, strict=True)
    expected = sum(np.einsum("bnhd,bnhd->b", call.gradient, part, dtype=float) for call, part in pairs)
    # Rounding of the scores over the step, and the curvature of the difference.
    np.testing.assert_allclose(expected, slope, rtol=0.01, atol=1e-6 * np.abs(value).max() / step)
    assert not np.asarray(calls[0].gradient)[2].any()


def test_what_a_call_returns_may_be_replaced(rng):
    query = jnp.asarray(rng.normal(size=(1, 4, 2, 8)), jnp.float32)
    with recording(("mass",)) as sites, site("here"), tapping(lambda number, output: number + 0 * output) as calls:
        found = [attend(query, query, query), attend(query, query, query, site="other")]
        with recording(("mass",)):
            attend(query, query, query)
    assert [float(output.max()) for output in found] == [0, 1]
    assert [call.site for call in calls] == ["here.tokens", "here.other"]
    assert set(sites) == {"here.tokens", "here.other"}
    assert tapped(lambda x: x.sum((1, 2, 3)), query)[1] == ()


@pytest.mark.parametrize("views", [{"scan": True}, {"remat": "full"}], ids=str)
def test_calls_of_scanned_layers_cannot_be_kept(views, rng):
    config, _ = SITES["merged"]
    score, params = scores(config, **views)
    given = jax.tree.map(jnp.asarray, batch(rng))
    with pytest.raises(ValueError, match="cannot be kept of layers that are scanned or remat"):
        jax.eval_shape(lambda: tapped(score, params, given))
