"""A scanned stack computes what the loop does: values, gradients, random draws, buffers; and compiles one layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avjax.models import late_fusion
from avjax.nn.dense import Dense
from avjax.nn.fusion import Layer
from avjax.nn.stack import Stack
from avjax.nn.transformer import Size
from avjax.streams import Stream
from tests.levels import in_part
from tests.models import tiny

CLASSES = {"emotion": 4}
SEED = jax.random.key(3)


def trained(config, batch, **changes):
    made, params, buffers = tiny.steps(config.build(nnx.Rngs(0)), **changes)
    state = made.create(tiny.randomise(params, np.random.default_rng(0)), buffers)
    return tiny.jit(made.train)(state, batch, SEED)


SIZE = Size(8, 4, 2)
MODELS = {
    "bottleneck": tiny.config(size=SIZE, fusion_layer=2, classes=CLASSES, dropout=0.3, stochastic_depth=0.4),
    "in turn": tiny.config(size=SIZE, fusion_layer=1, classes=CLASSES, update="sequential", dropout=0.3),
    "shared": tiny.config(size=SIZE, fusion_layer=2, classes=CLASSES, shared_encoder=True, fusion="cross"),
    "late": late_fusion.Config((tiny.AUDIO, tiny.VIDEO), CLASSES, SIZE, dropout=0.3, stochastic_depth=0.4),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remat"), in_part(tuple(MODELS), ("none", "full"), one_of=4))
def test_scanned_layers_compute_the_same(name, remat, rng):
    batch = tiny.batch(rng, rows=8, classes=CLASSES)
    loop, loop_metrics = trained(MODELS[name], batch, remat=remat)
    scan, scan_metrics = trained(MODELS[name], batch, remat=remat, scan=True)
    assert jax.tree.structure(loop) == jax.tree.structure(scan)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(loop), jax.tree.leaves(scan), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6, err_msg=jax.tree_util.keystr(path))
    np.testing.assert_allclose(scan_metrics["loss"], loop_metrics["loss"], rtol=1e-5)


def products(depth: int, scan: bool, batch) -> int:
    """Number of matrix products in the program of a forward pass."""
    config = tiny.config(size=Size(8, depth, 2), fusion_layer=0, classes=CLASSES)
    made, params, buffers = tiny.steps(config.build(nnx.Rngs(0)), scan=scan)
    state = made.create(params, buffers)
    return str(jax.make_jaxpr(made.evaluate)(state, batch)).count("dot_general")


@pytest.mark.slow
def test_a_scan_is_one_program(rng):
    """Twice the layers cost no more program, where the loop's grows by as many layers."""
    batch = tiny.batch(rng, rows=8, classes=CLASSES)
    assert products(8, True, batch) == products(4, True, batch) < products(4, False, batch)
    assert products(8, False, batch) - products(4, False, batch) > 4


class Counting(Layer):
    """Adds a random number of its own, and counts its calls."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.dense = Dense(width, width, axes=("embed", "embed"), rngs=rngs)
        self.calls = nnx.BatchStat(jnp.zeros(()))
        self.rngs = rngs["dropout"].fork()

    def mix(self, tokens, bottleneck):
        self.calls[...] += 1
        noise = jax.random.normal(self.rngs(), ())
        return {m: s.replace(values=self.dense(s.values) + noise) for m, s in tokens.items()}, bottleneck


def test_what_layers_change_of_themselves_is_written_back(rng):
    values = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    tokens = {"audio": Stream(values, jnp.ones((2, 3), bool), jnp.zeros(2), 1.0)}
    found = {}
    for scan in (False, True):
        rngs = nnx.Rngs(0)
        # The third layer is of another width inside, and stands by itself.
        stack = Stack("", [Counting(4, rngs), Counting(4, rngs), Odd(4, rngs), Counting(4, rngs)])
        viewed = nnx.view(stack, scan=scan)
        assert [len(layers) for layers in viewed._alike()] == [2, 1, 1]
        for _ in range(2):
            output, _ = viewed(tokens)
        found[scan] = output["audio"].values, [float(layer.calls[...]) for layer in stack]
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-5)
    assert found[True][1] == found[False][1] == [2.0, 2.0, 2.0, 2.0]


class Odd(Counting):
    """Of another kind."""
