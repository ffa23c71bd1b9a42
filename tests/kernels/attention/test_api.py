"""The door to attention: what is refused and in which words, and which implementation is taken."""

from __future__ import annotations

import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import FALLBACK, STATISTICS, Attended, Layout, Mask, api
from kernels.attention.statistics import shapes

# Shape annotations are checked in tests and would speak first; outside of tests these messages do.
attention = inspect.unwrap(api.attention)


def arrays(queries=5, keys=6, heads=4, shared=2, width=8, value_width=3, dtype=np.float32):
    return (
        jnp.zeros((2, queries, heads, width), dtype),
        jnp.zeros((2, keys, shared, width), dtype),
        jnp.zeros((2, keys, shared, value_width), dtype),
    )


QUERY, KEY, VALUE = arrays()
FIVE = Layout.of(a=5)


def call(**options):
    """attention of these arrays, some replaced."""
    query, key, value = (options.pop(name, array) for name, array in (("query", QUERY), ("key", KEY), ("value", VALUE)))
    return attention(query, key, value, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": QUERY[0]}, r"query: needs 4 axes .* got \[5, 4, 8\]; vmap"),
        ({"key": KEY.astype(jnp.bfloat16)}, "one floating dtype, got float32, bfloat16, float32"),
        ({"query": QUERY.astype(int)}, "one floating dtype, got int32, float32, float32"),
        ({"key": KEY[..., :4]}, r"key: needs the batch and width of query"),
        ({"value": VALUE[:, :4]}, r"value: needs batch, tokens and heads of key"),
        ({"query": QUERY[:, :, :3]}, "multiple of key heads, got 3 and 2"),
        ({"bias": jnp.zeros((4, 5, 6))}, r"bias: each axis .* \[2, 4, 5, 6\] must be full or 1"),
        ({"bias": jnp.zeros((2, 2, 1, 6))}, r"bias: .* got \[2, 2, 1, 6\]"),
        ({"mask": jnp.ones((2, 1, 5, 6), bool)}, "needs a kernels.attention.Mask, got"),
        ({"mask": Mask(FIVE, FIVE)}, "Mask.keys: .* make 5 tokens, but the arrays have 6"),
        ({"softcap": 0.0}, "softcap: must be above 0"),
        ({"dropout": 0.1}, r"dropout: needs \(rate, seed\)"),
        ({"dropout": (1.0, 3)}, "0 <= rate < 1"),
        ({"dropout": (0.1, 0.5)}, "seed must be an integer"),
        ({"dropout": (0.1, jnp.zeros((4, 2), jnp.uint32))}, r"integers \[B, H\] = \[2, 4\]"),
        ({"statistics": ("mass", "variance")}, "no 'variance'; there are lse, mass"),
        ({"statistics": "mass"}, r"give a tuple of names: \('mass',\)"),
        ({"statistics": ("mass", "mass")}, "named twice"),
        ({"received_weights": jnp.ones((2, 5, 1))}, "'received' is not among"),
        (
            {"statistics": ("received",), "received_weights": jnp.ones((2, 6, 1))},
            r"needs \[B, Nq, R\] = \[2, 5, R\], got \[2, 6, 1\]",
        ),
        ({"implementation": "flash"}, "no 'flash'; there are mosaic_tpu, blockwise, reference"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        call(**options)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_shapes_and_dtypes(dtype):
    mask = Mask(Layout.of(a=2, b=3), Layout.of(a=1, b=2, c=3))
    attended = jax.eval_shape(lambda *qkv: api.attention(*qkv, mask=mask, statistics=STATISTICS), *arrays(dtype=dtype))
    assert isinstance(attended, Attended)
    assert (attended.output.shape, attended.output.dtype) == ((2, 5, 4, 3), dtype)
    assert {name: array.shape for name, array in attended.statistics.items()} == shapes(STATISTICS, 2, 4, 5, 6, 3, 1, 3)
    for name, array in attended.statistics.items():
        assert array.dtype == (jnp.bool_ if name == "nonempty" else jnp.float32), name


def test_numpy_arrays_are_taken(rng):
    query, key, value = (rng.normal(size=(1, 3, 1, 2)).astype(np.float32) for _ in range(3))
    mask = Mask(
        Layout.of(a=3), Layout.of(a=3), key_valid=np.array([[True, False, False]]), presence=np.ones((1, 1), bool)
    )
    np.testing.assert_allclose(
        api.attention(query, key, value, mask=mask).output, np.repeat(value[:, :1], 3, 1), rtol=1e-6
    )


@pytest.fixture
def narrow(monkeypatch):
    """A second implementation, first in the order of fallback, that serves at most 4 queries."""

    def unable(query, key, value, **options):
        return "it takes at most 4 queries" if query.shape[1] > 4 else None

    def attend(query, key, value, **options):
        return jnp.full((*query.shape[:3], value.shape[3]), 7.0), {}

    monkeypatch.setitem(api.IMPLEMENTATIONS, "narrow", api.Implementation(attend, unable))
    monkeypatch.setattr(api, "FALLBACK", ("narrow", "reference"))


def test_fallback_in_order_with_one_line_why(narrow, caplog):
    with caplog.at_level(logging.DEBUG, logger="kernels.attention"):
        assert api.attention(*arrays(queries=4)).output[0, 0, 0, 0] == 7
        assert api.attention(*arrays(queries=5)).output[0, 0, 0, 0] == 0
    first, second = (record.getMessage() for record in caplog.records)
    assert "narrow, none named: first of ('narrow', 'reference') that can" in first
    assert "reference, none named: not narrow: it takes at most 4 queries; first of" in second


def test_named_and_unable_raises(narrow):
    assert api.attention(*arrays(queries=4), implementation="narrow").output[0, 0, 0, 0] == 7
    with pytest.raises(
        ValueError, match=r"'narrow' cannot serve query float32\[2, 5, 4, 8\].*at most 4 queries.*'reference'"
    ):
        api.attention(*arrays(queries=5), implementation="narrow")


def test_small_calls_are_dense_and_large_ones_blockwise(caplog):
    with caplog.at_level(logging.DEBUG, logger="kernels.attention"):
        jax.eval_shape(api.attention, *arrays())
        large = [jax.ShapeDtypeStruct((2, 2048, 4, 8), jnp.float32)] * 3
        jax.eval_shape(api.attention, *large)
    small, large = (record.getMessage() for record in caplog.records)
    assert ": reference, none named: not mosaic_tpu: it is for TPU" in small
    assert "; not blockwise: dense is faster up to 8 MiB" in small
    assert ": blockwise, none named" in large


def test_using_names_implementations_for_all_calls_within(narrow):
    calls = [jax.ShapeDtypeStruct((2, 2048, 4, 8), jnp.float32)] * 3

    def taken(*names):
        with api.using(*names):
            return str(jax.make_jaxpr(lambda *qkv: api.attention(*qkv).output)(*calls))

    assert "2048,2048" in taken("reference")
    assert "2048,2048" not in taken("blockwise")
    # The last of them serves whatever its size.
    with api.using("narrow", "blockwise"):
        assert api.attention(*arrays(queries=4)).output[0, 0, 0, 0] == 7
        assert api.attention(*arrays(queries=5)).output[0, 0, 0, 0] == 0
    assert api.attention(*arrays(queries=4)).output[0, 0, 0, 0] == 7
    with pytest.raises(ValueError, match="there is no 'fast'"), api.using("reference", "fast"):
        pytest.fail("it was taken")
    with pytest.raises(ValueError, match="name one of"), api.using():
        pytest.fail("it was taken")


def test_every_fallback_exists():
    assert FALLBACK[-1] == "reference"
    assert set(FALLBACK) <= set(api.IMPLEMENTATIONS)
