"""Optimizers and schedules against their formulas in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import late_fusion
from avjax.training.optimizer import SGD, AdamW, ModalityRate, Schedule, is_matrix, layers_above
from tests.models import tiny


def params_of(config) -> nnx.State:
    """Shapes alone."""
    return nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))), nnx.Param)


def named(tree) -> dict[str, object]:
    """Path without punctuation -> leaf."""
    return {
        "/".join(str(entry.key) for entry in path if hasattr(entry, "key")): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(("warmup", "rises"), [(0.0, 0), (0.001, 1), (0.1, 20), (0.5, 100), (1.0, 199)])
def test_schedule(warmup, rises):
    peak, final, steps = 0.3, 0.1, 200
    schedule = Schedule(peak, warmup, final).build(steps)
    for step in range(steps + 1):
        if step < rises:
            expected = peak * step / rises
        else:
            cosine = 0.5 * (1 + np.cos(np.pi * (step - rises) / (steps - rises)))
            expected = peak * (final + (1 - final) * cosine)
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_single_step_learns():
    assert float(Schedule(0.3).build(1)(0)) == pytest.approx(0.3)


def test_optimizers_name_their_schedule():
    assert SGD(learning_rate=2.0, warmup=0.2, final=0.5).schedule == Schedule(2.0, 0.2, 0.5)
    assert AdamW(learning_rate=2.0, warmup=0.2, final=0.5).schedule == Schedule(2.0, 0.2, 0.5)


def tree(rng):
    return {
        "layer": {"kernel": rng.normal(size=(3, 2)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)}
    }


def run(optimizer, params, gradients):
    params = nnx.State(params)
    chain = optimizer.build(params, len(gradients))
    state, history = chain.init(params), []
    for gradient in gradients:
        updates, state = chain.update(nnx.State(gradient), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        history.append(params)
    return history


def clipped(gradient, norm):
    size = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in jax.tree.leaves(gradient)))
    return jax.tree.map(lambda x: x * min(1.0, norm / size), gradient)


def test_one_modality_learns_at_its_own_rate(rng):
    """Everything else goes where it would; the first step of its own is the rate times as long, decay and all."""
    params = {name: tree(rng) for name in ("audio", "video", "head")}
    gradients = [{name: tree(rng) for name in params} for _ in range(3)]
    inner = AdamW(learning_rate=0.1, weight_decay=0.3, warmup=0.0)
    plain, slow = (run(one, params, gradients) for one in (inner, ModalityRate(inner, "audio", 0.25)))
    for (path, whole), part in zip(named(plain[-1]).items(), named(slow[-1]).values(), strict=True):
        if "audio" not in path:
            np.testing.assert_array_equal(part, whole, err_msg=path)
    start = named(nnx.State(params))
    for path, begin in start.items():
        if "audio" in path:
            whole, part = (named(one[0])[path] - begin for one in (plain, slow))
            np.testing.assert_allclose(part, 0.25 * whole, rtol=1e-4, atol=1e-6, err_msg=path)
    assert ModalityRate(inner, "audio").schedule == inner.schedule
    with pytest.raises(ValueError, match="'text' alone"):
        ModalityRate(inner, "text").build(nnx.State(params), 3)


def test_of_a_model_its_encoder_and_its_own_layers_are_slower():
    """A step of descent along ones says how fast each parameter is."""
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params_of(tiny.config()))
    inner = SGD(learning_rate=1.0, momentum=0.0, clip=0.0, warmup=0.0)
    chain = ModalityRate(inner, "audio", 0.5).build(params, 10)
    updates, _ = chain.update(jax.tree.map(jnp.ones_like, params), chain.init(params), params)
    own = {name: float(np.asarray(leaf).ravel()[0]) for name, leaf in named(updates).items()}
    assert {value for name, value in own.items() if "audio" in name.split("/")} == {-0.5}
    assert {value for name, value in own.items() if "audio" not in name.split("/")} == {-1.0}
    assert any(name.startswith("encoders/audio") for name in own)


def test_adamw(rng):
    """Loshchilov and Hutter 2019, algorithm 2."""
    optimizer = AdamW(learning_rate=0.1, weight_decay=0.3, betas=(0.8, 0.95), clip=1.5, warmup=0.5)
    params, gradients = tree(rng), [tree(rng) for _ in range(6)]
    history = run(optimizer, params, gradients)
    schedule = optimizer.schedule.build(6)
    first, second = (jax.tree.map(lambda x: np.zeros(x.shape), params) for _ in range(2))
    for step, gradient in enumerate(gradients):
        g = clipped(gradient, 1.5)
        first = jax.tree.map(lambda m, g: 0.8 * m + 0.2 * g, first, g)
        second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g**2, second, g)
        rate, count = float(schedule(step)), step + 1
        for name, decay in (("kernel", 0.3), ("bias", 0.0)):
            p, m, v = (t["layer"][name] for t in (params, first, second))
            update = m / (1 - 0.8**count) / (np.sqrt(v / (1 - 0.95**count)) + 1e-8) + decay * p
            params["layer"][name] = p - rate * update
            np.testing.assert_allclose(history[step]["layer"][name], params["layer"][name], rtol=1e-4, atol=1e-5)


def test_sgd_with_momentum(rng):
    optimizer = SGD(learning_rate=0.1, momentum=0.7, weight_decay=0.2, clip=0.0, warmup=0.0)
    params, gradients = tree(rng), [tree(rng) for _ in range(4)]
    history = run(optimizer, params, gradients)
    schedule = optimizer.schedule.build(4)
    trace = jax.tree.map(lambda x: np.zeros(x.shape), params)
    for step, gradient in enumerate(gradients):
        for name, decay in (("kernel", 0.2), ("bias", 0.0)):
            p = params["layer"][name]
            trace["layer"][name] = 0.7 * trace["layer"][name] + gradient["layer"][name] + decay * p
            params["layer"][name] = p - float(schedule(step)) * trace["layer"][name]
            np.testing.assert_allclose(history[step]["layer"][name], params["layer"][name], rtol=1e-5, atol=1e-6)


def test_clipping_leaves_small_gradients_alone(rng):
    optimizer = SGD(learning_rate=1.0, momentum=0.0, clip=1.0, warmup=0.0)
    zero = jax.tree.map(np.zeros_like, tree(rng))
    for size, expected in ((0.5, 0.5), (7.0, 1.0)):
        gradient = jax.tree.map(lambda g, size=size: np.float32(size) * g, clipped(tree(rng), 0.0001))
        gradient = jax.tree.map(lambda g: (g * 1e4).astype(np.float32), gradient)
        (after,) = run(optimizer, zero, [gradient])
        norm = np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(after)))
        assert norm == pytest.approx(expected, rel=1e-3)


def test_weight_decay_is_for_kernels_alone(rng):
    """A head by the name of kernel is no kernel."""
    params = params_of(tiny.config(classes={"kernel": 3}))
    decayed = named(is_matrix(params))
    axes = {"/".join(map(str, path)): v.get_metadata("axes") for path, v in nnx.to_flat_state(params)}
    assert decayed.keys() == axes.keys()
    for name, yes in decayed.items():
        # Kernels alone have two named axes that are no table of tokens.
        assert yes == (len(axes[name]) == 2 and axes[name][0] != "token"), name
    for optimizer in (AdamW(0.1, weight_decay=0.5, warmup=0.0), SGD(0.1, weight_decay=0.5, warmup=0.0)):
        chain = optimizer.build(params, 10)
        values = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
        zeros = jax.tree.map(np.zeros_like, values)
        updates, _ = tiny.jit(lambda p, g, c=chain: c.update(g, c.init(p), p))(values, zeros)
        for name, update in named(updates).items():
            expected = -0.1 * 0.5 * named(values)[name] if decayed[name] else np.zeros(update.shape)
            np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-7)


def level(name: str, stacks: dict[str, int], depth: int) -> int:
    """Layers above a parameter, written as the model runs."""
    part = name.split("/")
    if part[0] in stacks:
        return depth - stacks[part[0]] - int(part[1])
    return depth + 1 if part[0] in ("encoders", "class_token", "bottleneck") else 0


@pytest.mark.parametrize("fusion_layer", [0, 1, 3])
def test_layers_of_mbt(fusion_layer):
    size = tiny.Size(width=4, depth=3, heads=1)
    params = params_of(tiny.config(size=size, fusion_layer=fusion_layer))
    levels = named(layers_above(params))
    for name, above in levels.items():
        assert above == level(name, {"unimodal": 0, "fusion": fusion_layer}, 3), name
    assert set(levels.values()) == {0, 1, 2, 3, 4}


def test_layers_of_late_fusion():
    params = params_of(late_fusion.Config((tiny.VIDEO, tiny.AUDIO), tiny.CLASSES, tiny.SIZE))
    levels = named(layers_above(params))
    for name, above in levels.items():
        assert above == level(name, {"layers": 0}, 2), name
    assert set(levels.values()) == {0, 1, 2, 3}


def test_stacks_of_one_name_lie_side_by_side():
    towers = {m: {"layers": {0: {"kernel": jnp.ones(1)}, 1: {"kernel": jnp.ones(1)}}} for m in ("audio", "video")}
    levels = named(layers_above(nnx.State({"towers": towers, "head": {"kernel": jnp.ones(1)}})))
    expected = {f"towers/{m}/layers/{i}/kernel": 2 - i for m in ("audio", "video") for i in (0, 1)}
    assert levels == expected | {"head/kernel": 0}


def test_layer_decay_scales_updates():
    params = params_of(tiny.config())
    gradients = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
    updates = {}
    for decay in (1.0, 0.5):
        chain = SGD(1.0, momentum=0.0, clip=0.0, layer_decay=decay, warmup=0.0).build(params, 10)
        updates[decay] = named(tiny.jit(lambda g, c=chain: c.update(g, c.init(g), g)[0])(gradients))
    for name, above in named(layers_above(params)).items():
        np.testing.assert_allclose(updates[0.5][name], updates[1.0][name] * 0.5**above, rtol=1e-6)
