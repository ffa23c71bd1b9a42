"""Meshes and rules on eight host devices: the same numbers as on one, and parameters that are really cut up."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from avjax.nn.transformer import Size
from avjax.training.sharding import MESH_AXES, MeshShape, Rules, batch_sharding, state_sharding
from avjax.training.step import split_model
from tests.levels import in_short
from tests.models import tiny

SHAPES = [shape for shape in itertools.product((1, 2, 4, 8), repeat=4) if math.prod(shape) == 8]
# Every axis is cut in one of them: the rest is long.
IN_SHORT = ((1, 1, 2, 4), (2, 2, 2, 1))
SEED = jax.random.key(1)
STEPS = 3
CLASSES = {"emotion": 8}


def build() -> nnx.Module:
    size = Size(width=16, depth=1, heads=2)
    return tiny.config(size=size, fusion_layer=0, classes=CLASSES, dropout=0.2, stochastic_depth=0.2).build(nnx.Rngs(0))


def batches():
    rng = np.random.default_rng(4)
    return [tiny.batch(rng, rows=8, classes=CLASSES) for _ in range(STEPS)]


def trained(shape: MeshShape, devices: int):
    """State and losses after three steps; the state is born sharded, as in the loop."""
    mesh = shape.build(jax.devices()[:devices])
    made, *_ = tiny.steps(build(), optimizer=optax.sgd(0.3, momentum=0.9), average=0.9)
    _, *variables, _ = split_model(nnx.eval_shape(build))
    shardings = nnx.as_pure(state_sharding(mesh, Rules(), jax.eval_shape(made.create, *variables)))

    def initialise():
        _, params, buffers, _ = nnx.as_pure(split_model(build()))
        # The classifier starts at zero, from where little would move.
        params = jax.tree.map(lambda x: x + 0.1, params)
        return made.create(params, buffers)

    state = jax.jit(initialise, out_shardings=shardings)()
    train, losses = tiny.jit(made.train, donate_argnums=0, out_shardings=(shardings, None)), []
    place = batch_sharding(mesh, Rules())
    for batch in batches():
        state, metrics = train(state, jax.device_put(batch, place), SEED)
        losses.append(float(metrics["loss"]))
    assert train._cache_size() == 1
    return state, losses, shardings


@functools.cache
def alone():
    state, losses, _ = trained(MeshShape(1), 1)
    return jax.tree.map(np.asarray, state), losses


@pytest.mark.slow
@pytest.mark.parametrize("shape", in_short(SHAPES, IN_SHORT, lambda shape: "x".join(map(str, shape))))
def test_every_mesh_computes_the_same(shape):
    expected, losses = alone()
    state, found, shardings = trained(MeshShape(*shape), 8)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))
    # Where a step leaves the state is where it was born: no transfer, no second compilation.
    for (path, x), place in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(shardings), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim), jax.tree_util.keystr(path)
    check_parts(state, MeshShape(*shape))


def check_parts(state, shape: MeshShape) -> None:
    """What a device holds of a parameter, of its momentum and of its average."""
    block = lambda tree: tree["fusion"][0]["blocks"]["audio"]  # noqa: E731
    moments = state.optimizer[0].trace
    for tree in (state.params, moments, state.average):
        local = {
            "query": block(tree)["query"]["kernel"],
            "up": block(tree)["feed_forward"]["up"]["kernel"],
            "down": block(tree)["feed_forward"]["down"]["kernel"],
            "positions": tree["encoders"]["audio"]["positions"],
        }
        sizes = {name: x.addressable_shards[0].data.shape for name, x in local.items()}
        assert sizes == {
            "query": (16 // shape.fsdp, 16 // shape.tensor),
            "up": (16 // shape.fsdp, 64 // shape.tensor),
            "down": (64 // shape.tensor, 16 // shape.fsdp),
            "positions": (6, 16 // shape.fsdp),
        }


def test_mesh_fills_in_the_rest():
    assert dict(MeshShape().build().shape) == dict(zip(MESH_AXES, (8, 1, 1, 1), strict=True))
    assert dict(MeshShape(data=2, fsdp=-1, tensor=2).build().shape)["fsdp"] == 2
    assert dict(MeshShape(sequence=2, data=-1).build(jax.devices()[:4]).shape)["data"] == 2


@pytest.mark.parametrize(
    "shape",
    [
        MeshShape(3),
        MeshShape(4),
        MeshShape(16),
        MeshShape(-1, 3),
        MeshShape(-1, -1),
        MeshShape(0),
        MeshShape(-2, -4),
        MeshShape(-1, 0),
    ],
)
def test_meshes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="does not fit 8 devices; set one axis to -1"):
        shape.build()


def test_rules():
    mesh, rules = MeshShape(1, 4, 2).build(), Rules()
    assert rules.spec(mesh, ("embed", "heads"), (16, 16)) == PartitionSpec(("fsdp",), ("tensor",))
    assert rules.spec(mesh, ("heads", "embed"), (16, 16)) == PartitionSpec(("tensor",), ("fsdp",))
    # What the devices do not divide, or a mesh axis of one, stays whole; so does an axis without a name.
    assert rules.spec(mesh, ("embed", "heads"), (6, 3)) == PartitionSpec(None, None)
    assert rules.spec(MeshShape(8).build(), ("embed",), (16,)) == PartitionSpec(None)
    assert rules.spec(mesh, (None, "token"), (8, 8)) == PartitionSpec(None, None)
    both = Rules(hidden=("fsdp", "tensor"))
    assert both.spec(mesh, ("hidden",), (16,)) == PartitionSpec(("fsdp", "tensor"))
    # Of several mesh axes as many as divide, from the first on.
    assert both.spec(mesh, ("hidden",), (4,)) == PartitionSpec(("fsdp",))
    assert both.spec(mesh, ("hidden",), (2,)) == PartitionSpec(None)
    assert rules.spec(MeshShape(2, 2, 2).build(), ("batch", "sequence"), (6, 5)) == PartitionSpec(("data",), None)


def test_a_width_to_itself_is_cut_once():
    mesh = MeshShape(2, 4, 8).abstract(64)
    assert Rules().spec(mesh, ("embed", "embed"), (64, 64)) == PartitionSpec(("fsdp",), None)
    assert Rules().spec(mesh, ("embed", "embed"), (63, 64)) == PartitionSpec(None, ("fsdp",))


def test_no_large_parameter_stays_whole_where_any_axis_divides():
    mesh, rules = MeshShape(1, 256).abstract(256), Rules()
    names, shape = ("embed", "hidden"), (384, 1536)
    assert rules.spec(mesh, names, shape) == PartitionSpec(None, None)
    assert rules.parameter_spec(mesh, names, shape, 4 * 384 * 1536) == PartitionSpec(None, ("fsdp",))
    # A small one may; so may one that no axis of it allows to be cut.
    assert rules.parameter_spec(mesh, names, shape, 2**20) == PartitionSpec(None, None)
    assert rules.parameter_spec(mesh, names, (384, 1537), 2**22) == PartitionSpec(None, None)
    # Beside heads that are cut already.
    mesh = MeshShape(1, 128, 2).abstract(256)
    assert rules.parameter_spec(mesh, names, shape, 2**22) == PartitionSpec(("fsdp",), ("tensor",))
    assert rules.parameter_spec(mesh, names, (200, 1536), 2**22) == PartitionSpec(None, ("tensor", "fsdp"))


@dataclasses.dataclass(frozen=True)
class SliceDevice:
    """What a mesh asks of a device of one of several slices."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "some"
    device_kind: str = "test"
    client: None = None


def test_only_rows_cross_slices():
    devices = [SliceDevice(number, number // 8) for number in range(16)]
    mesh = MeshShape(data=4, fsdp=2, tensor=2).build(list(reversed(devices)))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 2, "sequence": 1}
    for data in range(4):
        # Two steps along data lie in the first slice, two in the second; everything else inside one.
        assert len({device.slice_index for device in mesh.devices[data].flat}) == 1
    assert [mesh.devices[data].flat[0].slice_index for data in range(4)] in ([0, 0, 1, 1], [1, 1, 0, 0])
    with pytest.raises(ValueError, match="data axis of 1 cannot be divided over 2 slices"):
        MeshShape(data=1, fsdp=16).build(devices)
    # Host devices know of no slices: equal parts, in their order.
    mesh = MeshShape(data=2, fsdp=4, slices=2).build()
    assert [device.id for device in mesh.devices[0].flat] == [device.id for device in jax.devices()[:4]]


def test_rows_lie_over_data_and_fsdp():
    mesh = MeshShape(2, 2, 2).build()
    rows = jax.device_put(np.zeros((8, 3)), batch_sharding(mesh, Rules()))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(2, 3)}
