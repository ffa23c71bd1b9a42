"""Two players in turn: a game whose course is known, two optimizers by hand, and a model with a discriminator."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from avjax.models import niat
from avjax.objectives.terms import WithTerms
from avjax.training.checkpoint import Checkpoints
from avjax.training.optimizer import SGD, AdamW, Alternating, path_names
from avjax.training.sharding import MeshShape, Rules, state_sharding
from tests.models import tiny
from tests.models.systems import batch

STEPS = 60
PLAIN = SGD(0.1, momentum=0.0, clip=0.0, warmup=0.0, final=1.0)


def walk(chain, params, gradient, steps=STEPS):
    """The parameters after each step."""
    update = jax.jit(chain.update)
    state, path = chain.init(params), []
    for step in range(steps):
        updates, state = update(gradient(params, step), state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path


def test_a_game_that_only_turns_keep_bounded():
    """min_x max_y x y: at once, the radius grows by sqrt(1 + rate^2) a step; in turns, x^2 + y^2 + rate x y stays."""
    start = nnx.State({"other": jnp.float32(1.0), "discriminate": jnp.float32(1.0)})

    def gradient(params, _):
        return nnx.State({"other": params["discriminate"], "discriminate": -params["other"]})

    def radius(params):
        return float(params["other"] ** 2 + params["discriminate"] ** 2)

    at_once = walk(PLAIN.build(start, STEPS), start, gradient)
    assert radius(at_once[-1]) == pytest.approx(2 * (1 + 0.1**2) ** STEPS, rel=1e-4)
    path = walk(Alternating(PLAIN).build(start, STEPS), start, gradient)
    x, y = 1.0, 1.0
    for step, params in enumerate(path):
        if step % 2:
            x -= 0.1 * y
            assert x**2 + y**2 + 0.1 * x * y == pytest.approx(2.1, rel=1e-9)
        else:
            y += 0.1 * x
        assert (float(params["other"]), float(params["discriminate"])) == pytest.approx((x, y), abs=1e-5)


@pytest.mark.parametrize("turns", [1, 2])
def test_each_player_as_if_alone(rng, turns):
    """As two optimizers, each over the gradients of its own turns; who waits does not move."""
    shapes = {"fusion": {0: {"kernel": (3, 2)}, 1: {"kernel": (2, 2)}}, "discriminate": {"kernel": (4, 1)}}

    def draw(scale=1.0):
        leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
        return nnx.State(structure.unflatten([jnp.asarray(scale * rng.normal(size=s), "float32") for s in leaves]))

    params, gradients = draw(), [draw() for _ in range(12)]
    inner = AdamW(0.01, layer_decay=0.5)
    path = walk(Alternating(inner, turns=turns).build(params, 12), params, lambda _, step: gradients[step], 12)
    own = [step for step in range(12) if step % (turns + 1) < turns]
    for names, steps in ((("discriminate",), own), (("fusion",), sorted({*range(12)} - {*own}))):

        def part(tree, names=names):
            return nnx.State({name: tree[name] for name in names})

        chosen = [part(gradients[step]) for step in steps]
        alone = walk(inner.build(part(params), len(steps)), part(params), lambda _, n, g=chosen: g[n], len(steps))
        expected = part(params)
        for step, found in enumerate(path):
            expected = alone[steps.index(step)] if step in steps else expected
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), part(found), expected)


def test_the_discriminator_has_a_rate_of_its_own():
    start = nnx.State({"other": jnp.ones(()), "discriminate": jnp.ones(())})
    last = walk(Alternating(PLAIN, rate=0.3).build(start, 4), start, lambda params, _: params, 4)[-1]
    assert float(last["other"]) == pytest.approx(0.9**2, rel=1e-5)
    assert float(last["discriminate"]) == pytest.approx(0.97**2, rel=1e-5)


def test_without_a_discriminator_it_is_an_error():
    with pytest.raises(ValueError, match="discriminator named"):
        Alternating(PLAIN).build(nnx.State({"kernel": jnp.ones(2)}), 10)


@pytest.mark.slow
def test_a_model_s_discriminator(rng, tmp_path):
    """NIAT's moves in every other step, alone; its state lies on a mesh and in a checkpoint as any other."""
    config = niat.Config.tiny()
    model = config.build(nnx.Rngs(0))
    params = nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))), nnx.Param)
    chain = Alternating(AdamW(1e-2, warmup=0.0)).build(params, 10)
    terms = (("noisy", 1.0), ("imitation", 0.2), ("discrimination", 0.1))
    made, params, buffers = tiny.steps(model, chain, objective=WithTerms(weights=terms))
    state, given = made.create(tiny.randomise(params, rng, 0.1), buffers), batch(config, rng, 4)
    shardings = state_sharding(MeshShape().build(), Rules(), jax.eval_shape(made.create, params, buffers))
    state, train = jax.device_put(state, shardings), tiny.jit(made.train)
    for step in range(4):
        after, _ = train(state, given, jax.random.key(0))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(after.params), strict=True
        ):
            own = "discriminate" in path_names(path)
            assert bool((a != b).any()) == (own == (step % 2 == 0)), path
        state = after
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {})
    checkpoints.close()
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
    found, _ = Checkpoints(tmp_path).load(4, abstract)
    jax.tree.map(np.testing.assert_array_equal, found, state)
