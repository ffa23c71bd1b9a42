"""Both halves of a joint corruption are those that stand alone, and what they share happens at one time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from avjax.diagnostics.stress import ambience, channel, joint
from avjax.diagnostics.stress.corruption import SUITE
from avjax.diagnostics.stress.rows import swell, times
from avjax.streams import Stream
from tests.models import tiny

NAMES = (
    "gaussian", "impulse", "shot", "speckle", "compression", "snow", "frost", "spatter", "wind", "rain", "underwater",
    "concert", "smoke", "crowd", "interference",
)  # fmt: skip


def clip(samples: int = 16_000, frames: int = 40, start: float = 0.0) -> dict[str, Stream]:
    audio = jnp.full(samples, 0.25), jnp.ones(samples, bool)
    video = jnp.full((frames, 8, 8, 3), 0.5), jnp.ones(frames, bool)
    return {
        "audio": Stream(*audio, jnp.zeros(()), 4000.0),
        "video": Stream(*video, jnp.float32(start), 10.0),
    }


def test_the_suites():
    assert tuple(one.name for one in joint.JOINT) == tuple(f"joint/{name}" for name in NAMES)
    for one in joint.JOINT:
        assert one.name in SUITE
        assert one.unit.startswith("video: ")
        assert len({len(level) for level in one.levels}) == 1
    # The levels of both halves, and the published errors: SNR in dB and falling, a cut-off below Nyquist.
    assert [level[-1] for level in SUITE["joint/gaussian"].levels] == [40, 30, 20, 10, 0]
    assert SUITE["joint/compression"].levels[0] == (25, 6000)
    assert SUITE["joint/frost"].levels[4] == (0.6, 0.8, 0)


def test_interference_is_in_both_at_one_time():
    """A frame is black where the sound at its moment is gone, also of a stream that begins later."""
    interference, level = SUITE["joint/interference"], jnp.array([0.3, 0.3])
    for start in (0.0, 0.35):
        found = tiny.jit(interference.function)(clip(start=start), level, jax.random.key(3))
        moments = np.round((start + np.arange(36) / 10) * 4000).astype(int)
        silent = np.asarray(found["audio"].values) == 0
        black = np.asarray(found["video"].values)[:36].max((1, 2, 3)) == 0
        # A frame within a sample of an edge may fall on either side.
        agree = black == silent[moments]
        assert agree.sum() >= 35
        assert 0 < black.mean() < 1


def test_halves_are_what_stands_alone():
    both, key = SUITE["joint/interference"], jax.random.key(1)
    found = tiny.jit(both.function)(clip(), jnp.array([0.3, 0.2]), key)
    alone = tiny.jit(channel.dropout.function)(clip(), jnp.float32(0.2), key)
    np.testing.assert_array_equal(found["audio"].values, alone["audio"].values)


def test_what_changes_slowly_is_one_function_of_time():
    """Gusts, beats and the like, seen at the frames' moments and heard at the samples'."""
    parts, key = clip(), jax.random.key(2)
    seen, heard = (
        np.asarray(tiny.jit(lambda one: swell(key, "gusts", times(one), 0.2, 1.5))(parts[name]))
        for name in ("video", "audio")
    )
    np.testing.assert_allclose(seen, heard[:: 4000 // 10], atol=1e-5)
    assert 0 <= seen.min() < seen.max() <= 1
    assert 1.5 <= float(ambience.tempo(key)) < 2.5
