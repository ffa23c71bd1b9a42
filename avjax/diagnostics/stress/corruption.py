"""The suite of corruptions, and how clips are corrupted: raw waveform and frames, before the front end.

Severity 0 is the clip as it was. Random numbers follow from (seed, number of the clip, name of the corruption), so a
clip comes out the same in any batch and any order; its severities share their draws, so that they differ in severity
alone. What is not valid is untouched; a corruption may make more of a clip invalid, and never less.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer

from avjax.diagnostics.compiled import compiled
from avjax.diagnostics.measured import Undefined
from avjax.diagnostics.stress.blur import BLUR
from avjax.diagnostics.stress.channel import CHANNEL
from avjax.diagnostics.stress.frames import FRAMES
from avjax.diagnostics.stress.joint import JOINT
from avjax.diagnostics.stress.picture import PICTURE
from avjax.diagnostics.stress.rows import Corruption, Level
from avjax.diagnostics.stress.sound import SOUND
from avjax.diagnostics.stress.weather import WEATHER
from avjax.streams import Stream

__all__ = ["SUITE", "Corruption", "corrupted", "motion", "unchanged"]

Streams = Mapping[str, Stream]

SUITE: Mapping[str, Corruption] = MappingProxyType(
    {one.name: one for one in (*PICTURE, *BLUR, *WEATHER, *FRAMES, *SOUND, *CHANNEL, *JOINT)}
)
AXES = {"audio": "[B, S]", "video": "[B, T, H, W, C]"}


def corrupted(
    streams: Streams, name: str, severity: int, *, seed: int, index: Int[np.ndarray, " B"] | Integer[Array, " B"]
) -> Streams:
    """The clips under a corruption; of NumPy arrays where they are, of JAX's where they are.

    Raises ``Undefined`` where the corruption cannot be applied: a stream that is not there or holds features, or sound
    of so low a rate that the mildest level would change nothing.

    Args:
      severity: 0, which is no corruption, to 5.
      index: number of each clip in its split.
    """
    corruption = SUITE[name]
    if severity not in range(6):
        raise ValueError(f"severity {severity} of {name}: there are 1 to 5, and 0, which is the clip as it is")
    _applicable(corruption, streams)
    if severity == 0:
        return dict(streams)
    level = jnp.asarray(corruption.levels[severity - 1], jnp.float32)
    touched = {modality: streams[modality] for modality in corruption.modalities}
    on_host = all(isinstance(stream.values, np.ndarray) for stream in touched.values())
    # Streams of JAX may be those of a program that is being traced.
    program = _compiled_rows() if on_host else _rows
    found = program(touched, level, jnp.asarray(index).astype(jnp.uint32), jnp.uint32(seed), name=name)
    return dict(streams) | {
        modality: jax.tree.map(np.asarray, stream) if isinstance(touched[modality].values, np.ndarray) else stream
        for modality, stream in found.items()
    }


def motion(
    name: str, severity: int, *, seed: int, index: Int[np.ndarray, " B"]
) -> tuple[str, Float[np.ndarray, " B"]] | None:
    """How a geometric corruption moves the content of each clip: the kind of ``rows.Motion``, and by how much.

    None of a corruption that leaves content where it is, and at severity 0.
    """
    if SUITE[name].motion is None or severity == 0:
        return None
    kind, amount = SUITE[name].motion
    level = jnp.asarray(SUITE[name].levels[severity - 1], jnp.float32)
    key = _key(jnp.uint32(seed), name)
    numbers = jnp.asarray(index).astype(jnp.uint32)
    return kind, np.asarray(jax.vmap(lambda number: amount(level, jax.random.fold_in(key, number)))(numbers))


def unchanged(before: Streams, after: Streams) -> dict[str, Bool[np.ndarray, " B"]]:
    """Modality -> clips in which it came out as it was: silence under noise, or a stream that is missing.

    To be counted and said beside a result, since they make a model look robust.
    """
    same = {}
    for modality, stream in before.items():
        values, valid = np.asarray(stream.values), np.asarray(stream.valid)
        other, left = np.asarray(after[modality].values), np.asarray(after[modality].valid)
        there = valid.reshape(valid.shape + (1,) * (values.ndim - 2))
        equal = (values == other) | ~there
        same[modality] = equal.reshape(len(valid), -1).all(1) & (valid == left).all(1)
    return same


def _key(seed: Array, name: str) -> Array:
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def _of_rows(streams: Streams, level: Level, index: Array, seed: Array, *, name: str) -> Streams:
    """Every row by itself; the level is an argument, so that one program serves all severities."""
    key = _key(seed, name)

    def row(streams: Streams, number: Array) -> Streams:
        return SUITE[name].function(streams, level, jax.random.fold_in(key, number))

    return jax.vmap(row)(streams, index)


_rows = jax.jit(_of_rows, static_argnames="name")


@functools.cache
def _compiled_rows() -> Callable[..., Streams]:
    return compiled(_of_rows, static_argnames="name")


def _applicable(corruption: Corruption, streams: Streams) -> None:
    for modality in corruption.modalities:
        if modality not in streams:
            raise Undefined(f"{corruption.name} changes {modality}, and the clips have {', '.join(streams)}")
        stream = streams[modality]
        if stream.values.ndim != {"audio": 2, "video": 5}[modality]:
            raise Undefined(
                f"{corruption.name} changes {modality} {AXES[modality]} before the front end; this one holds features "
                f"{stream.values.shape}"
            )
        if modality == "audio" and stream.rate < corruption.least_rate:
            raise Undefined(
                f"{corruption.name} begins at {corruption.levels[0]} {corruption.unit}, which changes nothing in sound "
                f"of {stream.rate:g} Hz: it takes {corruption.least_rate:g} Hz"
            )
