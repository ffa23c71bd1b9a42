"""Which frames the pictures of Kim and Won's model are made of."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.kim_won import Config, Images, frame_at, grid
from avjax.nn.encoders import FrameConv

# The contract (test_systems.py) is the quick part.
pytestmark = pytest.mark.slow


def numbered(steps: int, size: int = 1) -> jnp.ndarray:
    """Frame t is t everywhere."""
    return jnp.broadcast_to(jnp.arange(steps, dtype=jnp.float32)[None, :, None, None, None], (1, steps, size, size, 1))


@pytest.mark.parametrize(
    ("valid", "want"),
    [([1, 1, 1, 1, 1], 2), ([1, 1, 1, 1], 2), ([0, 0, 1, 1, 1], 3), ([1, 0, 0, 0, 1], 4), ([0, 1, 0], 1), ([0, 0], 0)],
)
def test_the_spatial_frame_is_the_middle_valid_one(valid, want):
    valid = jnp.asarray([valid], bool)
    assert frame_at(numbered(valid.shape[1]), valid, 0, 1)[0, 0, 0, 0] == want


def test_the_temporal_image_has_nine_frames_in_order():
    """Of 18 frames the second of every two, row by row, each in its cell."""
    image = np.asarray(grid(numbered(18, 2), jnp.ones((1, 18), bool), 6, 6))[0, :, :, 0]
    np.testing.assert_array_equal(image[::2, ::2], np.arange(1, 18, 2).reshape(3, 3))
    # Of the last nine alone, each one.
    image = np.asarray(grid(numbered(18, 2), jnp.arange(18)[None] >= 9, 6, 6))[0, :, :, 0]
    np.testing.assert_array_equal(image[::2, ::2], np.arange(9, 18).reshape(3, 3))


def test_the_shared_encoder_has_as_many_pictures_as_the_modalities():
    encoder = FrameConv("picture", (2, 8, 8, 3), cells=True)
    with pytest.raises(ValueError, match="3 pictures"):
        Config((Images("audio", (8, 6), encoder), Images("video", (3, 4, 4, 3), encoder)), {"action": 3})
