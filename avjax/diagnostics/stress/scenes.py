"""What goes on in front of the camera while something is heard: the moving pictures of the joint corruptions. Ours."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from avjax.diagnostics.stress.ambience import gusts, tempo
from avjax.diagnostics.stress.channel import gaps
from avjax.diagnostics.stress.fields import places, sampled, scale
from avjax.diagnostics.stress.rows import Key, Level, swell, times, uniform, uniform_at, video
from avjax.streams import Stream

HEADS = 8


@video("shaking", "pixels of 224", (3, 6, 9, 12, 16), "clip")
def shaking(stream: Stream, level: Level, key: Key) -> Stream:
    """A camera that the wind shakes, by up to so much in each direction, with its gusts."""
    seconds = times(stream)
    reach = 2 * level * scale(stream.values[0]) * gusts(stream, key)
    down, right = (reach * (swell(key, name, seconds, 2.0, 8.0) - 0.5) for name in ("down", "right"))
    rows, columns = places(stream.values[0])
    moved = jax.vmap(lambda frame, row, column: sampled(frame, rows + row, columns + column))
    return stream.replace(values=moved(stream.values, down, right))


@video("lights", "share", (0.2, 0.35, 0.5, 0.65, 0.8), "clip")
def lights(stream: Stream, level: Level, key: Key) -> Stream:
    """A dark stage under coloured lights that flash at each beat of the music."""
    beat = tempo(key) * times(stream)
    channels = stream.values.shape[-1]
    number = jnp.floor(beat).astype(jnp.int32)[:, None] * channels + jnp.arange(channels)
    light = uniform_at(key, "lights", number) * jnp.exp(-3 * (beat % 1))[:, None]
    light = light[:, None, None] * (0.3 + 0.7 * stream.values)
    return stream.replace(values=(1 - level) * stream.values + level * light)


@video("heads", "share of the height", (0.1, 0.2, 0.3, 0.4, 0.5), "clip")
def heads(stream: Stream, level: Level, key: Key) -> Stream:
    """Eight dark heads that sway at the lower edge, up to about so high."""
    height, width = stream.values.shape[1:3]
    seconds = times(stream)
    spread, tall = uniform(key, "heads", (2, HEADS))
    sway = jax.vmap(lambda one: swell(one, "sway", seconds, 0.3, 1.0))(jax.random.split(key, HEADS)) - 0.5
    middle = ((jnp.arange(HEADS) + spread) / HEADS)[:, None] + 0.05 * sway
    top = 1 - level * (0.8 + 0.4 * tall)[:, None, None, None]
    across = (jnp.arange(width) + 0.5) / width - middle[..., None, None]
    down = (((jnp.arange(height) + 0.5) / height)[:, None]) - top
    # A parabola: the crown of a head, and shoulders below it. One pixel of soft edge.
    inside = (down - 30 * across**2) * height
    mask = jnp.clip(inside + 0.5, 0, 1).max(0)[..., None]
    return stream.replace(values=stream.values + mask * (0.08 - stream.values))


@video("blackout", "share of the time", (0.1, 0.2, 0.3, 0.4, 0.5), "clip")
def blackout(stream: Stream, level: Level, key: Key) -> Stream:
    """Black frames once in every two seconds."""
    return stream.replace(values=jnp.where(gaps(stream, level, key)[:, None, None, None], 0, stream.values))
