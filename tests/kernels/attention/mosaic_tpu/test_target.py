"""Targets, and the sizes of blocks for them."""

from __future__ import annotations

import pytest

from kernels.attention.mosaic_tpu import target
from kernels.attention.mosaic_tpu.target import DEFAULT, DIRECTIONS, TARGETS, Shape, Target
from kernels.attention.mosaic_tpu.tile import Sizes


@pytest.mark.parametrize(
    ("queries", "keys", "fixed", "expected"),
    [
        # Whole blocks, a part of one, and fewer tokens than a vector.
        (1024, 1024, (512, 512, 256, 128), (512, 512, 256, 128)),
        (1978, 600, (512, 512, 256, 128), (512, 384, 256, 128)),
        (750, 1500, (512, 256, 256, 128), (512, 256, 256, 128)),
        (7, 300, (512, 512, 256, 256), (128, 512, 128, 256)),
        (129, 129, (1024, 1024, 128, 128), (256, 256, 128, 128)),
    ],
)
def test_blocks_are_no_larger_than_the_arrays(queries, keys, fixed, expected):
    found = Target("v5e", fixed=Sizes(*fixed)).sizes("forward", Shape(queries, keys, 64, "bfloat16"))
    assert found == expected
    assert found.rows % found.row_chunk == 0
    assert found.columns % found.column_chunk == 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_target_has_sizes_for_the_usual_heads(name, direction):
    shape = Shape(1978, 1978, 64, "bfloat16")
    assert any(entry["direction"] == direction for entry in target.entries(name))
    assert Target(name).sizes(direction, shape).rows >= 256


def test_a_shape_that_no_entry_is_for_gets_the_default():
    assert target.tuned("v5e", "forward", Shape(600, 600, 256, "bfloat16")) == DEFAULT
    assert target.tuned("another", "forward", Shape(600, 600, 64, "bfloat16")) == DEFAULT


def test_the_target_is_chosen_within_and_no_longer():
    assert target.current() is None
    with target.compiling_for(Target("v6e")):
        assert target.current() == Target("v6e")
        with target.interpreted():
            assert target.current().interpret is True
        assert target.current() == Target("v6e")
    assert target.current() is None
