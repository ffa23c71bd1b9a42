"""Every public block of avjax/nn has its gradients checked here, or a reason why it has none to check."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import avjax.nn
from tests.nn.finite_differences.derivative import SIZE, X, assert_gradients, function, module

# What an argument that holds numbers is annotated with.
NUMBERS = re.compile(r"Float\[|\bTokens\b|\bStream\b|\bMixture\b|\bjax\.Array\b|(?<!, )\bArray\b(?!,)")

SPIKES = "spikes are steps, and their gradient is a surrogate's"
# Block, or module with all of its blocks -> why there is no derivative to check.
WITHOUT = {
    "avjax.nn.spiking": SPIKES,
    "avjax.nn.encoders.spiking": SPIKES,
    "avjax.nn.statistics": "no block: keeps what attention reports; test_statistics.py says that it changes nothing",
    "avjax.nn.encoders.Encoder": "a protocol",
    "avjax.nn.heads.localise": "chooses a class: whole numbers come out",
    "avjax.nn.scoring.normalizers.below_maximum": "the maximum is a constant to it, since no weight moves with a shift;"
    " softmax, sparsemax and entmax, which call it, are checked",
    "avjax.nn.fusion.events.by_cell": "a mask comes out",
    "avjax.nn.fusion.layers.present": "a mask comes out",
    "avjax.nn.model.token_shapes": "shapes come out",
    "avjax.nn.missing": "a choice of rows; test_missing.py says where gradients come from",
}


def public() -> dict[str, object]:
    """Name -> block: modules, configurations that build one, and functions of numbers."""
    found = {}
    for info in pkgutil.walk_packages(avjax.nn.__path__, "avjax.nn."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == info.name and is_block(value):
                found[f"{info.name}.{name}"] = value
    return found


def is_block(value: object) -> bool:
    if inspect.isclass(value):
        return issubclass(value, nnx.Module) or hasattr(value, "build")
    if not callable(value):
        return False
    return any(NUMBERS.search(str(p.annotation)) for p in inspect.signature(value).parameters.values())


def covered() -> set[object]:
    files = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    assert files
    cases = [
        case for file in files for case in importlib.import_module(f"tests.nn.finite_differences.{file}").CASES.values()
    ]
    return set().union(*(case.covers() for case in cases))


def test_every_public_block_has_a_case_or_a_reason() -> None:
    blocks, checked = public(), covered()
    reasoned = {name for name in blocks if name in WITHOUT or name.rpartition(".")[0] in WITHOUT}
    missing = sorted(name for name, block in blocks.items() if block not in checked and name not in reasoned)
    assert not missing, f"give each a case in tests/nn/finite_differences, or a reason: {missing}"
    both = sorted(name for name in reasoned if blocks[name] in checked)
    assert not both, f"their gradients are checked, so the reason is out of date: {both}"
    known = {*blocks, *(name.rpartition(".")[0] for name in blocks)}
    assert set(WITHOUT) <= known, f"no such blocks: {sorted(set(WITHOUT) - known)}"


def test_a_new_block_would_be_found() -> None:
    class Fresh(nnx.Module):
        def __call__(self, x):
            return x

    assert is_block(Fresh)
    assert is_block(avjax.nn.pooling.mean_pool)
    assert not is_block(avjax.nn.attention.self_mask)
    assert not is_block(SIZE)
    inside = module(lambda rngs: avjax.nn.graph.GraphAttention(2, 2, rngs=rngs)).covers()
    assert {avjax.nn.graph.GraphAttention, avjax.nn.dense.Dense, avjax.nn.convolution.BatchNorm} <= inside
    assert Fresh not in inside


@jax.custom_jvp
def too_steep(x):
    return jnp.sin(x)


@too_steep.defjvp
def _(primals, tangents):
    return too_steep(*primals), 1.01 * jnp.cos(primals[0]) * tangents[0]


WRONG = {
    "a hundredth too steep": too_steep,
    "a factor that is taken for constant": lambda x: x * jax.lax.stop_gradient(x),
    "float32 inside": lambda x: jnp.sin(x.astype(jnp.float32)).astype(x.dtype),
    "float32 at the end": lambda x: x.astype(jnp.float32),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name) -> None:
    with pytest.raises(AssertionError):
        assert_gradients(function(WRONG[name], X), np.random.default_rng(0))


def test_a_bend_is_nothing_wrong(rng) -> None:
    assert_gradients(function(jnp.abs, lambda rng: X(rng).at[0, 0, 0].set(1e-8)), rng)
