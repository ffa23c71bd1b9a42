"""What the tests of fusion share: streams with gaps, NaN in what is not valid, float64 references of one example."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from avjax.nn.statistics import recording
from avjax.streams import Stream
from avjax.training.step import split_model
from tests.models import tiny


def stream(rng: np.random.Generator, *shape: int, missing: tuple[int, ...] = (), whole: tuple[int, ...] = ()) -> Stream:
    """Random values with gaps, NaN where nothing is valid; rows in ``missing`` have nothing, in ``whole`` no gaps."""
    valid = rng.random(shape[:2]) < 0.7
    valid[:, 0] = True
    valid[list(whole)] = True
    valid[list(missing)] = False
    values = rng.normal(size=shape).astype(np.float32)
    values[~valid] = np.nan
    return Stream(jnp.asarray(values), jnp.asarray(valid), jnp.zeros(shape[0]), 1.0)


def run(module: nnx.Module, rng: np.random.Generator, *arguments, scale: float = 0.4):
    """(random parameters as float64, result); checks that no gradient is NaN."""
    graph, params, *rest = split_model(module)
    params = tiny.randomise(params, rng, scale)

    def total(params, arguments):
        result = nnx.merge(graph, params, *rest)(*arguments)
        return sum(jnp.sum(jnp.sin(s.values) * s.valid[..., None]) for s in streams_of(result)), result

    gradients, result = tiny.jit(jax.grad(total, argnums=(0, 1), has_aux=True, allow_int=True))(params, arguments)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        if leaf.dtype != jax.dtypes.float0:
            assert np.isfinite(np.asarray(leaf)).all(), jax.tree_util.keystr(path)
    for found in streams_of(result):
        assert np.isfinite(np.asarray(found.values)).all()
    return tiny.plain(params), result


def streams_of(result) -> list[Stream]:
    return jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, Stream))


def rows(tokens: dict[str, Stream], row: int) -> dict[str, np.ndarray]:
    """The valid tokens of one example in float64; a modality without any is left out."""
    found = {m: np.asarray(s.values, np.float64)[row][np.asarray(s.valid)[row]] for m, s in tokens.items()}
    return {m: x for m, x in found.items() if len(x)}


def check(found: Stream, row: int, wanted: np.ndarray) -> None:
    """The valid tokens of one example are those."""
    got = np.asarray(found.values, np.float64)[row][np.asarray(found.valid)[row]]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=f"row {row}")


def sites(module: nnx.Module, *arguments) -> dict[str, tuple[str, ...]]:
    """Site -> groups of keys, of what attention reports."""
    names = {}

    def report() -> None:
        with recording(("mass",)) as found:
            module(*arguments)
        names.update({name: site.keys.names for name, site in found.items()})

    # What is reported is known without computing it.
    jax.eval_shape(report)
    return names


relu = functools.partial(np.maximum, 0)


def check_parameters(module: nnx.Module) -> None:
    """Every axis of every parameter has a logical name or None."""
    for path, param in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        assert len(param.get_metadata("axes")) == param[...].ndim, path


def check_bfloat16(module: nnx.Module, *arguments) -> None:
    """In bfloat16 the result is bfloat16 too, and near that in float32."""
    graph, params, *rest = split_model(module)
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, (params, arguments))
    forward = tiny.jit(lambda params, arguments: nnx.merge(graph, params, *rest)(*arguments))
    wide = streams_of(forward(params, arguments))
    for one, other in zip(streams_of(forward(*narrow)), wide, strict=True):
        assert one.values.dtype == jnp.bfloat16
        error = np.abs(np.asarray(one.values, np.float32) - np.asarray(other.values))[np.asarray(other.valid)]
        assert error.mean() < 0.1 * np.abs(np.asarray(other.values)).mean()
