"""The shape table: complete, and its arrays fit attention."""

from __future__ import annotations

import jax
import pytest

from kernels.attention import attention
from kernels.attention.specs import SPECS, TABLE


def test_names_are_unique():
    assert len(TABLE) == len(SPECS)


@pytest.mark.parametrize("name", TABLE)
def test_arrays_fit_attention(name):
    """Traced only, so that 64k tokens cost nothing."""
    spec = TABLE[name]
    arrays = jax.eval_shape(lambda: spec.arrays(2))
    attended = jax.eval_shape(
        lambda query, key, value: attention(query, key, value, mask=spec.mask(), statistics=("mass",)), **arrays
    )
    width = spec.value_width or spec.width
    assert attended.output.shape == (2, spec.queries.length, spec.heads, width)
    assert attended.statistics["mass"].shape == (2, spec.heads, spec.queries.length, len(spec.keys.names))
    assert {name: array.shape for name, array in arrays.items()} == spec.shapes(2)


def test_the_table_covers_what_models_need():
    """Bottleneck fusion, cross-attention, grouped queries, odd lengths, narrow heads, and long video."""
    assert TABLE["mbt_audioset"].queries.lengths == (401, 4, 4, 1569)
    assert (TABLE["avsr_cross"].queries.length, TABLE["avsr_cross"].keys.length) == (750, 1500)
    assert (TABLE["gqa"].heads, TABLE["gqa"].shared) == (12, 4)
    assert {7, 129, 1573} <= {spec.queries.length for spec in SPECS}
    assert {4, 32, 64} <= {spec.width for spec in SPECS}
    assert {2**14, 2**16} == {spec.tokens for spec in SPECS if spec.long}
