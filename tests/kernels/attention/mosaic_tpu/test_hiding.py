"""What is hidden stays hidden, whatever lies there, and however it is hidden: by the matrix unit or score by score."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from kernels.attention import STATISTICS, Layout, Mask
from kernels.attention.mosaic_tpu import hiding, target
from kernels.attention.mosaic_tpu.steps import Grid
from kernels.attention.mosaic_tpu.tile import Sizes
from tests.kernels.attention.cases import Case, check, compiled, cotangents_like, run, truth
from tests.kernels.attention.contract import normal
from tests.levels import in_part

LAYOUT = Layout.of(audio=90, bottleneck=7, video=103)
SEES = [("audio", "audio"), ("audio", "bottleneck"), ("video", "video"), ("video", "bottleneck")]


def masked(rng, width: int = 32, **more) -> Case:
    """A block of several groups; the bottleneck sees nothing, nor does audio in the second sample."""
    keys = rng.random((2, 200)) < 0.8
    keys[1, :97] = False
    mask = Mask(LAYOUT, LAYOUT, sees=SEES, key_valid=keys, query_valid=rng.random((2, 200)) < 0.8)
    shapes = {"query": (2, 200, 2, width), "key": (2, 200, 1, width), "value": (2, 200, 1, 24)}
    arrays = {name: normal(rng, *shape) for name, shape in shapes.items()}
    return Case({**arrays, "received_weights": normal(rng, 2, 200, 1)}, mask, **more)


@pytest.mark.parametrize(("groups", "width", "dtype", "rows"), [
    (1, 64, "bfloat16", 16), (15, 64, "bfloat16", 16), (16, 64, "bfloat16", 32), (31, 64, "float32", 32),
    (7, 64, "float32", 8), (1, 112, "bfloat16", 16), (1, 120, "float32", 8), (1, 192, "bfloat16", 16),
    # Not a whole vector, no room, none at all.
    (1, 72, "bfloat16", 0), (15, 112, "bfloat16", 16), (16, 112, "bfloat16", 0), (1, 128, "bfloat16", 0),
])  # fmt: skip
def test_spare_rows_fit_beside_a_head(groups, width, dtype, rows):
    assert hiding.spare_rows(groups, width, dtype) == rows


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_columns_beside_keys_say_what_they_are(dtype):
    """In the bits of the dtype, two keys of bfloat16 to a row."""
    layout = Layout.of(a=3, b=3)
    grid = Grid.of(Mask(layout, layout), 128, 128)
    words = np.where(np.arange(128) == 1, 0, grid.key_words())[None, None]
    bits = hiding._key_bits(grid, words, 16, 16, dtype)
    found = np.asarray(bits).view(np.uint16 if dtype == ml_dtypes.bfloat16 else np.uint32)
    if dtype == ml_dtypes.bfloat16:
        found = found.reshape(64, 128, 2).swapaxes(1, 2)
    found = found.reshape(128, 128)
    np.testing.assert_array_equal(found[:, :16] != 0, (words[0, 0] != 0)[:, None].repeat(16, 1))
    columns = found[:, 16:].copy().view(dtype).astype(np.float32)
    np.testing.assert_array_equal(columns[:6, :3], [[1, 0, 0], [0, 0, 1], [1, 0, 0]] + [[0, 1, 0]] * 3)
    np.testing.assert_array_equal(columns[6:, :3], [[0, 0, 1]] * 122)
    assert not columns[:, 3:].any()


ASKED = ((), ("lse", "mass", "entropy"), STATISTICS)
WIDTHS = (32, 120, 128, 144)
DTYPES = (np.float32, ml_dtypes.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "width", "dtype"), in_part(ASKED, WIDTHS, DTYPES, one_of=8))
def test_as_the_dense_computation_says(asked, width, dtype, rng):
    """With several groups in a block, rows that see nothing, and heads that leave no room."""
    compiled.cache_clear()
    with target.interpreted(Sizes(256, 128, 128, 128)):
        check(masked(rng, width), "mosaic_tpu", dtype, rng, quick=True, statistics=asked)
    compiled.cache_clear()


HOW = {
    "by the matrix unit": {},
    "score by score": {"softcap": 30.0},
    "by position too": {"causal": True},
    "with dropout": {"dropout": (0.2, 3)},
}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "dtype", "garbage"), in_part(tuple(HOW), DTYPES, (np.nan, np.inf), one_of=6))
def test_nothing_of_what_hidden_tokens_hold_gets_out(how, dtype, garbage, rng):
    """Values and gradients are what they are with zeros there; upstream gradients of hidden queries may be bad too."""
    options = dict(HOW[how])
    case = masked(rng)
    if options.pop("causal", False):
        case = dataclasses.replace(case, mask=case.mask.replace(causal=True))
    case = dataclasses.replace(case, **options)
    hidden = {"query": ~case.mask.query_valid, "key": ~case.mask.key_valid, "value": ~case.mask.key_valid}
    values, _, _ = truth(case, np.float64, None)
    cotangents = cotangents_like(values, rng)
    results = []
    for filling in (0, garbage):
        arrays = dict(case.arrays)
        for name, where in hidden.items():
            arrays[name] = np.where(where[:, :, None, None], np.float32(filling), arrays[name])
        upstream = dict(cotangents)
        upstream["output"] = np.where(hidden["query"][:, :, None, None], np.float32(filling), upstream["output"])
        compiled.cache_clear()
        with target.interpreted():
            results.append(run(dataclasses.replace(case, arrays=arrays), "mosaic_tpu", dtype, upstream, quick=True))
    compiled.cache_clear()
    for want, got in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(got, want)
    assert all(jnp.isfinite(one).all() for one in results[1][1].values())
