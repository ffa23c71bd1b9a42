"""What a corruption is, and how a function of frames or of a waveform becomes one.

A row is one clip: the streams of a batch without their batch axis. Functions are written for one row, with the level
as an array, so that one program serves every severity and ``vmap`` serves the batch.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from avjax.streams import Stream

Row = Mapping[str, Stream]
Level = Float[Array, "*parameters"]
Key = jax.Array
Frame = Float[Array, "H W C"]
OfRow = Callable[[Row, Level, Key], Row]
OfStream = Callable[[Stream, Level, Key], Stream]
OfFrame = Callable[[Frame, Level, Key], Frame]
Levels = tuple[int | float | tuple[int | float, ...], ...]
Drawn = Literal["frame", "clip", "nothing"]
Amount = Callable[[Level, Key], Float[Array, ""]]
Motion = tuple[Literal["turn", "speed"], Amount]
"""How content moves and stays what it is, and by how much a row's does: radians by which a frame's content turns from
its rows to its columns, or the factor at which a clip is played."""

RANGE = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Corruption:
    """One corruption and its five severities.

    Attributes:
      name: modality, or "joint", and what it does: "video/fog".
      modalities: the streams that it touches.
      unit: of the levels; where a level has several numbers, of each, separated by commas.
      levels: of the severities 1 to 5.
      what: one line that says what it does.
      drawn: whether its random numbers are new in every frame, the same throughout a clip, or none.
      function: of one row.
      least_rate: audio of fewer samples per second would not be changed by the mildest level.
      motion: of a geometric one.
    """

    name: str
    modalities: tuple[str, ...]
    unit: str
    levels: Levels
    what: str
    drawn: Drawn
    function: OfRow
    least_rate: float = 0.0
    motion: Motion | None = None

    def __post_init__(self) -> None:
        if len(self.levels) != 5:
            raise ValueError(f"{self.name} has {len(self.levels)} levels; a corruption has 5")


def picture(
    name: str, unit: str, levels: Levels, drawn: Drawn, motion: Motion | None = None
) -> Callable[[OfFrame], Corruption]:
    """Makes a corruption of a function of one frame; ``drawn`` says whether each frame has a key of its own."""

    def decorate(function: OfFrame) -> Corruption:
        def of_stream(stream: Stream, level: Level, key: Key) -> Stream:
            if drawn == "frame":
                keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(stream.values)))
                return stream.replace(values=jax.vmap(function, (0, None, 0))(stream.values, level, keys))
            return stream.replace(values=jax.vmap(function, (0, None, None))(stream.values, level, key))

        return _corruption("video", name, unit, levels, drawn, of_stream, _line(function), motion=motion)

    return decorate


def video(name: str, unit: str, levels: Levels, drawn: Drawn) -> Callable[[OfStream], Corruption]:
    """Makes a corruption of a function of a clip's frames."""
    return lambda function: _corruption("video", name, unit, levels, drawn, function, _line(function))


def sound(
    name: str,
    unit: str,
    levels: Levels,
    drawn: Drawn = "nothing",
    least_rate: float = 0.0,
    motion: Motion | None = None,
) -> Callable[[OfStream], Corruption]:
    """Makes a corruption of a function of a waveform."""

    def decorate(function: OfStream) -> Corruption:
        return _corruption("audio", name, unit, levels, drawn, function, _line(function), least_rate, motion)

    return decorate


def named(key: Key, name: str) -> Key:
    """The key of a draw: draws of one name are the same wherever a clip's key is, in both modalities of it."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def uniform(key: Key, name: str, shape: tuple[int, ...] = ()) -> Float32[Array, "*shape"]:
    """Numbers of the draw ``name``, uniform in [0, 1)."""
    return jax.random.uniform(named(key, name), shape, jnp.float32)


def uniform_at(key: Key, name: str, numbers: Int[Array, "*shape"]) -> Float32[Array, "*shape"]:
    """One number uniform in [0, 1) for each whole number, the same wherever that number stands."""
    base = named(key, name)
    flat = numbers.reshape(-1).astype(jnp.uint32)
    return jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(base, number)))(flat).reshape(numbers.shape)


def times(stream: Stream) -> Float32[Array, " T"]:
    """Seconds from the start of the clip to each element."""
    return stream.start + jnp.arange(len(stream.valid), dtype=jnp.float32) / stream.rate


def swell(key: Key, name: str, seconds: Float32[Array, " T"], low: float, high: float) -> Float32[Array, " T"]:
    """A smooth random curve in [0, 1]: four sines between so many Hz; a function of time, so streams share it."""
    octave, phase = uniform(key, name, (2, 4, 1))
    return 0.5 + 0.5 * jnp.sin(2 * jnp.pi * (low * (high / low) ** octave * seconds + phase)).mean(0)


def _corruption(
    modality: str,
    name: str,
    unit: str,
    levels: Levels,
    drawn: Drawn,
    function: OfStream,
    what: str,
    least_rate: float = 0.0,
    motion: Motion | None = None,
) -> Corruption:
    def of_row(row: Row, level: Level, key: Key) -> Row:
        return {**row, modality: _guarded(modality, row[modality], level, key, function)}

    return Corruption(f"{modality}/{name}", (modality,), unit, levels, what, drawn, of_row, least_rate, motion)


def _guarded(modality: str, stream: Stream, level: Level, key: Key, function: OfStream) -> Stream:
    """Applies the function to what is valid, as float32 with 0 elsewhere; the rest, range and type stay."""
    there = _beside(stream.valid, stream.values)
    clean = stream.replace(values=jnp.where(there, stream.values, 0).astype(jnp.float32))
    found = function(clean, level, key)
    values = jnp.clip(found.values, *RANGE[modality]).astype(stream.values.dtype)
    return stream.replace(values=jnp.where(there, values, stream.values), valid=stream.valid & found.valid)


def _beside(valid: Array, values: Array) -> Array:
    return valid.reshape(valid.shape + (1,) * (values.ndim - 1))


def _line(function: Callable) -> str:
    """The first line of a function's docstring, which is what the report says of a corruption."""
    return (function.__doc__ or function.__name__).strip().splitlines()[0]
